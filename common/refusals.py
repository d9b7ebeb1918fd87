"""What the operating system refuses, told apart from files that are damaged.

A process that has too many open files, or no right to read, cannot read a file that is whole. FAISS
reports that as a ``RuntimeError`` like any other, and Arrow sometimes without its number.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import FileAccessError
from common.storage import is_remote, storage_errors

# The name leads to no file, or to no such one: then the folder is not what it should be.
_WRONG_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL}
_NO_HANDLE = {errno.EMFILE, errno.ENFILE}
_NO_RIGHT = {errno.EACCES, errno.EPERM}
_REFUSALS = {
    *_NO_HANDLE,
    *_NO_RIGHT,
    errno.ENOMEM,
    errno.EIO,
    errno.ESTALE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.ETIMEDOUT,
    errno.ENOLCK,
    errno.ENXIO,
    errno.EREMOTEIO,
    errno.EHOSTDOWN,
}


def refusal(error: BaseException) -> int | None:
    """The number of the operating system's error that is behind an error; None: there is none.

    Args:
        error: of Python, Arrow, NumPy or FAISS, from opening or reading a file.
    """
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return None if error.errno in _WRONG_FILE else error.errno
    text = str(error)
    return next((number for number in sorted(_REFUSALS) if os.strerror(number) in text), None)


def access_error(file: Path, number: int) -> FileAccessError:
    """The error for a file that this machine refused to open or read.

    Args:
        file: it, or its folder.
        number: as ``refusal`` returns it.
    """
    if number in _NO_HANDLE:
        advice = "raise the limit of open files (ulimit -n), or close other programs"
    elif number == errno.ENOMEM:
        advice = "free memory, or raise the limits of it (ulimit -v, vm.max_map_count)"
    elif number in _NO_RIGHT:
        advice = "give this user the right to read it"
    else:
        advice = "check the disk"
    return FileAccessError(
        f"{file} cannot be read now: {os.strerror(number)}; it may be whole: {advice}, then try again"
    )


@contextmanager
def read_errors(name: str | Path) -> Iterator[None]:
    """Turn refusals of this machine, and errors of an object store, into one line.

    Raises:
        FileAccessError: this machine refused; other errors of local files pass unchanged.
        StorageError: the object store did not answer.
    """
    with storage_errors(name):
        try:
            yield
        except OSError as error:
            number = None if is_remote(name) else refusal(error)
            if number is None:
                raise
            raise access_error(Path(name), number) from error
