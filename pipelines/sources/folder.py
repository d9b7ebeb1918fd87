"""The plan of a folder of images: every file below it whose suffix is that of an image.

Links to folders are followed, each folder once and never in a circle. What cannot be read, and what is
no file, is named in the plan's notes.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from common.errors import SourceError
from common.storage import arrow, is_remote, kind_of_file
from common.text import escape, is_text
from pipelines.detections import complete
from pipelines.frame_names import VIDEO_SUFFIXES, natural
from pipelines.sources.plan import Plan

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".gif"),
        *(".tif", ".tiff", ".bmp", ".dib", ".tga", ".dds"),
        *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    }
)
_NAMED = 10  # files and folders that a note names


@dataclass
class Files:
    """What lies below a folder.

    Attributes:
        names: of files, relative to the folder, in natural order: those of a folder before the
            folders in it.
        folders: names of all folders that were read, the first of them ``.``.
        unread: folders that could not be read, with the reason.
        special: names of pipes, sockets and devices, with what they are.
        misnamed: names that are not UTF-8, with escapes.
        linked: links to folders that are read at another place, or that hold this one.
    """

    names: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    special: dict[str, str] = field(default_factory=dict)
    misnamed: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)

    @property
    def unread_count(self) -> int:
        """Folders and files that are missing among ``names`` for no wish of the user."""
        return len(self.unread) + len(self.misnamed)

    def notes(self) -> list[str]:
        """What people should know, a line each."""
        special = [f"{name} ({kind})" for name, kind in self.special.items()]
        lines = [
            ("folders that cannot be read were left out", self.unread),
            ("neither files nor folders, and left out", special),
            ("names that are not UTF-8 were left out; rename them", self.misnamed),
            ("links to folders that are read already were left out", self.linked),
        ]
        return [f"{text}: {_first(names)}" for text, names in lines if names]


def read_folder(folder: Path) -> Plan:
    """The plan of the images of ``folder`` and the folders below it.

    Raises:
        SourceError: there are none.
    """
    files = list_files(folder)
    names: list[str] = []
    skipped: Counter[str] = Counter(files.special.values())
    for name in files.names:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            names.append(name)
        else:
            skipped[suffix or "no suffix"] += 1
    if not names:
        hint = "; for videos set `kind='video'`" if skipped.keys() & VIDEO_SUFFIXES else ""
        said = "".join(f"; {note}" for note in files.notes())
        raise SourceError(
            f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            f"{sum(skipped.values())} other files were found{hint}{said}"
        )
    table = complete(pa.table({"image": names}), where=str(folder), folder=folder.resolve().name)
    return Plan(
        table,
        folder.resolve(),
        dict(skipped),
        tuple(files.notes()),
        unread=files.unread_count,
    )


def list_files(folder: Path) -> Files:
    """All files below a folder, in the same order on a disk and in an object store."""
    files = Files()
    if is_remote(folder):
        system, base = arrow(folder)
        infos = system.get_file_info(fs.FileSelector(base, recursive=True))
        files.names = [info.path[len(base) :].strip("/") for info in infos if info.is_file]
        files.folders = sorted({PurePosixPath(name).parent.as_posix() for name in files.names})
    else:
        _walk(folder, files)
    files.names.sort(key=_files_first)
    files.folders.sort(key=natural)
    return files


def _files_first(name: str) -> tuple[str, str]:
    """A key that puts the files of a folder before the folders in it."""
    folder, _, file = name.rpartition("/")
    return natural(f"{folder}/") if folder else "", natural(file)


def _walk(root: Path, files: Files) -> None:
    """Find what is below ``root``; what links lead to comes last, so that it is not read twice."""
    resolved = root.resolve()
    seen = {_identity(above) for above in resolved.parents}
    waiting, links = [""], list[str]()
    while waiting or links:
        if not waiting:
            links.sort(key=natural, reverse=True)
        here = waiting.pop() if waiting else links.pop()
        path = root / here
        try:
            identity = _identity(path)
            if identity in seen:
                files.linked.append(here)
                continue
            with os.scandir(path) as entries:
                listed = list(entries)
        except OSError as error:
            files.unread.append(f"{escape(here or '.')} ({error.strerror})")
            continue
        seen.add(identity)
        if not is_text(here):
            files.misnamed.append(escape(here))
            continue
        files.folders.append(here or ".")
        for entry in listed:
            name = f"{here}/{entry.name}" if here else entry.name
            _add(entry, name, files, waiting, links)


def _add(
    entry: os.DirEntry[str], name: str, files: Files, waiting: list[str], links: list[str]
) -> None:
    """Put an entry of a folder where it belongs."""
    try:
        if entry.is_dir():
            (links if entry.is_symlink() else waiting).append(name)
            return
        special = None if entry.is_file() else _special(entry)
    except OSError:  # a link in a circle, or a file that is gone: reading it says so
        special = None
    if special is not None:
        files.special[escape(name)] = special
    elif is_text(name):
        files.names.append(name)
    else:
        files.misnamed.append(escape(name))


def _special(entry: os.DirEntry[str]) -> str | None:
    """What an entry is that is neither a file nor a folder; None for a link to nothing."""
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return None
    return None if stat.S_ISREG(mode) else kind_of_file(mode)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
