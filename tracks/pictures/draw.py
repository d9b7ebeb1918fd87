"""A picture of the tracks of each sequence, over the median of its images.

A track is a line through its box centres, thin where frames are missing, with box and name at its
end.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageOps

from common.moved import Pairs
from tracks.association.frames import frame_step
from tracks.linked_run import LinkedRun, Progress
from tracks.motchallenge import file_names
from tracks.pictures.annotate import Annotator, Pixels
from tracks.pictures.scenes import RunImages

SIDE_PX = 1600  # the longer side of a picture
NAMED = 30  # tracks with a colour and a name; shorter ones are thin and grey
_BACKGROUND_IMAGES = 25  # more do not improve the median


@dataclass(frozen=True)
class DrawSummary:
    """The pictures of a run."""

    files: list[str]  # paths of the pictures
    missing: dict[str, int]  # number of images for the background that could not be read, by reason
    blank: int  # sequences on a white background, because none of their images could be read


def draw_run(
    run: Path,
    out: Path,
    *,
    sequence: str | None = None,
    pairs: Pairs = (),
    progress: Progress = lambda done, total: None,
) -> DrawSummary:
    """Draw the tracks of every sequence of a linked run, or of one, as ``out/NAME.png``.

    Args:
        run: a linked run.
        out: the folder; pictures of the same name are replaced.
        sequence: this one alone.
        pairs: of folders of images that were moved.
        progress: called with the number of sequences drawn and of all sequences.

    Raises:
        RunError: the run is not linked.
        VerifyError: its tracks differ from their manifest.
        InputError: there is no such sequence.
    """
    linked = LinkedRun.open(run, pairs=pairs)
    file_name_of = file_names(linked.sequences)
    sequences = (linked if sequence is None else linked.only(sequence)).sequences
    out.mkdir(parents=True, exist_ok=True)
    files, blank = [], 0
    missing: Counter[str] = Counter()
    for done, name in enumerate(sequences, start=1):
        with closing(RunImages(linked.run.images)) as images:
            picture, is_blank = draw_sequence(linked.of(name), name, images)
        missing.update(images.missing)
        blank += is_blank
        file = out / f"{file_name_of[name]}.png"
        picture.save(file)
        files.append(str(file))
        progress(done, len(sequences))
    return DrawSummary(files, dict(missing), blank)


def draw_sequence(linked: LinkedRun, name: str, images: RunImages) -> tuple[Image.Image, bool]:
    """Draw one sequence.

    Args:
        linked: its detections and tracks.
        name: that the caption has.
        images: of the run.

    Returns:
        The picture, and whether its background is blank.
    """
    image, scale, blank = _background(linked, images)
    tracks, rows, names = linked.longest_first()
    boxes, frames = linked.boxes[rows] * scale, linked.frames[rows]
    annotator = Annotator((image.shape[1], image.shape[0]))
    step, ends = frame_step(linked.frames), np.zeros(len(names), dtype=np.int64)
    order = np.argsort(tracks, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(tracks[order])) + 1) if len(order) else []
    for track, boxes_of in reversed(list(enumerate(members))):  # the longest on top
        ends[track], colour = boxes_of[-1], track if track < NAMED else None
        centres = (boxes[boxes_of, :2] + boxes[boxes_of, 2:]) / 2
        annotator.path(image, centres, colour, thin=True)
        for part in np.split(centres, np.flatnonzero(np.diff(frames[boxes_of]) > step) + 1):
            annotator.path(image, part, colour, thin=colour is None)
    ends = ends[:NAMED]
    annotator.tracks(
        image, boxes[ends], tracks[ends], names[:NAMED], np.zeros(len(ends), dtype=bool)
    )
    alone = linked.rows.num_rows - len(rows)
    text = f"{name}: {len(names)} tracks, {len(rows)} boxes" + (f", {alone} in none" * bool(alone))
    annotator.caption(image, text)
    return Image.fromarray(image[..., ::-1]), blank


def _background(linked: LinkedRun, images: RunImages) -> tuple[Pixels, float, bool]:
    """The background, its pixels per pixel of the images, and whether it is blank."""
    names = pc.unique(linked.rows["image"]).to_pylist()
    by_size: dict[tuple[int, int], list[Image.Image]] = {}
    sample = np.linspace(0, len(names) - 1, _BACKGROUND_IMAGES).astype(int)
    for number in np.unique(sample).tolist():
        image = images.read(names[number])
        if image is not None:
            reduced = ImageOps.contain(image.convert("L"), (SIDE_PX, SIDE_PX))
            by_size.setdefault(image.size, []).append(reduced)
    if not by_size:
        scale = SIDE_PX / max(linked.extent)
        width, height = (max(1, round(side * scale)) for side in linked.extent)
        return np.full((height, width, 3), 255, dtype=np.uint8), scale, True
    size, most = max(by_size.items(), key=lambda item: len(item[1]))
    median = np.median(np.stack([np.asarray(image) for image in most]), axis=0)
    pale = (64 + 0.75 * median).astype(np.uint8)
    return np.repeat(pale[..., None], 3, axis=2), SIDE_PX / max(size), False
