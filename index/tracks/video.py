"""An annotated video of one sequence: every frame of the run, with what was linked drawn on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from cluster.errors import InputError
from index.linking.linker import by_frame, frame_step
from index.pictures.encode import encode
from index.pictures.frames import Shown, annotate
from index.pictures.style import GREY, Colour, colours
from index.tracks.linked import Floats, Ints, Linked
from index.tracks.scenes import Scenes
from pipelines.video.layout import parse_frame

MAX_SIDE_PX = 1920
FPS_OF_IMAGES = 4.0
TAIL = 40  # places of a path that are shown
_GONE = (190, 190, 190)  # the colour of a frame whose image is gone

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Filmed:
    """What was written.

    Attributes:
        file: the video.
        sequence: that it shows.
        frames, tracks: in it.
        fps: frames a second.
        codec: that it is written in.
        size: width and height in pixels.
        missing: frames shown grey because their image could not be read, by reason.
    """

    file: str
    sequence: str
    frames: int
    tracks: int
    fps: float
    codec: str
    size: tuple[int, int]
    missing: dict[str, int]


@dataclass(frozen=True)
class _Track:
    """One track: its rows in order, its colour, what it is called, its first and last frame."""

    name: str
    tint: Colour
    rows: Ints
    first: int
    last: int


def film_run(
    run: Path,
    out: Path,
    *,
    sequence: str | None = None,
    fps: float | None = None,
    progress: Progress = lambda done, total: None,
) -> Filmed:
    """Write the annotated video of one sequence of a linked run.

    Args:
        run: a linked run.
        out: an ``.mp4`` file; one that stands there is replaced when the new one is whole.
        sequence: which; needed where the run has several.
        fps: frames a second; default: as fast as it was, for frames of a video, else 4.
        progress: called with frames written and frames to write.

    Raises:
        RunError, VerifyError: the run is not linked, or not as its manifests say.
        InputError: no such sequence, several and none chosen, or ``out`` is no ``.mp4``.
        WorkError: FFmpeg cannot write it.
    """
    if out.suffix.lower() != ".mp4" or out.is_dir():
        raise InputError(f"--out {out}: give a file that ends in .mp4")
    linked = Linked.open(run, sequence)
    if len(linked.sequences) > 1:
        shown = ", ".join(map(repr, linked.sequences[:5]))
        more = ", …" if len(linked.sequences) > 5 else ""
        raise InputError(
            f"{run} has {len(linked.sequences)} sequences and a video shows one; choose it with "
            f"--sequence: {shown}{more}"
        )
    frames = by_frame(linked.frames)
    rate = Fraction(fps or _natural_fps(linked)).limit_denominator(1000)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.stem}.{os.getpid()}.mp4")
    tracks = _tracks(linked)
    try:
        with closing(Scenes(linked.run.root, MAX_SIDE_PX)) as scenes:
            drawn = _frames(linked, frames, tracks, scenes)
            codec, size = encode(draft, drawn, rate, lambda done: progress(done, len(frames)))
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return Filmed(
        file=str(out),
        sequence=linked.sequences[0],
        frames=len(frames),
        tracks=len(tracks),
        fps=float(rate),
        codec=codec,
        size=size,
        missing=dict(scenes.missing),
    )


def _natural_fps(linked: Linked) -> float:
    """How fast the run's frames were filmed; photos are no film."""
    names = [parse_frame(image) for image in pc.unique(linked.rows["image"]).to_pylist()]
    if names[0] is None or names[0].clip is not None:  # a file of tensors does not say
        return FPS_OF_IMAGES
    from pipelines.images import ImageError
    from pipelines.video.container import examine

    try:
        rate = examine(linked.run.image_path(names[0].file)).fps
    except ImageError:
        rate = None
    step = frame_step(np.array([name.frame for name in names if name is not None]))
    return max(1.0, rate / step) if rate else FPS_OF_IMAGES


def _tracks(linked: Linked) -> list[_Track]:
    """Longest first, so that the clearest colours go to them."""
    tracked, rows = linked.tracked()
    ids = linked.rows["track_id"].to_pylist()
    order = np.lexsort([tracked.frames, tracked.ids])
    cuts = np.flatnonzero(np.diff(tracked.ids[order])) + 1
    members = [part for part in np.split(rows[order], cuts) if len(part)]
    members.sort(key=lambda part: (-len(part), ids[part[0]]))
    tints = [
        tint if len(part) > 1 else GREY
        for tint, part in zip(colours(len(members)), members, strict=True)
    ]
    return [
        _Track(
            name=ids[part[0]].rpartition(":")[2].lstrip("0") or "0",
            tint=tint,
            rows=part,
            first=int(linked.frames[part[0]]),
            last=int(linked.frames[part[-1]]),
        )
        for part, tint in zip(members, tints, strict=True)
    ]


