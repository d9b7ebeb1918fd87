"""Files that version 0.1.0 wrote: opened, verified, searched, continued and promoted.

``0.1.0.tar.xz`` holds runs (one killed half way), tracks, two indexes, a migration that missed its
limits, clip files, a head, the tracks of a live camera, and what that version answered from them.
Runs know their images by absolute paths, so the files have to lie where they were written.
"""

from __future__ import annotations

import base64
import fcntl
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from api.client import Client
from tests.helpers.api.world import serving
from tests.helpers.commands import here

HOME = Path("/tmp/onepass-0.1.0")  # noqa: S108
COLUMNS = ["row_id", "label", "score", "embedding", "detection_id"]
EXTRACT = (
    *("extract", "photos/boxes.csv", "--model", "tiny", "--precision", "fp32"),
    *("--engine", "eager", "--executor", "local", "--hdf5", "--out"),
)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with Path(f"{HOME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # by whoever else runs these tests on this machine
        shutil.rmtree(HOME, ignore_errors=True)
        with tarfile.open(Path(__file__).with_name("0.1.0.tar.xz")) as archive:
            archive.extractall(HOME.parent, filter="data")
        yield HOME
        shutil.rmtree(HOME)


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def answers(home: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((home / "answers.json").read_text())
    return loaded


def nearly(value: Any) -> Any:
    """``value`` with numbers that equal others near them: processors round the last digits apart."""
    if isinstance(value, dict):
        return {key: nearly(part) for key, part in value.items()}
    if isinstance(value, list):
        return [nearly(part) for part in value]
    return pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value


def _rows_of(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted(folder.glob("*.parquet")))


def done(*command: object) -> str:
    ended = here(*command)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_commands_answer_as_they_did(answers: dict[str, Any]) -> None:
    assert len(answers["command"]) == 14
    for command, answer in answers["command"].items():
        words = command.split() if "--where" not in command else _with_filter(command)
        now = json.loads(done(*words, "--json"))
        assert without_new_fields(now, answer) == nearly(answer), command


def without_new_fields(now: Any, answer: Any) -> Any:
    """``now`` with only the fields that ``answer`` has, at every depth."""
    if isinstance(now, dict) and isinstance(answer, dict):
        return {
            name: without_new_fields(value, answer[name])
            for name, value in now.items()
            if name in answer
        }
    if isinstance(now, list) and isinstance(answer, list) and len(now) == len(answer):
        return [without_new_fields(*pair) for pair in zip(now, answer, strict=True)]
    return now


def _with_filter(command: str) -> list[str]:
    before, _, where = command.partition(" --where ")
    return [*before.split(), "--where", where]


def test_the_service_answers_as_it_did(answers: dict[str, Any]) -> None:
    assert len(answers["http"]) == 18
    with serving(Path("photos.index")) as client:
        for name, asked in answers["http"].items():
            answer = client.request(asked["method"], asked["url"], json=asked["json"])
            body = base64.b64decode(asked["body"])
            assert answer.status_code == asked["status"], name
            if "json" not in answer.headers["content-type"]:
                assert answer.content == body, name
                continue
            now, then = answer.json(), json.loads(body)
            for told in (now, then):
                told.pop("since", None)  # when the service began
            assert without_new_fields(now, then) == nearly(then), name


def test_a_live_camera_goes_on(answers: dict[str, Any]) -> None:
    with (
        serving(Path("photos.index")) as http,
        Client(str(http.base_url)) as client,
    ):
        for frame in answers["live"]:  # the first three are in the file, the others are new
            answer = client.link(
                "trap",
                frame["boxes"],
                request_id=f"trap/{frame['frame']}",
                image=base64.b64decode(frame["png"]),
                frame=frame["frame"],
            )
            now, then = answer.model_dump(mode="json"), frame["answer"]
            assert without_new_fields(now, then) == nearly(then)


@pytest.mark.parametrize("run", ["first", "second", "clips"])
def test_runs_are_whole(run: str) -> None:
    assert "not verified: manifest.json itself" in done("inspect", f"runs/{run}", "--verify")


def test_the_profile_of_a_run_is_drawn(tmp_path: Path) -> None:
    done("inspect", "runs/first", "--profile", tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_left_alone() -> None:
    before = _changed("runs/first")
    told = json.loads(done(*EXTRACT, "runs/first", "--json"))
    assert told["already_finished"] is True
    assert _changed("runs/first") == before


def _changed(folder: str) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in Path(folder).rglob("[!.]*.*")}


def test_a_killed_run_is_continued_to_the_same_rows() -> None:
    told = json.loads(done(*EXTRACT, "runs/killed", "--json"))
    assert told["resumed_rows"] == 18
    assert told["rows"]["written"] == 36
    done("inspect", "runs/killed", "--verify")
    continued = _rows_of(Path("runs/killed/detections")).select(COLUMNS).sort_by("row_id")
    whole = _rows_of(Path("runs/first/detections")).select(COLUMNS).sort_by("row_id")
    assert continued.drop(["embedding", "score"]) == whole.drop(["embedding", "score"])
    for column in ("embedding", "score"):
        a, b = (
            np.array(table[column].combine_chunks().to_pylist()) for table in (continued, whole)
        )
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_finished_run_is_updated_and_keeps_its_ids() -> None:
    manifest, updated = Path("photos/boxes.csv"), Path("runs/updated")
    before = manifest.read_text()
    first = before.splitlines()[1]
    photo = Path("photos") / first.split(",")[0]
    hidden = photo.with_suffix(".hidden")
    shutil.copytree("runs/first", updated)
    try:
        manifest.write_text(before + first.replace(",2,12,", ",3,12,") + "\n")
        told = json.loads(done(*EXTRACT, updated, "--update", "--json"))
        assert (told["update"]["answered"], told["rows"]["written"]) == (1, 37)
        done("inspect", updated, "--verify")
        columns = [*COLUMNS, "frame", "error"]
        now = _rows_of(updated / "detections").sort_by("row_id")
        old = _rows_of(Path("runs/first/detections")).sort_by("row_id")
        assert (
            now.slice(0, 36)
            .select(columns)
            .combine_chunks()
            .equals(old.select(columns).combine_chunks())
        )
        assert None not in now["image_hash"].to_pylist()
        assert json.loads(done(*EXTRACT, updated, "--json"))["already_finished"] is True
        photo.rename(hidden)
        shutil.rmtree(updated)
        shutil.copytree("runs/first", updated)
        manifest.write_text(before)
        told = json.loads(done(*EXTRACT, updated, "--update", "--json"))
        assert told["update"]["vanished"] == [first.split(",")[0]]
        assert (told["rows"]["failed"], told["update"]["answered"]) == (0, 0)
    finally:
        if hidden.exists():
            hidden.rename(photo)
        manifest.write_text(before)
        shutil.rmtree(updated)


def test_tracks_are_exported_and_linked_again_alike(
    answers: dict[str, Any], tmp_path: Path
) -> None:
    def exported(name: str) -> dict[str, str]:
        done("tracks", "export", "runs/first", "--format", "mot", "--out", tmp_path / name)
        return {file.name: file.read_text() for file in (tmp_path / name).rglob("*.txt")}

    assert exported("old") == answers["mot"]
    done("link", "runs/first", "--executor", "local")
    assert exported("new") == answers["mot"]


def test_a_head_classifies_what_it_did() -> None:
    first = Path("runs/first/heads/species")
    then = _rows_of(first).sort_by("row_id")
    done("probe", "apply", "runs/first", "--head", "species.pt", "--out", "again")
    now = _rows_of(Path("again")).sort_by("row_id")
    assert now["label"].to_pylist() == then["label"].to_pylist()
    np.testing.assert_allclose(now["score"].to_numpy(), then["score"].to_numpy(), atol=1e-5)


def test_clips_are_left_alone_and_made_again_alike() -> None:
    import h5py

    command = ("clips", "runs/clips", "--scales", "1.0,0.85", "--executor", "local", "--out")
    assert json.loads(done(*command, "features", "--json"))["already_finished"] is True
    done(*command, "features-again")
    for split in ("train", "val"):
        name = f"{split}_features_multiscale.h5"
        with h5py.File(f"features/{name}") as old, h5py.File(f"features-again/{name}") as new:
            np.testing.assert_array_equal(new["features"][()], old["features"][()])
            assert list(new["ids"][()]) == list(old["ids"][()])


def test_an_index_grows_and_a_migration_is_promoted() -> None:
    assert "not verified: manifest.json itself" in done("inspect", "photos.index", "--verify")
    done("index", "promote", "photos.index", "v0003")
    listed = json.loads(done("index", "list", "photos.index", "--json"))
    assert json.dumps(listed).count("v0003") >= 1
    assert Path("photos.index/CURRENT").read_text().split()[0] == "v0003"
    done("index", "rollback", "photos.index")
    assert Path("photos.index/CURRENT").read_text().split()[0] == "v0002"
    done("index", "delete", "graph.index", "--where", "frame = 0")
    done("index", "compact", "graph.index", "--executor", "local")
    assert json.loads(done("inspect", "graph.index", "--json"))["rows"] == 33
    done("inspect", "graph.index", "--verify")
