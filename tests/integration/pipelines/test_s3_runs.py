"""Runs in an object store that fails: nothing lost, nothing twice, the same embeddings."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.storage import to_path
from pipelines.embeddings import matrix
from pipelines.run import Run
from tests.helpers.commands import here, onepass
from tests.helpers.killed_runs import kill_once
from tests.helpers.pictures import photo_folder
from tests.helpers.processes import group
from tests.helpers.refusals import only_error
from tests.helpers.s3 import Rule, Store

PHOTOS = 48
RUN = "s3://bucket/runs/first"
EXACT = ("--model", "tiny", "--precision", "fp32", "--engine", "eager", "--executor", "ray")
SECONDS = 300
WEATHER = (
    # A request is tried nine times; at 12 % one in 200 million fails every time.
    Rule("error", share=0.04),
    Rule("error", share=0.04, status=500),
    Rule("lost", share=0.04, method="PUT"),
    Rule("cut", share=0.03, method="GET"),
    Rule("stall", share=0.01, seconds=1),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), PHOTOS, width=64, height=64)


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The embeddings of a local run, by row."""
    out = tmp_path_factory.mktemp("local") / "run"
    done = here("extract", photos, *EXACT[:-1], "local", "--out", out)
    assert done.returncode == 0, done.stderr
    return embeddings(Run.open(out))


def embeddings(run: Run) -> np.ndarray:
    return matrix(run.to_arrow(["embedding"])["embedding"].combine_chunks())


def checkpoints(s3: Store) -> tuple[set[str], set[str]]:
    """Ids of checkpoints: committed, pending."""
    names = [Path(key).name for key in s3.stored("runs/first/checkpoint")]
    pending = {name.split(".")[0] for name in names if ".pending." in name}
    return {name.split(".")[0] for name in names if ".pending." not in name}, pending


@pytest.mark.ray
@pytest.mark.timeout(2 * SECONDS)
def test_faults_and_a_move_that_stopped_half_way(
    ray_session: None, s3: Store, photos: Path, undisturbed: np.ndarray
) -> None:
    s3.upload(photos, "photos")
    command = ("extract", "s3://bucket/photos", *EXACT, "--out", RUN, "--hdf5")
    # A checkpoint's move is a copy and a deletion; the deletion is refused, however often tried.
    s3.faults(Rule("error", status=403, method="DELETE", key="pending"), *WEATHER)
    stopped = here(*command)
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1].endswith(
        "what is written is kept, the same command continues (--debug shows where)"
    )
    committed, pending = checkpoints(s3)
    assert committed & pending  # Ray's next session would delete the data of these

    s3.faults(*WEATHER, seed=1)
    done = here(*command)
    assert done.returncode == 0, done.stderr
    injected = s3.counts()
    assert injected["error"] > 5, injected
    assert injected["cut"] > 0, injected
    checked = here("inspect", RUN, "--verify")
    print(f"\n$ onepass {' '.join(command)}\n{done.stdout}injected: {injected}")
    print(f"$ onepass inspect {RUN} --verify\n{checked.stdout}")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.splitlines()[-1].startswith("verified: ")
    s3.faults()
    run = Run.open(RUN)
    assert run.manifest.rows.written == PHOTOS
    assert not run.manifest.errors
    np.testing.assert_array_equal(embeddings(run), undisturbed)
    assert s3.stored("runs/first/checkpoint") == []
    assert "runs/first/.lock" not in s3.stored("runs/first")


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(4 * SECONDS)
def test_killed_again_and_again(
    s3: Store, photos: Path, undisturbed: np.ndarray, tmp_path: Path
) -> None:
    command = ("extract", photos, *EXACT, "--out", RUN)
    s3.faults(*WEATHER, Rule("slow", seconds=1, method="PUT", key="detections"))
    for events in (2, 4):
        kill_once(_line(*command), to_path(RUN), events, tmp_path / "log", seconds=SECONDS)
        assert "runs/first/.lock" in s3.stored("runs/first")
    done = onepass(*command, "--json", seconds=SECONDS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed_rows"] > 0
    assert "waiting whether an earlier session" in done.stderr
    s3.faults()
    checked = onepass("inspect", RUN, "--verify")
    assert checked.returncode == 0, checked.stderr
    np.testing.assert_array_equal(embeddings(Run.open(RUN)), undisturbed)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(4 * SECONDS)
def test_stalls_past_the_clients_limit(s3: Store, photos: Path, undisturbed: np.ndarray) -> None:
    s3.faults(
        Rule("stall", method="PUT", key="detections", times=2, seconds=60),
        Rule("stall", method="GET", key="plan", times=2, seconds=60),
        Rule("stall", method="HEAD", times=1, seconds=60),
    )
    done = onepass("extract", photos, *EXACT, "--out", RUN, seconds=2 * SECONDS)
    assert done.returncode == 0, done.stderr
    assert s3.counts()["stall"] == 5
    s3.faults()
    assert onepass("inspect", RUN, "--verify").returncode == 0
    np.testing.assert_array_equal(embeddings(Run.open(RUN)), undisturbed)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(4 * SECONDS)
def test_a_store_that_dies_in_the_middle(
    s3: Store, photos: Path, undisturbed: np.ndarray, tmp_path: Path
) -> None:
    command = ("extract", photos, *EXACT, "--out", RUN, "--stall-seconds", 60)
    log = tmp_path / "log"
    s3.faults(Rule("slow", seconds=1, method="PUT", key="detections"))
    with group(_line(*command), log) as process:
        deadline = time.monotonic() + SECONDS
        while not s3.stored("runs/first/detections"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        s3.faults(Rule("error"))  # for ever
        began = time.monotonic()
        assert process.wait(timeout=SECONDS) in (1, 2)
        ended = time.monotonic() - began
    assert log.read_text().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in log.read_text()
    began = time.monotonic()
    again = onepass(*command, seconds=SECONDS)
    assert "cannot be reached" in only_error(again.returncode, again.stdout, again.stderr)
    print(f"\nended after {ended:.0f} s: {log.read_text().splitlines()[-1]}")
    print(f"refused after {time.monotonic() - began:.0f} s: {again.stderr}")
    s3.faults()
    assert onepass(*command, seconds=SECONDS).returncode == 0
    np.testing.assert_array_equal(embeddings(Run.open(RUN)), undisturbed)


def _line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "onepass", *map(str, arguments)]
