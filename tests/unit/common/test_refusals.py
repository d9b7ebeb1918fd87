"""What the operating system refuses is never taken for a damaged file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from common.errors import FileAccessError
from common.refusals import access_error, read_errors, refusal

OPEN = "Error in faiss::FileIOReader::FileIOReader(const char*): could not open v for reading: {}"
MAP = "Error: 'address != MAP_FAILED' failed: could not mmap(): {}"


@pytest.mark.parametrize(
    "name",
    [
        "EMFILE",
        "ENFILE",
        "ENOMEM",
        "EACCES",
        "EPERM",
        "EIO",
        "ESTALE",
        "ENOSPC",
        "EDQUOT",
        "ETIMEDOUT",
    ],
)
def test_the_number_behind_an_error(name: str) -> None:
    number = getattr(errno, name)
    reason = os.strerror(number)
    assert refusal(OSError(number, reason, "file")) == number
    assert refusal(OSError(f"Memory mapping file failed: {reason}")) == number
    assert refusal(RuntimeError(OPEN.format(reason))) == number
    assert refusal(RuntimeError(MAP.format(reason))) == number
    error = access_error(Path("photos.index"), number)
    assert reason in str(error)
    assert "damaged" not in str(error)


def test_memory_that_is_short() -> None:
    assert refusal(MemoryError("std::bad_alloc")) == errno.ENOMEM


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory"),
        RuntimeError(OPEN.format("No such file or directory")),
        RuntimeError("read error in v: 4955 != 1280000 (Success)"),
        RuntimeError(MAP.format("Invalid argument")),
        OSError("Expected to be able to read 8 bytes for message body, got 4"),
        ValueError("mmap length is greater than file size"),
        EOFError("No data left in file"),
    ],
)
def test_what_is_wrong_with_the_file_itself(error: Exception) -> None:
    assert refusal(error) is None


def test_errors_of_reading_become_one_line() -> None:
    with pytest.raises(FileAccessError, match="ulimit -n"), read_errors("photos.index"):
        raise OSError(errno.EMFILE, "Too many open files")
    with pytest.raises(FileNotFoundError), read_errors("photos.index"):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")
