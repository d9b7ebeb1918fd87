"""The plan of a folder of images: every file below it whose suffix is that of an image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from common.errors import SourceError
from common.storage import arrow, is_remote
from pipelines.detections import complete
from pipelines.frame_names import VIDEO_SUFFIXES
from pipelines.sources.plan import Plan

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".jfif", ".ppm"}
)


def read_folder(folder: Path) -> Plan:
    """The plan of the images of ``folder`` and the folders below it.

    Raises:
        SourceError: there are none.
    """
    names: list[str] = []
    skipped: Counter[str] = Counter()
    for name in _walk(folder):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            names.append(name)
        else:
            skipped[suffix or "no suffix"] += 1
    if not names:
        hint = "; for videos set `kind='video'`" if skipped.keys() & VIDEO_SUFFIXES else ""
        raise SourceError(
            f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            f"{sum(skipped.values())} other files were found{hint}"
        )
    table = complete(pa.table({"image": names}), where=str(folder), folder=folder.resolve().name)
    return Plan(table, folder.resolve(), dict(skipped))


def _walk(folder: Path) -> Iterator[str]:
    """Names of all files below, in the same order on a disk and in an object store."""
    if is_remote(folder):
        system, base = arrow(folder)
        infos = system.get_file_info(fs.FileSelector(base, recursive=True))
        names = [info.path[len(base) :].strip("/") for info in infos if info.is_file]
        # The files of a folder come before the folders in it.
        yield from sorted(names, key=lambda name: (*_folder_keys(name), (0, name)))
        return
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            yield Path(parent, name).relative_to(folder).as_posix()


def _folder_keys(name: str) -> list[tuple[int, str]]:
    return [(1, part) for part in name.split("/")[:-1]]
