"""The base of manifests: written whole, read back, and compared with the files it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import RunError, VerifyError
from common.json_models import sha256_file
from common.manifests import MANIFEST, Manifest


class Album(Manifest):
    title: str


@pytest.fixture
def album(tmp_path: Path) -> Album:
    (tmp_path / "a.txt").write_text("a")
    written = Album(title="Käfer", files={"a.txt": sha256_file(tmp_path / "a.txt")})
    written.write(tmp_path)
    return written


def test_it_is_read_as_it_was_written_with_its_files_last(tmp_path: Path, album: Album) -> None:
    assert Album.read(tmp_path) == album
    assert list(json.loads((tmp_path / MANIFEST).read_text())) == [
        "format",
        "title",
        "files",
        "sha256",
    ]
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_what_differs_is_named(tmp_path: Path, album: Album) -> None:
    album.verify_files(tmp_path)
    (tmp_path / "a.txt").write_text("b")
    with pytest.raises(VerifyError, match=r"a\.txt"):
        album.verify_files(tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(VerifyError, match=r"a\.txt"):
        album.verify_files(tmp_path)


def test_no_flipped_bit_gives_another_manifest(tmp_path: Path, album: Album) -> None:
    file = tmp_path / MANIFEST
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(RunError, match=MANIFEST):
            Album.read(tmp_path)


def test_one_of_an_earlier_version_has_no_hash(tmp_path: Path, album: Album) -> None:
    record = json.loads((tmp_path / MANIFEST).read_text())
    del record["sha256"]
    (tmp_path / MANIFEST).write_text(json.dumps(record))
    assert Album.read(tmp_path) == album


@pytest.mark.parametrize("number", [0, -1, 2, 99])
def test_another_format_is_refused(tmp_path: Path, album: Album, number: int) -> None:
    album.model_copy(update={"format": number}).write(tmp_path)
    with pytest.raises(RunError, match="format"):
        Album.read(tmp_path)


def test_another_record_is_refused(tmp_path: Path, album: Album) -> None:
    (tmp_path / MANIFEST).write_text('{"format": 1, "files": {}, "pages": 3}')
    with pytest.raises(RunError, match=MANIFEST):
        Album.read(tmp_path)
