"""Folders by name: a path of this machine, or the URI of an object store.

``UPath`` gives object stores the methods of ``pathlib.Path``; code is typed with ``Path`` and works
on both. The differences are handled in this module:

- nothing may be renamed: in an object store that is a copy and a deletion, and a kill between the
  two leaves both. A file appears there whole when its write ends, so none needs to be.
- there are no folders, so only files need be made or removed, and no file locks (``common.lock``).

Credentials, region and endpoint are found as the vendors' tools find them: ``AWS_*`` variables or
``~/.aws``, ``AWS_ENDPOINT_URL`` for another S3 server, ``GOOGLE_APPLICATION_CREDENTIALS``.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
from pyarrow import fs
from upath import UPath

from common.errors import StorageError, first_line

SCHEMES = ("s3", "gs")

_WRITE_TRIES = 3  # of a file; a store may have stored it and then answered an error


def is_remote(name: str | Path) -> bool:
    """Whether ``name`` lies in an object store."""
    return str(name).startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def to_path(name: str | Path) -> Path:
    """The folder or file of that name: a ``Path``, or in an object store a ``UPath``.

    Typed as ``Path``, so that code reads the same for both.

    Raises:
        StorageError: the URI has a key or a password in it, which is not repeated.
    """
    if not is_remote(name):
        return Path(name)
    scheme, _, rest = str(name).partition("://")
    if re.search("[:@]", rest.partition("/")[0]):  # no bucket's name has them
        raise StorageError(
            f"{scheme}://… has more than a bucket before the first / (it is not shown, it may hold a "
            "key); leave keys out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "GOOGLE_APPLICATION_CREDENTIALS"
        )
    return cast(Path, UPath(str(name).rstrip("/")))


def arrow(path: Path) -> tuple[fs.FileSystem, str]:
    """The file system and the name in it, as pyarrow and Ray Data take them."""
    if not is_remote(path):
        return fs.LocalFileSystem(), str(path)
    remote = cast(UPath, path)
    return remote.fs.fs, remote.path


def open_file(path: Path) -> IO[bytes]:
    """Open a file to read it; a pipe, socket or device is not waited for.

    Raises:
        OSError: it is missing, a folder, no file with contents, or cannot be read.
    """
    if is_remote(path):
        system, name = arrow(path)
        return cast(IO[bytes], system.open_input_file(name))
    # To open a pipe waits for who writes into it, unless it is asked not to wait.
    not_waiting = getattr(os, "O_NONBLOCK", 0)
    stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | not_waiting))  # noqa: SIM115 - the caller closes it
    mode = os.fstat(stream.fileno()).st_mode
    if not stat.S_ISREG(mode):
        stream.close()
        raise OSError(errno.EINVAL, f"{kind_of_file(mode)}, not a file", str(path))
    return stream


def kind_of_file(mode: int) -> str:
    """What something in a folder is that is neither a file nor a folder, by its ``st_mode``."""
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def list_folder(folder: Path, pattern: str = "*") -> list[Path]:
    """Entries of a folder whose names match ``pattern``, in name order; [] without the folder.

    Raises:
        OSError: an object store did not answer.
    """
    if not is_remote(folder):
        return sorted(folder.glob(pattern))
    names = sorted(info.base_name for info in _entries(folder))
    return [folder / name for name in names if fnmatchcase(name, pattern)]


def holds_files(folder: Path) -> bool:
    """Whether a file lies somewhere below; folders of stores outlive the last file in them."""
    if not is_remote(folder):
        return folder.is_dir() and any(folder.iterdir())
    entries = _entries(folder)
    return any(entry.is_file for entry in entries) or any(
        holds_files(folder / entry.base_name) for entry in entries
    )


def _entries(folder: Path) -> list[fs.FileInfo]:
    """What an object store lists in a folder, without the folder itself."""
    system, name = arrow(folder)
    entries = system.get_file_info(fs.FileSelector(name, allow_not_found=True))
    return [entry for entry in entries if entry.path.rstrip("/") != name]


def write_bytes(file: Path, data: bytes | pa.Buffer) -> None:
    """Write a small file of an object store, whole or not at all.

    Raises:
        OSError: the store refused, or did not answer; the file may be stored all the same.
    """
    for tries_left in reversed(range(_WRITE_TRIES)):
        try:
            file.write_bytes(data)
            return
        except OSError:
            if not tries_left:
                raise


def make_folder(folder: Path) -> None:
    """Make a local folder and its parents; object stores need none."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it, if it exists.

    Local files that cannot be removed are left.

    Raises:
        OSError: an object store refused.
    """
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    system, name = arrow(folder)
    with suppress(FileNotFoundError):
        system.delete_dir(name)


def is_access_denied(error: OSError) -> bool:
    """Whether a store answered that this object may not be read, and not that it is out of reach."""
    return isinstance(error, PermissionError | IsADirectoryError) or "ACCESS_DENIED" in str(error)


@contextmanager
def storage_errors(name: str | Path) -> Iterator[None]:
    """Turn errors of an object store into one line.

    Raises:
        StorageError: in place of Arrow's ``OSError``; errors of local files pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if not is_remote(name):
            raise
        raise StorageError(
            f"{name} cannot be reached: {first_line(error)}; check the name, the credentials "
            "(AWS_*, ~/.aws or GOOGLE_APPLICATION_CREDENTIALS), the region and AWS_ENDPOINT_URL"
        ) from error