def _frames(
    linked: Linked, frames: list[slice], tracks: list[_Track], scenes: Scenes
) -> Iterator[Image.Image]:
    """Every frame as it is to be seen, all of one size with even sides."""
    images = linked.rows["image"].to_pylist()
    failed = linked.rows["error"].is_valid().to_numpy()
    step = frame_step(linked.frames)
    size = None
    waiting: list[int] = []  # frames before the first image that can be read: its size is theirs
    for place, rows in enumerate(frames):
        read = scenes.read(images[rows.start])
        if size is None and read is None:
            waiting.append(place)
            continue
        if size is None and read is not None:
            size = _even(read[0].size)
            for before in waiting:
                yield _frame(linked, frames[before], tracks, failed, None, size, step)
        assert size is not None
        yield _frame(linked, rows, tracks, failed, read, size, step)
    if size is None:  # not one image: as large as the boxes reach
        far = np.nan_to_num(linked.boxes[:, 2:]).max(axis=0, initial=2)
        size = _even(tuple((far * min(1.0, MAX_SIDE_PX / far.max())).astype(int).tolist()))
        for rows in frames:
            yield _frame(linked, rows, tracks, failed, None, size, step)


def _frame(
    linked: Linked,
    rows: slice,
    tracks: list[_Track],
    failed: np.ndarray,
    read: tuple[Image.Image, float] | None,
    size: tuple[int, int],
    step: int,
) -> Image.Image:
    canvas = Image.new("RGB", size, _GONE)
    if read is None:
        far = np.nan_to_num(linked.boxes[:, 2:]).max(axis=0, initial=1)
        scale, offset = min(1.0, *(np.array(size) / far).tolist()), np.zeros(2)
    else:
        image, reduced = read
        fit = min(1.0, size[0] / image.width, size[1] / image.height)
        if fit < 1 and (image.width - size[0] > 1 or image.height - size[1] > 1):
            image = image.resize((max(1, int(image.width * fit)), max(1, int(image.height * fit))))
            reduced *= fit
        left, top = max(0, (size[0] - image.width) // 2), max(0, (size[1] - image.height) // 2)
        canvas.paste(image, (left, top))
        offset = np.array([left, top], dtype=np.float64)
        scale = reduced
    frame = int(linked.frames[rows.start])
    shown = list(_shown(linked, frame, tracks, scale, offset, step))
    lone = [
        row for row in range(rows.start, rows.stop) if not linked.in_track[row] and not failed[row]
    ]
    for row in lone:
        box = linked.boxes[row] * scale + np.tile(offset, 2)
        shown.append(Shown("", GREY, box, True, np.empty((0, 2)), np.empty(0, dtype=bool)))
    here = sum(one.here and bool(one.name) for one in shown)
    words = [f"frame {frame}", f"{here} track{'' if here == 1 else 's'}"]
    lost = sum(not one.here for one in shown)
    errors = int(failed[rows].sum())
    words += [f"{lost} lost"] * bool(lost) + [f"{len(lone)} in no track"] * bool(lone)
    words += [f"{errors} with errors"] * bool(errors) + ["image is gone"] * (read is None)
    annotate(canvas, shown, "  ".join(words))
    return canvas


def _shown(
    linked: Linked, frame: int, tracks: list[_Track], scale: float, offset: Floats, step: int
) -> Iterator[Shown]:
    """Tracks that are in this frame, or have been and will be again."""
    for track in reversed(tracks):  # the longest on top
        if not track.first <= frame <= track.last:
            continue
        frames = linked.frames[track.rows]
        seen = int(np.searchsorted(frames, frame, side="right"))
        last = track.rows[max(0, seen - TAIL) : seen]
        boxes = linked.boxes[last] * scale + np.tile(offset, 2)
        yield Shown(
            name=track.name,
            tint=track.tint,
            box=boxes[-1],
            here=bool(frames[seen - 1] == frame),
            tail=(boxes[:, :2] + boxes[:, 2:]) / 2,
            missed=np.diff(linked.frames[last]) > step,
        )


def _even(size: tuple[int, ...]) -> tuple[int, int]:
    return max(2, size[0] - size[0] % 2), max(2, size[1] - size[1] % 2)
