"""An annotated video of one sequence: every frame of the run, with its tracks drawn on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.compute as pc
from av.video.stream import VideoStream
from PIL import ImageOps

from common.errors import InputError, WorkError, first_line
from common.moved import Pairs
from index.vectors import Floats, Ints
from pipelines.frame_names import parse_frame
from pipelines.images.errors import ImageError
from pipelines.images.video import read_video_info
from tracks.association.frames import by_frame, frame_step
from tracks.linked_run import LinkedRun, Progress, shortened
from tracks.pictures.annotate import Annotator, Pixels
from tracks.pictures.scenes import RunImages

MAX_SIDE_PX = 1920
FPS_OF_IMAGES = 4.0
TAIL = 40  # past frames whose path is drawn
_MISSING_GREY = 190  # of a frame whose image cannot be read


@dataclass(frozen=True)
class VideoSummary:
    """The video of a sequence."""

    file: str  # path of the video
    sequence: str  # the one it shows
    frames: int  # number of frames
    tracks: int  # number of tracks
    fps: float  # frames per second
    codec: str  # libx264 or mpeg4
    size: tuple[int, int]  # width and height in pixels
    missing: dict[str, int]  # frames shown grey because their image could not be read, by reason


def render_video(
    run: Path,
    out: Path,
    *,
    sequence: str | None = None,
    fps: float | None = None,
    pairs: Pairs = (),
    progress: Progress = lambda done, total: None,
) -> VideoSummary:
    """Write the annotated video of one sequence of a linked run.

    Args:
        run: a linked run.
        out: an ``.mp4`` file; an existing one is replaced when the new one is complete.
        sequence: which one; needed where the run has several.
        fps: frames per second; default: real time for frames of a video, else 4.
        pairs: of folders of images that were moved.
        progress: called with the number of frames written and of all frames.

    Raises:
        RunError: the run is not linked.
        VerifyError: its tracks differ from their manifest.
        InputError: no such sequence, several and none chosen, or ``out`` is no ``.mp4``.
        WorkError: FFmpeg cannot write it.
    """
    if out.suffix.lower() != ".mp4" or out.is_dir():
        raise InputError(f"`out={str(out)!r}`: give a file that ends in .mp4")
    linked = LinkedRun.open(run, sequence, pairs=pairs)
    if len(linked.sequences) > 1:
        raise InputError(
            f"{run} has {len(linked.sequences)} sequences and a video shows one; choose it with "
            f"`sequence`: {shortened(linked.sequences)}"
        )
    frames = by_frame(linked.frames)
    rate = Fraction(fps or _natural_fps(linked)).limit_denominator(1000)
    size = _video_size(linked)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.stem}.{os.getpid()}.mp4")
    tracks = linked.longest_first()
    try:
        with closing(RunImages(linked.run.images)) as images:
            pictures = _annotated_frames(linked, frames, tracks, size, images)
            codec = encode(draft, pictures, size, rate, lambda done: progress(done, len(frames)))
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return VideoSummary(
        file=str(out),
        sequence=linked.sequences[0],
        frames=len(frames),
        tracks=len(tracks[2]),
        fps=float(rate),
        codec=codec,
        size=size,
        missing=dict(images.missing),
    )


def _natural_fps(linked: LinkedRun) -> float:
    """Frames per second that play the run's frames in real time; a default for photos."""
    names = [parse_frame(image) for image in pc.unique(linked.rows["image"]).to_pylist()]
    if names[0] is None or names[0].clip is not None:  # clips do not store their frame rate
        return FPS_OF_IMAGES
    try:
        rate = read_video_info(linked.run.image_path(names[0].file)).fps
    except ImageError:
        rate = None
    step = frame_step(np.array([name.frame for name in names if name is not None]))
    return max(1.0, rate / step) if rate else FPS_OF_IMAGES


def _video_size(linked: LinkedRun) -> tuple[int, int]:
    """Size of the first readable image, else the extent of the boxes; even, as codecs require."""
    with closing(RunImages(linked.run.images)) as images:
        read = map(images.read, pc.unique(linked.rows["image"]).to_pylist())
        full = next((image.size for image in read if image is not None), linked.extent)
    width, height = (int(side * min(1.0, MAX_SIDE_PX / max(full))) for side in full)
    return max(2, width - width % 2), max(2, height - height % 2)


