"""Folders as people have them: links, pipes, names in other encodings, folders that are closed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import pipelines.sources.folder
from common.errors import SourceError
from common.storage import open_file
from pipelines.images.errors import ImageError
from pipelines.images.pixels import read
from pipelines.images.reader import read_image
from pipelines.sources.contents import hash_file, with_hashes
from pipelines.sources.plan import Plan
from pipelines.sources.read import read_source
from pipelines.sources.taken import with_times
from tests.helpers.pictures import drawn


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("1.jpg", "2.jpg", "night10/1.jpg", "night2/10.jpg", "night2/9.jpg"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn(1, width=32, height=32).save(file)
    return tmp_path / "photos"


def names_of(plan: Plan) -> list[str]:
    return plan.table["image"].to_pylist()


def test_rows_are_in_natural_order_files_before_folders(photos: Path) -> None:
    plan = read_source(str(photos))
    assert names_of(plan) == ["1.jpg", "2.jpg", "night2/9.jpg", "night2/10.jpg", "night10/1.jpg"]
    assert plan.table["frame"].to_pylist() == [0, 1, 0, 1, 0]
    assert plan.notes == ()


def test_links_to_folders_are_followed_once(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other disk"
    (other / "deep").mkdir(parents=True)
    drawn(2).save(other / "deep" / "3.jpg")
    (photos / "card").symlink_to(other)
    (other / "deep" / "round").symlink_to(other)  # a circle outside
    (photos / "a-latest").symlink_to(photos / "night2")  # read at its own place
    (photos / "up").symlink_to(tmp_path)  # holds the source
    (photos / "night2" / "self").symlink_to(photos)
    plan = read_source(str(photos))
    assert names_of(plan)[2] == "card/deep/3.jpg"
    assert plan.table.num_rows == 6
    (note,) = plan.notes
    for link in ("a-latest", "up", "night2/self", "card/deep/round"):
        assert link in note


def test_links_to_nothing_and_to_themselves_are_errors_of_their_rows(photos: Path) -> None:
    (photos / "3.jpg").symlink_to("gone.jpg")
    (photos / "4.jpg").symlink_to("4.jpg")
    (photos / "5.jpg").symlink_to("1.jpg")
    plan = read_source(str(photos))
    assert names_of(plan)[2:5] == ["3.jpg", "4.jpg", "5.jpg"]
    for name, kind in (("3.jpg", "missing file"), ("4.jpg", "unreadable file")):
        with pytest.raises(ImageError) as caught:
            read(photos / name)
        assert caught.value.kind == kind
    hashes = with_times(with_hashes(plan)).table["image_hash"].to_pylist()
    assert hashes[2:4] == [None, None]
    assert hashes[4] == hashes[0]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["images", "video"])
def test_pipes_and_sockets_are_named_and_never_waited_for(photos: Path, kind: str) -> None:
    os.mkfifo(photos / "pipe.jpg")
    os.mkfifo(photos / "pipe.mp4")
    (photos / "link.jpg").symlink_to("pipe.jpg")
    (photos / "zero.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(photos / "socket.jpg"))
        plan = read_source(str(photos), kind=kind)  # type: ignore[arg-type]
    assert plan.skipped == {"a named pipe": 3, "a socket": 1, "a device": 1}
    assert all(name in plan.notes[0] for name in ("pipe.jpg", "link.jpg", "zero.jpg", "socket.jpg"))


@pytest.mark.timeout(20)
def test_a_manifest_that_names_a_pipe_does_not_wait(photos: Path) -> None:
    for name in ("pipe.jpg", "pipe.mp4"):
        os.mkfifo(photos / name)
    manifest = photos / "rows.csv"
    manifest.write_text("image\npipe.jpg\n1.jpg\npipe.mp4#frame=1\n/dev/zero\n")
    plan = with_times(with_hashes(read_source(str(manifest))))
    assert [value is None for value in plan.table["image_hash"].to_pylist()] == [
        *(True, False, True, True)
    ]
    for file in (photos / "pipe.jpg", Path("/dev/zero")):
        assert hash_file(file) is None
        with pytest.raises(ImageError) as caught:
            read(file)
        assert caught.value.kind == "unreadable file"
        with pytest.raises(OSError, match="not a file"):
            open_file(file)
    for suffix in (".csv", ".parquet", ".jsonl"):
        os.mkfifo(photos / f"pipe{suffix}")
        with pytest.raises(SourceError, match="no file"):
            read_source(str(photos / f"pipe{suffix}"))
    for name in plan.table["image"].to_pylist()[2:]:  # a frame of it, as well
        with pytest.raises(ImageError) as caught:
            read_image(plan.root, name)
        assert caught.value.kind == "unreadable file"


def test_names_that_are_not_utf_8_are_said(photos: Path) -> None:
    for name in (b"caf\xe9.jpg", b"\xff\xfe.jpg"):
        Path(os.fsdecode(os.fsencode(photos) + b"/" + name)).write_bytes(b"")
    folder = Path(os.fsdecode(os.fsencode(photos) + b"/n\xfcit"))
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"")
    plan = with_times(with_hashes(read_source(str(photos))))
    assert plan.table.num_rows == 5
    assert plan.unread == 3
    (note,) = plan.notes
    assert all(name in note for name in (r"caf\xe9.jpg", r"\xff\xfe.jpg", r"n\xfcit"))


@pytest.mark.parametrize("kind", ["images", "video"])
def test_folders_that_cannot_be_read_are_said(
    photos: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as the superuser, who can read every folder."""
    scandir = os.scandir

    def denied(path: Path) -> object:
        if Path(path).name == "night2":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(pipelines.sources.folder.os, "scandir", denied)
    plan = read_source(str(photos), kind=kind, **({"frames": 0} if kind == "video" else {}))  # type: ignore[arg-type]
    assert plan.table.num_rows == 3
    assert plan.unread == 1
    assert "night2 (Permission denied)" in plan.notes[0]
    monkeypatch.setattr(pipelines.sources.folder, "IMAGE_SUFFIXES", frozenset())
    with pytest.raises(SourceError, match="night2"):
        read_source(str(photos))
