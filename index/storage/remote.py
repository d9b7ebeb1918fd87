"""Indexes in object stores: read through a cache on this machine, written by upload.

A search needs memory-mapped files, which an object store does not offer. The parts of an index
never change, so each is downloaded once, checked against its sha256, and mapped from the cache::

    ~/.cache/onepass/indexes/s3_bucket_photos.index-1f0c…/     one folder per index
      4be1…/                 one segment (or one version's own files), named by a hash of its files
      .building-PID/         a version that this machine is building; moved here once uploaded
      .lock                  one download at a time

``XDG_CACHE_HOME`` moves it, and it may be deleted at any time. Parts that were not opened for a
day are removed at the next download.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TypeAlias

from pyarrow import fs

from common.errors import SnapshotError, VerifyError, WorkError, first_line
from common.json_models import sha256_json
from common.lock import wait_for_lock
from common.manifests import MANIFEST
from common.progress import progress
from common.storage import arrow, is_remote, storage_errors

UNUSED_SECONDS = 86_400.0
_CHUNK = 16 * 2**20  # bytes per request: large enough that the latency does not matter
_MIB = 2**20
_TRIES = 3  # of an upload
_PARTIAL = ".part"

Files: TypeAlias = Mapping[str, str]  # name to sha256
Part: TypeAlias = tuple[Path, Files]


def cache_folder(index: Path) -> Path:
    """The local folder that caches an index in an object store."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = re.sub(r"[^\w.-]+", "_", str(index))[-80:]
    digest = hashlib.sha256(str(index).encode()).hexdigest()[:12]
    return Path(base) / "onepass" / "indexes" / f"{name}-{digest}"


def fetch(index: Path, parts: Sequence[Part], *, without: Sequence[str] = ()) -> list[Path]:
    """Download parts of an index that are not in the cache yet.

    Args:
        index: the index folder.
        parts: folders of it, and the sha256 of their files.
        without: names of files that are not needed.

    Returns:
        A local folder for each part; those of a local index are returned as they are.

    Raises:
        SnapshotError: a file is missing in the store.
        StorageError: the store does not answer.
        VerifyError: a file does not match its sha256; it is not kept.
        WorkError: the cache cannot be written.
    """
    if not is_remote(index):
        return [folder for folder, _ in parts]
    for folder, files in parts:
        for name in files:
            if PurePath(name).name != name:  # a manifest must not reach files elsewhere
                raise SnapshotError(
                    f"{folder} names a file {name!r}, which does not lie in it; build the index again"
                )
    cache = cache_folder(index)
    wanted = [(cache / _cache_name(files), folder, files) for folder, files in parts]
    missing = [
        (folder / name, local / name, digest)
        for local, folder, files in wanted
        for name, digest in files.items()
        if name not in without and not (local / name).exists()
    ]
    try:
        if missing:
            cache.mkdir(parents=True, exist_ok=True)
            with wait_for_lock(cache / ".lock"):
                _download(missing)
                _evict_unused(cache, {local for local, _, _ in wanted})
        for local, _, files in wanted:
            if files:
                os.utime(local)
    except OSError as error:
        raise WorkError(
            f"{cache} cannot hold the files of {index}: {error.strerror or first_line(error)}; "
            "make room there, or set XDG_CACHE_HOME to a folder on another disk"
        ) from error
    return [local for local, _, _ in wanted]


def upload_version(draft: Path, out: Path, version: str) -> None:
    """Upload a version: its segments, then its own files, its manifest last.

    A process that dies in between leaves files that no version names.

    Args:
        draft: local folder with ``segments`` and the version's own files.
        out: the index folder in the store.
        version: its name.

    Raises:
        WorkError: the store refused, or did not answer.
    """
    own = sorted((file for file in draft.iterdir() if file.is_file()), key=_manifest_last)
    parts = [file for file in sorted(draft.rglob("*")) if file.is_file() and file not in own]
    pairs = [(file, out / file.relative_to(draft).as_posix()) for file in parts]
    pairs += [(file, out / version / file.name) for file in own]
    total = sum(file.stat().st_size for file, _ in pairs)
    done = 0
    for file, target in pairs:
        for sent in _upload(file, target):
            _report_mib("upload", done + sent, total)
        done += file.stat().st_size


