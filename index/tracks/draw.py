"""A picture of the tracks of each sequence, over the scene without what moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from index.pictures.images import median_image, spread
from index.pictures.style import PAPER
from index.pictures.tracks import draw_tracks
from index.tracks.linked import Linked
from index.tracks.motchallenge import file_names
from index.tracks.scenes import Scenes

MAX_SIDE_PX = 2000
_SCENE_OF = 25  # images: more make no better a median

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        files: the pictures.
        missing: images that a scene was to be made of and that could not be read, by reason.
        blank: sequences over an empty scene, because none of theirs could be read.
    """

    files: list[str]
    missing: dict[str, int]
    blank: int


def draw_run(
    run: Path,
    out: Path,
    *,
    sequence: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Drawn:
    """Draw the tracks of every sequence of a linked run, or of one, as ``out/NAME.png``.

    Args:
        run: a linked run.
        out: the folder; pictures of the same name are replaced.
        sequence: this one alone.
        progress: called with sequences drawn and sequences to draw.

    Raises:
        RunError, VerifyError: the run is not linked, or not as its manifests say.
        InputError: there is no such sequence.
    """
    linked = Linked.open(run)
    names = file_names(linked.sequences)
    chosen = (linked if sequence is None else linked.only(sequence)).sequences
    out.mkdir(parents=True, exist_ok=True)
    files, blank = [], 0
    missing: Counter[str] = Counter()
    for done, name in enumerate(chosen, start=1):
        with closing(Scenes(linked.run.root, MAX_SIDE_PX)) as scenes:
            image, empty = _drawn(linked.of(name), name, scenes)
        missing.update(scenes.missing)
        blank += empty
        file = out / f"{names[name]}.png"
        image.save(file)
        files.append(str(file))
        progress(done, len(chosen))
    return Drawn(files, dict(missing), blank)


def _drawn(linked: Linked, name: str, scenes: Scenes) -> tuple[Image.Image, bool]:
    scene, scale, empty = _scene(linked, scenes)
    tracked, rows = linked.tracked()
    ids = linked.rows["track_id"].to_pylist()
    shown = dict(zip(tracked.ids.tolist(), (ids[row] for row in rows), strict=True))
    alone = linked.rows.num_rows - len(rows)
    image = draw_tracks(
        scene,
        frames=tracked.frames,
        boxes=tracked.boxes * scale,
        tracks=[shown[number] for number in tracked.ids.tolist()],
        title=f"{name}: {len(shown)} tracks, {len(rows)} boxes"
        + (f", {alone} in none" if alone else ""),
    )
    return image, empty


def _scene(linked: Linked, scenes: Scenes) -> tuple[Image.Image, float, bool]:
    """What the tracks are drawn over, how far it is reduced, and whether it is empty."""
    images = pc.unique(linked.rows["image"]).to_pylist()
    found: dict[tuple[int, int], list[tuple[Image.Image, float]]] = {}
    for place in spread(len(images), _SCENE_OF):
        read = scenes.read(images[place])
        if read is not None:
            found.setdefault(read[0].size, []).append(read)
    if not found:
        far = np.nan_to_num(linked.boxes[:, 2:]).max(axis=0, initial=1)
        scale = min(1.0, MAX_SIDE_PX / far.max())
        size = (max(1, int(far[0] * scale)), max(1, int(far[1] * scale)))
        return Image.new("RGB", size, PAPER), scale, True
    usual = max(found.values(), key=len)
    return median_image([image for image, _ in usual]), usual[0][1], False
