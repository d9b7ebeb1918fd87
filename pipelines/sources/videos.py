"""From a folder of clips to a plan: which clips there are, and which of their frames.

A clip is a video file, a folder of images, or one of the clips in a file of tensors, laid out
``SPLIT/CATEGORY/…``. The index of each is read (not its pixels) to spread the sampled frames
evenly over it. A clip that cannot be used is one row with an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from common.errors import SourceError
from common.sampling import evenly, spread
from pipelines.detections import complete, timestamp_in_name
from pipelines.frame_names import VIDEO_SUFFIXES, frame_name, natural, split_and_category
from pipelines.images.errors import ImageError
from pipelines.images.header import image_size
from pipelines.images.reader import TENSOR_SUFFIXES, image_errors
from pipelines.images.tensors import TensorFile
from pipelines.sources.folder import Files, list_files

_READERS = 8  # files opened at once: mostly waiting for the disk


@dataclass(frozen=True)
class _Clip:
    """One clip: its id, and the rows that its frames become."""

    name: str
    images: list[str]
    numbers: list[int | None]  # of the frames, in the source
    seconds: list[float] | None = None  # of each frame since the first of the clip; None: unknown
    is_timed: bool = True  # the seconds are the file's own, not made from the frame rate
    sizes: frozenset[tuple[int, int]] = frozenset()  # width, height in pixels
    error: str | None = None


@dataclass
class _Folder:
    """The clips below a folder."""

    videos: list[str] = field(default_factory=list)
    sequences: dict[str, list[str]] = field(default_factory=dict)  # folder to its images
    skipped: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    files: Files = field(default_factory=Files)


def plan_videos(
    source: Path,
    frames: int,
    limit: int | None,
    image_suffixes: frozenset[str],
    report: Callable[[int, int], None],
) -> tuple[pa.Table, dict[str, int], tuple[str, ...], int]:
    """The plan of ``source``, a video or a folder of clips.

    Args:
        source: a video or a folder; image names are relative to the folder.
        frames: of each clip, spread evenly; 0: every frame.
        limit: clips at most, spread evenly over all there are.
        image_suffixes: of the images of a sequence.
        report: receives files read and files in all.

    Returns:
        A complete detections table with ``split``, ``category`` and ``error``; the number of
        other files by suffix; notes for people; the number of folders and files that could not
        be read.

    Raises:
        SourceError: there is no clip at all.
    """
    folder = _Folder(videos=[source.name]) if source.is_file() else _walk(source, image_suffixes)
    root = source.parent if source.is_file() else source
    names = sorted([*folder.videos, *folder.sequences], key=natural)
    if not names:
        skipped = ", ".join(f"{n} {suffix}" for suffix, n in sorted(folder.skipped.items()))
        notes = "".join(f"; {note}" for note in folder.files.notes())
        raise SourceError(
            f"{source} holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))}), folders of images or "
            f"tensors ({', '.join(sorted(TENSOR_SUFFIXES))}); found: {skipped or 'nothing'}{notes}"
        )
    names = list(spread(names, limit))

    def clips_of(name: str) -> list[_Clip]:
        return _clips_of(root, name, folder.sequences.get(name), frames)

    clips: list[_Clip] = []
    with ThreadPoolExecutor(_READERS) as pool:
        for done, clips_of_name in enumerate(pool.map(clips_of, names), start=1):
            clips += clips_of_name
            report(done, len(names))
    clips = list(spread(clips, limit))  # a file of tensors holds many
    table = _table(clips, where=str(source))
    remarks = (*folder.files.notes(), *_notes(clips, folder.empty))
    return table, dict(folder.skipped), remarks, folder.files.unread_count


def sample_frames(count: int, frames: int) -> list[int]:
    """Numbers of ``frames`` of ``count`` frames, spread evenly; 0: every one."""
    return list(range(count)) if frames == 0 else evenly(count, frames)


def _walk(folder: Path, image_suffixes: frozenset[str]) -> _Folder:
    files = list_files(folder)
    contents = _Folder(skipped=Counter(files.special.values()), files=files)
    used: set[str] = set()
    for path in files.names:
        here, suffix = Path(path).parent.as_posix(), Path(path).suffix.lower()
        if suffix in VIDEO_SUFFIXES or suffix in TENSOR_SUFFIXES:
            contents.videos.append(path)
        elif suffix in image_suffixes:
            name = folder.resolve().name if here == "." else here
            contents.sequences.setdefault(name, []).append(path)
        else:
            contents.skipped[suffix or "no suffix"] += 1
            continue
        used.update({here, *(above.as_posix() for above in Path(here).parents)})
    # The outermost only: folders in an empty folder are empty as well.
    empty = [name for name in files.folders if name not in used]
    contents.empty = [name for name in empty if Path(name).parent.as_posix() not in empty]
    return contents


def _clips_of(root: Path, name: str, images: list[str] | None, frames: int) -> list[_Clip]:
    """A folder of images, a video, or the clips in a file of tensors."""
    try:
        if images is not None:
            numbers = _sample_or_refuse(len(images), frames)
            sampled = [images[number] for number in numbers]
            sizes = {size for image in sampled if (size := image_size(root / image)) is not None}
            return [_Clip(name, sampled, [*numbers], sizes=frozenset(sizes))]
        with image_errors(name):
            if Path(name).suffix.lower() in TENSOR_SUFFIXES:
                return _clips_of_tensors(root, name, frames)
            return [_clip_of_video(root, name, frames)]
    except ImageError as error:
        return [_Clip(name, [images[0] if images else name], [None], error=f"{error} [{name}]")]


def _clip_of_video(root: Path, name: str, frames: int) -> _Clip:
    from pipelines.images.video_index import index_video  # late: PyAV loads FFmpeg

    video = index_video(root / name)
    numbers = _sample_or_refuse(len(video.packet), frames)
    seconds = None
    if video.times is not None:
        seconds = video.times[numbers].tolist()
    elif video.fps:
        seconds = [number / video.fps for number in numbers]
    return _Clip(
        name,
        [frame_name(name, number) for number in numbers],
        [*numbers],
        seconds,
        is_timed=video.times is not None,
        sizes=frozenset({(video.width, video.height)}),
    )


def _clips_of_tensors(root: Path, name: str, frames: int) -> list[_Clip]:
    clips, count, height, width = TensorFile(root / name).shape
    numbers = _sample_or_refuse(count, frames)
    return [
        _Clip(
            f"{name}#video={clip}",
            [frame_name(name, number, clip) for number in numbers],
            [*numbers],
            sizes=frozenset({(width, height)}),
        )
        for clip in range(clips)
    ]


def _sample_or_refuse(count: int, frames: int) -> list[int]:
    if count < max(1, frames):
        raise ImageError(
            "short video",
            f"{count} frame{'' if count == 1 else 's'}, fewer than the {max(1, frames)} to sample",
        )
    return sample_frames(count, frames)


def _table(clips: list[_Clip], *, where: str) -> pa.Table:
    counts = [len(clip.images) for clip in clips]
    names = np.repeat(np.arange(len(clips)), counts)

    def per_clip(values: list[str | None]) -> pa.Array:
        return pa.array(values, pa.string()).take(pa.array(names))

    named = [split_and_category(clip.name) for clip in clips]
    table = complete(
        pa.table(
            {
                "image": pa.array([image for clip in clips for image in clip.images]),
                "sequence": per_clip([clip.name for clip in clips]),
                "timestamp": pa.array(
                    [stamp for clip in clips for stamp in _timestamps(clip)], pa.timestamp("us")
                ),
                "frame": pa.array([n for clip in clips for n in clip.numbers], pa.int64()),
                "split": per_clip([split for split, _ in named]),
                "category": per_clip([category for _, category in named]),
            }
        ),
        where=where,
    )
    return table.append_column("error", per_clip([clip.error for clip in clips]))


def _timestamps(clip: _Clip) -> Iterator[datetime | None]:
    """When each frame was shown, where the file's name says when the first was."""
    began = timestamp_in_name(clip.name)
    if began is None or clip.seconds is None:
        yield from (None for _ in clip.images)
    else:
        yield from (began + timedelta(seconds=seconds) for seconds in clip.seconds)


def _notes(clips: list[_Clip], empty: list[str]) -> Iterator[str]:
    def first_ten(names: list[str]) -> str:
        return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")

    if empty:
        yield f"folders without a clip: {first_ten(empty)}"
    sizes = Counter(min(clip.sizes) for clip in clips if len(clip.sizes) == 1)
    if len(sizes) > 1:
        shown = ", ".join(f"{w}x{h} ({n})" for (w, h), n in sizes.most_common(5))
        more = ", …" if len(sizes) > 5 else ""
        yield f"clips of {len(sizes)} sizes, all resized alike: {shown}{more}"
    untimed = [
        clip.name
        for clip in clips
        if clip.seconds is not None and not clip.is_timed and timestamp_in_name(clip.name)
    ]
    if untimed:
        yield (
            "clips without usable times of their frames; their timestamps are made from the frame "
            f"rate: {first_ten(untimed)}"
        )
    mixed = [clip.name for clip in clips if len(clip.sizes) > 1]
    if mixed:
        yield f"clips whose frames differ in size, all resized alike: {first_ten(mixed)}"
