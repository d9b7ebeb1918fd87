"""Object stores as paths, on a real S3 server that fails now and then."""

from __future__ import annotations

import pickle
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import SourceError, StorageError
from common.storage import list_folder, remove_folder, to_path
from pipelines.images.decode import decode_rows
from pipelines.model_info import Preprocess
from pipelines.sources.read import read_source
from tests.helpers.commands import onepass
from tests.helpers.pictures import bad_folder, photo_folder
from tests.helpers.refusals import only_error
from tests.helpers.s3 import Rule, Store

SMALL = Preprocess(input_size=(32, 32), resize="squash", mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    "rule",
    [
        Rule("error", times=2),
        Rule("error", status=500, times=2),
        Rule("lost", times=2),
        Rule("cut", times=2),
        Rule("stall", times=1, seconds=1),
    ],
    ids=lambda rule: f"{rule.kind}{rule.status}",
)
def test_faults_are_retried(s3: Store, rule: Rule) -> None:
    file = to_path("s3://bucket/folder/file")
    s3.faults(rule)
    file.write_bytes(b"12345" * 100_000)
    assert file.read_bytes() == b"12345" * 100_000
    assert s3.counts()[rule.kind] == rule.times
    assert s3.read("folder/file") == b"12345" * 100_000


def test_retries_do_not_run_out(s3: Store) -> None:
    """The retries of Arrow's standard strategy run out after a hundred in a process."""
    file = to_path("s3://bucket/folder/file")
    file.write_bytes(b"1")
    s3.faults(Rule("error", share=0.15))
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: file.read_bytes(), range(500))) == {b"1"}
    assert s3.counts()["error"] > 110


@pytest.mark.parametrize("name", ["a#b.jpg", "a?b.jpg", "a%20b.jpg", "ü/x y.jpg", "a*b[1].jpg"])
def test_special_characters_in_names_are_kept(s3: Store, name: str) -> None:
    s3.write(f"im ages/{name}", b"1")
    for file in (to_path("s3://bucket/im ages") / name, to_path(f"s3://bucket/im ages/{name}")):
        assert file.read_bytes() == b"1"
        assert pickle.loads(pickle.dumps(file)).read_bytes() == b"1"  # noqa: S301
    assert list_folder(to_path("s3://bucket/im ages"))


def test_a_store_that_does_not_answer_is_not_an_empty_one(s3: Store) -> None:
    s3.write("run/detections/part-0.parquet", b"1")
    folder = to_path("s3://bucket/run")
    s3.faults(Rule("error", status=403))
    for call in (
        lambda: list_folder(folder / "detections"),
        lambda: list(folder.glob("*")),
        folder.exists,
        folder.is_dir,
        lambda: folder.joinpath("manifest.json").is_file(),
        lambda: remove_folder(folder),
    ):
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            call()


def test_a_folder_has_the_same_plan_in_a_store(s3: Store, tmp_path: Path) -> None:
    photo_folder(tmp_path / "photos", 5, width=32, height=32)
    for name in ("b/x.png", "b.jpg", "a/z/1.jpg", "a/2.jpg", "B/1.jpg", "notes.txt"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"")
    s3.upload(tmp_path / "photos", "photos")
    here, there = read_source(str(tmp_path / "photos")), read_source("s3://bucket/photos/")
    assert there.table.equals(here.table)
    assert there.skipped == here.skipped == {".txt": 1}


def test_bad_images_have_the_same_errors_in_a_store(s3: Store, tmp_path: Path) -> None:
    bad_folder(tmp_path / "bad")
    s3.upload(tmp_path / "bad", "bad")
    here, there = (
        read_source(str(tmp_path / "bad/rows.csv")),
        read_source("s3://bucket/bad/rows.csv"),
    )
    expected = decode_rows(here.table, here.root, {"pixels": SMALL})
    rows = decode_rows(there.table, there.root, {"pixels": SMALL})
    for name in ("image", "error", "pixels"):
        assert rows[name].equals(expected[name])


def test_a_refused_image_is_an_error_row_and_an_outage_is_an_error(
    s3: Store, tmp_path: Path
) -> None:
    s3.upload(photo_folder(tmp_path / "photos", 6, width=32, height=32), "photos")
    uris = [f"s3://bucket/photos/night{n % 2}/{n:04d}.jpg" for n in range(7)]
    (tmp_path / "rows.csv").write_text("\n".join(["image", *uris]))
    plan = read_source(str(tmp_path / "rows.csv"))
    s3.faults(
        Rule("error", status=403, key="0003"), Rule("error", share=0.1), Rule("cut", share=0.1)
    )
    errors = decode_rows(plan.table, plan.root, {"pixels": SMALL})["error"].to_pylist()
    assert [error and error.split(" [")[0] for error in errors] == [
        *(None, None, None, "unreadable file: 0003.jpg: access denied", None, None),
        "missing file: 0006.jpg does not exist",
    ]
    s3.faults(Rule("error", key="0004"))
    with pytest.raises(StorageError, match=r"0004\.jpg cannot be reached: .*503"):
        decode_rows(plan.table, plan.root, {"pixels": SMALL})


def test_videos_in_a_store_are_refused(s3: Store) -> None:
    s3.write("clips/a.mp4", b"1")
    with pytest.raises(SourceError, match="copy them to a folder"):
        read_source("s3://bucket/clips", kind="video")


def test_google_without_credentials_fails_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "create_connection", unreachable)
    file = to_path("gs://bucket/run")
    assert (str(file / "a"), file.name) == ("gs://bucket/run/a", "run")
    with pytest.raises(StorageError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        file.exists()


@pytest.mark.parametrize(
    "command",
    [
        ("link", "s3://bucket/run"),
        ("tracks", "export", "s3://bucket/run", "--format", "mot", "--out", "x"),
        ("database", "compare", "s3://bucket/run", "sqlite:///x.db"),
        ("migrate", "s3://bucket/run", "--model", "tiny", "--out", "x"),
        ("clips", "runs/first", "--out", "s3://bucket/clips"),
    ],
    ids=lambda command: command[0],
)
def test_commands_that_need_a_local_folder_refuse_uris(command: tuple[str, ...]) -> None:
    done = onepass(*command)
    assert "s3://bucket/" in only_error(done.returncode, done.stdout, done.stderr)
