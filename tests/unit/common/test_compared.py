"""Files are compared with their sha256, each once while it is unchanged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common import compared
from common.compared import compare
from common.errors import FileAccessError, VerifyError
from common.json_models import sha256_file


@pytest.fixture
def files(tmp_path: Path) -> dict[Path, str]:
    """Five files to their sha256."""
    for number in range(5):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * 100)
    return {file: sha256_file(file) for file in sorted(tmp_path.iterdir())}


def test_the_first_that_differs_is_named(files: dict[Path, str]) -> None:
    compare(files, trust="nothing", then="")
    names = list(files)
    names[3].write_bytes(b"other")
    names[1].write_bytes(b"other")
    with pytest.raises(VerifyError, match=r"1\.bin does not match .*; do this"):
        compare(files, trust="nothing", then="; do this")


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "in a file"])
def test_what_is_no_file_is_missing(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)  # to read it would wait for ever
    elif kind == "in a file":
        file.write_bytes(b"")
        file = file / "below"
    with pytest.raises(VerifyError, match="is named in the manifest but missing"):
        compare({file: "0" * 64}, trust="user", then="")


def test_a_refusal_is_no_damage(files: dict[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path) -> str:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(compared, "sha256_file", refuse)
    with pytest.raises(FileAccessError, match="Permission denied"):
        compare(files, trust="nothing", then="")


def test_a_process_knows_some_files_only(
    files: dict[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared, "_compared", {})
    monkeypatch.setattr(compared, "_MOST", 3)
    monkeypatch.setattr(compared, "_CLOCK_NS", -1)  # they may have been written long ago
    for file, sha256 in files.items():
        compare({file: sha256}, trust="process", then="")
    assert list(compared._compared) == [str(file) for file in list(files)[2:]]
    monkeypatch.setattr(compared, "sha256_file", lambda _: pytest.fail("it is known"))
    compare(dict(list(files.items())[2:]), trust="process", then="")


def test_a_cache_that_cannot_be_written_costs_time_only(
    files: dict[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared, "KNOWN_BYTES", 0)
    monkeypatch.setattr(compared, "_CLOCK_NS", -1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(next(iter(files))))  # a file
    compare(files, trust="user", then="")