def keep_in_cache(draft: Path, out: Path, parts: Sequence[Part]) -> None:
    """Move uploaded files into the cache, so that this machine does not download them.

    Args:
        draft: the local folder that was uploaded.
        out: the index folder in the store.
        parts: folders inside ``draft``, and the sha256 of their files.
    """
    cache = cache_folder(out)
    for folder, files in parts:
        target = cache / _cache_name(files)
        if files and not target.exists():
            target.mkdir()
            for name in files:
                (draft / folder / name).rename(target / name)


def remove(folder: Path) -> None:
    """Remove a folder of an index in an object store; a version's manifest first.

    Raises:
        StorageError: the store does not answer.
    """
    system, name = arrow(folder)
    with storage_errors(folder):
        if (folder / MANIFEST).is_file():  # a version that is half removed must not look complete
            system.delete_file(f"{name}/{MANIFEST}")
        system.delete_dir(name)


def _report_mib(name: str, done: int, total: int) -> None:
    if total >= _MIB:
        progress(f"{name} MiB", done // _MIB, total // _MIB)


def _cache_name(files: Files) -> str:
    return sha256_json(dict(files))[:32]


def _manifest_last(file: Path) -> tuple[bool, str]:
    return file.name == MANIFEST, file.name


def _download(missing: Sequence[tuple[Path, Path, str]]) -> None:
    """Download (from, to, sha256), except what another process has downloaded meanwhile."""
    remaining = [file for file in missing if not file[1].exists()]
    total = sum(_size(source) for source, _, _ in remaining)
    done = 0
    for source, target, expected in remaining:
        target.parent.mkdir(exist_ok=True)
        draft = target.with_name(target.name + _PARTIAL)  # that of a dead process is overwritten
        digest = hashlib.sha256()
        with draft.open("wb") as stream:
            for chunk in _read_chunks(source):
                digest.update(chunk)
                stream.write(chunk)
                done += len(chunk)
                _report_mib("fetch", done, total)
            stream.flush()
            os.fsync(stream.fileno())
        if digest.hexdigest() != expected:
            draft.unlink()
            raise VerifyError(
                f"{source} does not match its sha256 in the manifest; build the index again"
            )
        draft.rename(target)


def _size(file: Path) -> int:
    system, name = arrow(file)
    with storage_errors(file):
        info = system.get_file_info(name)
    if info.type != fs.FileType.File:
        raise SnapshotError(
            f"{file} is named in the manifest but missing; open another version or build the index "
            "again"
        )
    return int(info.size)


def _read_chunks(file: Path) -> Iterator[bytes]:
    with storage_errors(file), file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _upload(file: Path, target: Path) -> Iterator[int]:
    """Upload a file; yields the bytes sent so far."""
    system, name = arrow(target)
    size = file.stat().st_size
    for tries_left in reversed(range(_TRIES)):
        try:
            with file.open("rb") as source, system.open_output_stream(name) as sink:
                sent = 0
                while chunk := source.read(_CHUNK):
                    sink.write(chunk)
                    sent += len(chunk)
                    yield sent
            if system.get_file_info(name).size == size:
                return
            why = "the stored size differs from what was sent"
        except OSError as error:
            why = first_line(error)
        if not tries_left:
            raise WorkError(
                f"{target} cannot be written: {why}; the served version is unchanged: check the "
                "store, then run the same command again"
            )


def _evict_unused(cache: Path, used: set[Path]) -> None:
    """Remove parts that were not opened for a day; a process that has one open can still read it."""
    old = time.time() - UNUSED_SECONDS
    for entry in cache.iterdir():
        part = entry.is_dir() and not entry.name.startswith(".")
        if part and entry not in used and entry.stat().st_mtime < old:
            shutil.rmtree(entry, ignore_errors=True)
