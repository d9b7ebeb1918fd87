"""Runs in an object store that fails: nothing lost, nothing twice, the same embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.extract import Options, extract
from pipelines.facts import ModelRequest
from pipelines.hdf5 import matrix
from pipelines.run import Run
from tests.commands import onepass
from tests.pictures import photo_folder
from tests.s3 import Rule, Store

PHOTOS = 96
RUN = "s3://bucket/runs/first"
EXACT = ("--model", "tiny", "--precision", "fp32", "--engine", "eager")
SECONDS = 300
WEATHER = (
    Rule("error", share=0.1),
    Rule("error", share=0.05, status=500),
    Rule("lost", share=0.03, method="PUT"),
    Rule("cut", share=0.05, method="GET"),
    Rule("stall", share=0.02, seconds=1),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), PHOTOS, width=64, height=64)


@pytest.fixture(scope="module")
def undisturbed(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> np.ndarray:
    """The embeddings of a local run, by row."""
    out = tmp_path_factory.mktemp("local") / "run"
    options = Options(precision="fp32", engine="eager")
    return embeddings(extract(str(photos), ModelRequest(spec="tiny"), out, options).run)


def embeddings(run: Run) -> np.ndarray:
    return matrix(run.table(["embedding"])["embedding"].combine_chunks())


def checkpoints(s3: Store) -> tuple[set[str], set[str]]:
    """Ids of checkpoints: committed, pending."""
    names = [Path(key).name for key in s3.stored("runs/first/checkpoint")]
    pending = {name.split(".")[0] for name in names if ".pending." in name}
    return {name.split(".")[0] for name in names if ".pending." not in name}, pending


@pytest.mark.ray
@pytest.mark.timeout(2 * SECONDS)
def test_faults_and_a_move_that_stopped_half_way(
    s3: Store, photos: Path, undisturbed: np.ndarray
) -> None:
    s3.upload(photos, "photos")
    command = ("extract", "s3://bucket/photos", *EXACT, "--out", RUN, "--hdf5")
    # A checkpoint's move is a copy and a deletion; this deletion is refused once.
    s3.faults(Rule("error", status=403, method="DELETE", key="pending", times=1), *WEATHER)
    stopped = onepass(*command, seconds=SECONDS)
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1].endswith(
        "what is written is kept, the same command continues (--debug shows where)"
    )
    committed, pending = checkpoints(s3)
    assert len(committed & pending) == 1  # Ray's next session would delete the data of these

    s3.faults(*WEATHER, seed=1)
    done = onepass(*command, seconds=SECONDS)
    assert done.returncode == 0, done.stderr
    injected = s3.counts()
    assert all(injected[kind] for kind in ("error", "lost", "cut", "stall")), injected
    checked = onepass("inspect", RUN, "--verify")
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
