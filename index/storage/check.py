"""The files of a version are compared with its manifest before they are opened.

FAISS reads files that are whole only: a damaged one can end the process. All but the vectors is compared
first. The vectors are by far the largest file, and a header is all that FAISS reads of them; a server
may compare them while it answers already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from common.compared import Trust, compare
from index.storage.layout import VECTORS

Check = Literal["known", "all", "later"]
"""How much of a version is compared before it is opened.

- ``known``: all, but for large files that a process of this user has compared within a day
- ``all``: all
- ``later``: all but large vectors, which the caller compares while it uses the version
"""

LATER_BYTES = 512 * 2**20
"""Vectors of more bytes than this may be compared later: 0.3 s on one core, 3 s from a slow disk.

Up to here a server waits for it, since it takes as long to start anyway."""

_THEN = (
    "; build the index again, or serve a version that is whole: 'onepass index promote' compares it "
    "first"
)
_CACHED = "; delete this file, and it is fetched again"

Files = Mapping[str, str]


def check_parts(
    parts: Sequence[tuple[Path, Files]],
    *,
    without: Sequence[str] = (),
    check: Check = "known",
    cached: bool = False,
) -> dict[Path, str]:
    """Compare files of a version with their sha256.

    Args:
        parts: folders on this machine, and the sha256 of their files.
        without: names of files that are not opened.
        check: how much is compared.
        cached: whether they are copies from an object store.

    Returns:
        The vectors that are to be compared later, with their sha256; none unless ``check`` says so.

    Raises:
        VerifyError: a file is missing or differs.
        FileAccessError: this machine refused to read one.
    """
    files = {
        folder / name: sha256
        for folder, hashes in parts
        for name, sha256 in hashes.items()
        if name not in without
    }
    later = {file: sha256 for file, sha256 in files.items() if file.name == VECTORS}
    if check != "later" or sum(map(_size, later)) <= LATER_BYTES:
        later = {}
    now = {file: sha256 for file, sha256 in files.items() if file not in later}
    compare_files(now, trust="user" if check == "known" else "process", cached=cached)
    return later


def compare_files(files: Mapping[Path, str], *, trust: Trust, cached: bool = False) -> None:
    """Compare files of a version with their sha256; parameters and errors as ``check_parts``."""
    compare(files, trust=trust, then=_CACHED if cached else _THEN)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
