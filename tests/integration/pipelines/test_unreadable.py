"""Sources whose images are not there, or not all, and sources of which only some rows are wanted."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import onepass
from common.errors import InputError
from pipelines.run import Run
from tests.helpers.ami import change, fill
from tests.helpers.commands import here
from tests.helpers.pictures import photo_folder

TINY = ("--model", "tiny", "--precision", "fp32", "--engine", "eager")


def extract(source: object, out: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return here("extract", source, *TINY, "--out", out, *more)


def assert_refused(done: subprocess.CompletedProcess[str], *named: object) -> None:
    """Exit code 1, and one line that names the folders."""
    assert done.returncode == 1
    (line,) = (text for text in done.stderr.splitlines() if text.startswith("error:"))
    for name in named:
        assert str(name) in line
    assert "Traceback" not in done.stderr


def assert_answered(out: Path, rows: int) -> None:
    counts = Run.open(out).manifest.rows
    assert (counts.written, counts.failed) == (rows, 0)
    assert here("inspect", out, "--verify").returncode == 0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos", 6, width=64, height=48)


def manifest_of(photos: Path, file: Path, names: list[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["image", *names]) + "\n")
    return file


def test_a_database_of_another_machine(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ami.db'}"
    fill(url, tmp_path / "traps")
    (tmp_path / "traps").rename(tmp_path / "moved")
    out = tmp_path / "run"
    for more, old in (
        ((), "traps"),
        (("--where", "deployment = 'south'"), "traps/south"),
        (("--dry-run",), "traps"),
    ):
        refused = extract(url, out, *more)
        there = f"there is no {tmp_path / 'traps'};"
        assert_refused(refused, tmp_path / "traps/south", there, f"--images {tmp_path / old}=NEW")
        assert not (out / "request.json").exists()
    moved = f"{tmp_path / 'traps'}={tmp_path / 'moved'}"
    assert extract(url, out, "--images", moved).returncode == 0
    assert_answered(out, 16)
    assert extract(url, out).returncode == 0  # finished already


@pytest.mark.parametrize("relative", [True, False])
def test_a_manifest_whose_images_are_elsewhere(
    tmp_path: Path, photos: Path, relative: bool
) -> None:
    gone = tmp_path / "lists"
    names = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.jpg"))
    given = names if relative else [str(gone / name) for name in names]
    source, out = manifest_of(photos, gone / "rows.csv", given), tmp_path / "run"
    assert_refused(extract(source, out), gone / "night0", "--images")
    with pytest.raises(onepass.WorkError, match=r"`images="):
        onepass.extract(source, "tiny", out, progress=False)
    assert not (out / "request.json").exists()
    assert extract(source, out, "--images", f"{gone}={photos}").returncode == 0
    assert_answered(out, 6)


def test_most_images_are_missing(tmp_path: Path, photos: Path) -> None:
    names = sorted(str(file) for file in photos.rglob("*.jpg"))
    source, out = manifest_of(photos, tmp_path / "rows.csv", names), tmp_path / "run"
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(photos, elsewhere)
    for name in names[:4]:
        Path(name).unlink()
    done = extract(source, out)
    assert done.returncode == 0
    (warning,) = (text for text in done.stderr.splitlines() if text.startswith("warning:"))
    for part in ("4 of 6", str(photos / "night0"), "--images", "--update"):
        assert part in warning
    assert Run.open(out).manifest.rows.failed == 4
    done = extract(source, out, "--update", "--images", f"{photos}={elsewhere}")
    assert done.returncode == 0, done.stderr
    assert_answered(out, 6)


def test_a_few_missing_images_are_no_warning(tmp_path: Path, photos: Path) -> None:
    names = sorted(str(file) for file in photos.rglob("*.jpg"))
    source = manifest_of(photos, tmp_path / "rows.csv", names)
    Path(names[0]).unlink()
    done = extract(source, tmp_path / "run")
    assert (done.returncode, done.stderr.count("warning:")) == (0, 0)


def test_an_update_when_nothing_can_be_read_changes_nothing(tmp_path: Path, photos: Path) -> None:
    names = sorted(str(file) for file in photos.rglob("*.jpg"))
    source, out = manifest_of(photos, tmp_path / "rows.csv", names), tmp_path / "run"
    assert extract(source, out).returncode == 0
    before = (out / "manifest.json").read_bytes()
    photos.rename(tmp_path / "moved")
    assert_refused(extract(source, out, "--update"), photos)
    assert (out / "manifest.json").read_bytes() == before
    assert (
        extract(source, out, "--update", "--images", f"{photos}={tmp_path / 'moved'}").returncode
        == 0
    )
    assert_answered(out, 6)


@pytest.mark.parametrize("kind", ["images", "video", "manifest"])
def test_files_that_are_all_damaged(tmp_path: Path, kind: str) -> None:
    """They can be opened, so that there is a run: it tells what is wrong with each."""
    folder, out = tmp_path / "files", tmp_path / "run"
    folder.mkdir()
    suffix = "mp4" if kind == "video" else "jpg"
    for number in range(3):
        (folder / f"{number}.{suffix}").write_bytes(b"nothing")
    source = folder
    if kind == "manifest":
        source = manifest_of(folder, folder / "rows.csv", ["0.jpg", "1.jpg", "2.jpg"])
    more = ("--kind", "video") if kind == "video" else ()
    for number in range(2):
        done = here("extract", source, *TINY, "--out", out, *_typed(more), "--json")
        assert_refused(done, "3 rows")
        assert json.loads(done.stdout)["already_finished"] is bool(number)
    assert Run.open(out).manifest.rows.failed == 3
    assert here("inspect", out, "--verify").returncode == 0


def _typed(options: tuple[str, ...]) -> tuple[str, ...]:
    return ("--source", options[1]) if options else ()


def test_only_some_rows_of_a_source(tmp_path: Path) -> None:
    url, out = f"sqlite:///{tmp_path / 'ami.db'}", tmp_path / "run"
    fill(url, tmp_path / "traps", empty=())
    change(url, "UPDATE detections SET binary_label = 'nonmoth' WHERE id % 3 = 0")
    where = "binary_label = 'moth' AND deployment = 'north' AND night = '2022-06-21'"
    whole = onepass.extract(url, "tiny", tmp_path / "whole", precision="fp32", progress=False)
    assert extract(url, out, "--where", where).returncode == 0
    assert_answered(out, 7)
    run = Run.open(out)
    assert run.manifest.config is not None
    assert run.manifest.config.where == where
    assert run.columns == whole.columns  # the columns to choose by are not kept
    expected = whole.to_pandas(["detection_id", "frame", "embedding"]).set_index("detection_id")
    for row in run.to_pandas(["detection_id", "frame", "embedding"]).itertuples():
        assert row.frame == expected.loc[row.detection_id].frame
        np.testing.assert_allclose(
            row.embedding, expected.loc[row.detection_id].embedding, atol=1e-6
        )
    assert here("link", out).returncode == 0
    counted = here("database", "write", out, url, "--json")
    assert counted.returncode == 0, counted.stderr
    for other in ((), ("--where", "binary_label = 'moth'")):
        refused = extract(url, out, *other)
        assert refused.returncode == InputError.exit_code
        assert "where" in refused.stderr
    refused = extract(url, tmp_path / "none", "--where", "colour = 'red'")
    assert refused.returncode == InputError.exit_code
    assert "binary_label" in refused.stderr
    assert not (tmp_path / "none").exists()


def test_an_update_keeps_the_frames_of_rows_that_were_chosen(tmp_path: Path, photos: Path) -> None:
    out, where = tmp_path / "run", "frame % 2 = 1"
    assert extract(photos, out, "--where", where).returncode == 0
    assert Run.open(out).to_arrow(["frame"])["frame"].to_pylist() == [1, 1]
    photo_folder(tmp_path / "new", 10, width=64, height=48)
    for number in (6, 7, 8, 9):
        name = f"night{number % 2}/{number:04d}.jpg"
        shutil.copy(tmp_path / "new" / name, photos / name)
    assert extract(photos, out, "--where", where, "--update").returncode == 0
    rows = Run.open(out).to_pandas(["image", "frame"])
    frames = dict(zip(rows["image"], rows["frame"], strict=True))
    assert frames == {f"night{number % 2}/{number:04d}.jpg": number // 2 for number in (2, 3, 6, 7)}
