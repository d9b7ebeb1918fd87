"""An annotated video of one sequence: every frame of the run, with what was linked drawn on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from PIL import ImageOps

from common.errors import InputError, WorkError, first_line
from index.vectors import Floats, Ints
from pipelines.frame_names import parse_frame
from tracks.association.linker import by_frame, frame_step
from tracks.linked import Linked, Progress
from tracks.pictures.annotate import Annotator, Pixels
from tracks.pictures.scenes import Scenes

if TYPE_CHECKING:
    from av.video.stream import VideoStream

MAX_SIDE_PX = 1920
FPS_OF_IMAGES = 4.0
TAIL = 40  # frames of a path that are shown
_GONE = 190  # the grey of a frame whose image is gone


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
    size = _size(linked)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.stem}.{os.getpid()}.mp4")
    tracks = linked.longest_first()
    try:
        with closing(Scenes(linked.run.root)) as scenes:
            images = _annotated(linked, frames, tracks, size, scenes)
            codec = encode(draft, images, size, rate, lambda done: progress(done, len(frames)))
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return Filmed(
        file=str(out),
        sequence=linked.sequences[0],
        frames=len(frames),
        tracks=len(tracks[2]),
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
    from pipelines.images.pixels import ImageError
    from pipelines.images.video import read_video_info

    try:
        rate = read_video_info(linked.run.image_path(names[0].file)).fps
    except ImageError:
        rate = None
    step = frame_step(np.array([name.frame for name in names if name is not None]))
    return max(1.0, rate / step) if rate else FPS_OF_IMAGES


def _size(linked: Linked) -> tuple[int, int]:
    """That of the first image that can be read, else how far boxes reach; even, as videos need."""
    with closing(Scenes(linked.run.root)) as scenes:
        images = map(scenes.read, pc.unique(linked.rows["image"]).to_pylist())
        full = next((image.size for image in images if image is not None), linked.extent)
    wide, high = (int(side * min(1.0, MAX_SIDE_PX / max(full))) for side in full)
    return max(2, wide - wide % 2), max(2, high - high % 2)


def _annotated(
    linked: Linked,
    frames: list[slice],
    tracks: tuple[Ints, Ints, list[str]],
    size: tuple[int, int],
    scenes: Scenes,
) -> Iterator[Pixels]:
    """Every frame as it is to be seen; tracks that come back later are shown where they were."""
    numbers, rows, names = tracks
    track = np.full(linked.rows.num_rows, -1)
    track[rows] = numbers
    ends = np.zeros(len(names), dtype=np.int64)
    ends[numbers] = linked.frames[rows]  # frames never fall, so the last one stands
    images, failed = linked.rows["image"], linked.rows["error"].is_valid().to_numpy()
    pen = Annotator(size, tail=TAIL)
    scale, corner = min(1.0, *(np.array(size) / linked.extent).tolist()), np.zeros(2)
    shown: dict[int, Floats] = {}  # number of a track to its last box, in pixels of the video
    for part in frames:
        frame = int(linked.frames[part.start])
        image = scenes.read(images[part.start].as_py())
        if image is None:  # as large as the one before
            canvas = np.full((size[1], size[0], 3), _GONE, dtype=np.uint8)
        else:
            scale = min(size[0] / image.width, size[1] / image.height)
            corner = (np.array(size) - scale * np.array(image.size)) / 2
            padded = ImageOps.pad(image, size, color=(_GONE,) * 3)
            canvas = np.ascontiguousarray(np.asarray(padded)[..., ::-1])
        boxes = linked.boxes[part] * scale + np.tile(corner, 2)
        here = track[part]
        alone = (here < 0) & ~failed[part]
        shown.update(zip(here[here >= 0].tolist(), boxes[here >= 0], strict=True))
        order = np.array(sorted(shown, reverse=True), dtype=np.int64)  # the longest on top
        lost = ~np.isin(order, here)
        pen.unnamed(canvas, boxes[alone])
        pen.tracks(
            canvas,
            np.array([shown[one] for one in order.tolist()]),
            order,
            [
                names[one] + " ?" * gone
                for one, gone in zip(order.tolist(), lost.tolist(), strict=True)
            ],
            lost,
        )
        counts = {
            "lost": lost.sum(),
            "in no track": alone.sum(),
            "with errors": failed[part].sum(),
        }
        words = [f"frame {frame}", f"{(~lost).sum()} tracks"]
        words += [f"{count} {what}" for what, count in counts.items() if count]
        pen.caption(canvas, ", ".join(words + ["image is gone"] * (image is None)))
        yield canvas
        shown = {one: box for one, box in shown.items() if ends[one] > frame}


def encode(
    file: Path,
    images: Iterator[Pixels],
    size: tuple[int, int],
    rate: Fraction,
    wrote: Callable[[int], None],
) -> str:
    """Write images as an H.264 video, or MPEG-4 where FFmpeg was built without libx264.

    Args:
        file: what to write; its suffix says the container.
        images: ``[H, W, 3]``, blue first.
        size: their width and height, both even.
        rate: frames a second.
        wrote: called with frames written.

    Returns:
        The codec.

    Raises:
        WorkError: FFmpeg refuses.
    """
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {"b": "8000000"}
    try:
        with av.open(str(file), "w") as container:
            stream: VideoStream = container.add_stream(codec, rate, options)  # type: ignore[assignment]
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            for number, image in enumerate(images, start=1):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
                wrote(number)
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise WorkError(f"{file.name} cannot be written: {first_line(error)}") from None
    return codec