def _annotated_frames(
    linked: LinkedRun,
    frames: list[slice],
    tracks: tuple[Ints, Ints, list[str]],
    size: tuple[int, int],
    images: RunImages,
) -> Iterator[Pixels]:
    """Every frame with its boxes; tracks that come back later are shown at their last box."""
    numbers, rows, names = tracks
    track = np.full(linked.rows.num_rows, -1)
    track[rows] = numbers
    ends = np.zeros(len(names), dtype=np.int64)
    ends[numbers] = linked.frames[rows]  # frames never fall, so the last one is kept
    together: dict[int, list[int]] = {}  # other tracks in the box of a row
    for row, other in zip(*(side.tolist() for side in linked.companions()), strict=True):
        together.setdefault(row, []).append(int(track[other]))
    annotator = Annotator(size, tail=TAIL)
    scale, corner = min(1.0, *(np.array(size) / linked.extent).tolist()), np.zeros(2)
    shown: dict[int, Floats] = {}  # last box of each open track, in pixels of the video
    for part in frames:
        frame = int(linked.frames[part.start])
        image = images.read(linked.rows["image"][part.start].as_py())
        if image is None:  # scale and corner stay those of the image before
            canvas = np.full((size[1], size[0], 3), _MISSING_GREY, dtype=np.uint8)
        else:
            scale = min(size[0] / image.width, size[1] / image.height)
            corner = (np.array(size) - scale * np.array(image.size)) / 2
            padded = ImageOps.pad(image, size, color=(_MISSING_GREY,) * 3)
            canvas = np.ascontiguousarray(np.asarray(padded)[..., ::-1])
        boxes = linked.boxes[part] * scale + np.tile(corner, 2)
        here, failed = track[part], linked.failed[part]
        untracked = (here < 0) & ~failed
        shown.update(zip(here[here >= 0].tolist(), boxes[here >= 0], strict=True))
        order = np.array(sorted(shown, reverse=True), dtype=np.int64)  # the longest on top
        others = {
            int(track[row]): together[row]
            for row in range(part.start, part.stop)
            if row in together
        }
        inside = [number for numbers in others.values() for number in numbers]
        order = order[~np.isin(order, inside)]  # they are drawn with the one whose box it is
        lost = ~np.isin(order, here)
        annotator.unnamed(canvas, boxes[untracked])
        annotator.tracks(
            canvas,
            np.array([shown[number] for number in order.tolist()]),
            order,
            [
                "+".join(names[each] for each in (number, *others.get(number, ()))) + " ?" * is_lost
                for number, is_lost in zip(order.tolist(), lost.tolist(), strict=True)
            ],
            lost,
        )
        counts = {"lost": lost.sum(), "in no track": untracked.sum(), "with errors": failed.sum()}
        words = [f"frame {frame}", f"{(~lost).sum() + len(inside)} tracks"]
        words += [f"{count} {label}" for label, count in counts.items() if count]
        annotator.caption(canvas, ", ".join(words + ["image is gone"] * (image is None)))
        yield canvas
        shown = {number: box for number, box in shown.items() if ends[number] > frame}


def encode(
    file: Path,
    images: Iterator[Pixels],
    size: tuple[int, int],
    rate: Fraction,
    progress: Callable[[int], None],
) -> str:
    """Write images as an H.264 video, or MPEG-4 where FFmpeg was built without libx264.

    Args:
        file: to write; its suffix decides the container.
        images: ``[H, W, 3]`` uint8, blue first.
        size: their width and height in pixels, both even.
        rate: frames per second.
        progress: called with the number of frames written.

    Returns:
        The codec.

    Raises:
        WorkError: FFmpeg refuses.
    """
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {"b": "8000000"}
    try:
        with av.open(str(file), "w") as container:
            stream: VideoStream = container.add_stream(codec, rate, options)  # type: ignore[assignment]
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            for number, image in enumerate(images, start=1):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
                progress(number)
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise WorkError(f"{file.name} cannot be written: {first_line(error)}") from None
    return codec
