"""``onepass inspect`` of HDF5 files: what they say of themselves, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from cluster.tasks import Tasks
from common.errors import InputError, VerifyError
from index.build.version import build_index
from pipelines.outputs.clips.write import make_clips
from pipelines.outputs.hdf5 import write_hdf5
from pipelines.outputs.hdf5_info import read_h5, verify_h5
from tests.helpers.commands import here
from tests.helpers.refusals import only_error
from tests.helpers.runs import TINY_FACTS, make_config, request_of, write_run

DIM = 16
ROWS = 12


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run with its features.h5, its clips and its index; one row has an error."""
    folder = tmp_path_factory.mktemp("kept")
    plan = {
        "image": [f"{n}.jpg" for n in range(ROWS)],
        "sequence": [f"clip {n // 3}" for n in range(ROWS)],
        "frame": list(range(ROWS)),
        "split": ["all"] * ROWS,
        "category": ["bees"] * ROWS,
    }
    values = np.random.default_rng(1).normal(size=(ROWS, DIM))
    run = write_run(folder / "run", plan, values, errors={4: "decode: damaged [4.jpg]"})
    facts = TINY_FACTS.model_copy(update={"feature_dim": DIM})
    write_hdf5(run.path, request_of(make_config(hdf5=True), facts), Tasks("hdf5"))
    make_clips(run.path, folder / "clips")
    build_index([run.path], folder / "index")
    return SimpleNamespace(
        folder=folder,
        run=run.path,
        rows=run.path / "features.h5",
        clips=folder / "clips" / "all_features.h5",
        index=folder / "index",
        fingerprint=facts.fingerprint,
    )


def inspect(*arguments: object) -> tuple[int, str, str]:
    ended = here("inspect", *arguments)
    return ended.returncode, ended.stdout, ended.stderr


def test_clips_and_rows_say_what_they_are(kept: SimpleNamespace) -> None:
    code, out, _ = inspect(kept.clips, "--verify", "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["kind"], document["verified"]) == ("clips", True)
    assert document["attributes"]["backbone"] == "tiny"
    assert document["attributes"]["scales"] == [1.0]
    assert document["attributes"]["fingerprint"] == kept.fingerprint
    shard = ["shards/all_features-00000.h5"]
    assert {d["name"]: (d["shape"], d["dtype"], d["shards"]) for d in document["datasets"]} == {
        "features": ([3, 3, DIM], "float32", shard),
        "ids": ([3], "|S6", shard),
        "labels": ([3], "int64", shard),
        "num_frames": ([3], "int32", shard),
    }
    code, out, _ = inspect(kept.rows, "--verify")
    assert code == 0
    assert f"{kept.rows}: rows of a run\n" in out
    assert f"  features         float32 {ROWS} x {DIM}, in 2 shards\n" in out
    assert f"  fingerprint      {kept.fingerprint}\n" in out
    assert "verified: every value is there; no sha256 of them is known\n" in out


@pytest.mark.parametrize("what", ["rows", "clips", "run", "index"])
def test_links(
    kept: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Shards are beside the file itself, not beside a link to it."""
    target: Path = getattr(kept, what)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "absolute").symlink_to(target)
    (tmp_path / "links" / "relative").symlink_to(os.path.relpath(target, tmp_path / "links"))
    (tmp_path / "links" / "chain.h5").symlink_to("relative")
    (tmp_path / "folder").symlink_to(target.parent)
    expected = json.loads(inspect(target, "--verify", "--json")[1])
    for link in ("links/absolute", "links/relative", "links/chain.h5", f"folder/{target.name}"):
        code, out, error = inspect(link, "--verify", "--json")
        assert code == 0, error
        document = json.loads(out)
        assert document.pop("path", None) in (None, link, expected.get("path"))
        assert document == {name: value for name, value in expected.items() if name != "path"}


def test_a_row_that_is_not_there(kept: SimpleNamespace) -> None:
    """Row 4 has an error and is NaN on purpose; row 7 has none."""
    _, shard = sorted((kept.run / "hdf5").iterdir())
    whole = shard.read_bytes()
    try:
        with h5py.File(shard, "r+") as file:
            assert file["row_id"][1] == 7
            file["features"][1, 3] = np.nan
        with pytest.raises(VerifyError, match="features of row 7 was never written"):
            verify_h5(read_h5(kept.rows))
        shard.unlink()
        with pytest.raises(VerifyError, match=shard.name):
            read_h5(kept.rows)
        with h5py.File(kept.rows) as file:
            assert file["row_id"][6:].tolist() == [-1] * 6
            assert np.isnan(file["features"][6:]).all()
    finally:
        shard.write_bytes(whole)


@pytest.mark.parametrize("what", ["rows", "clips", "run", "index"])
def test_expected_dimension(kept: SimpleNamespace, what: str) -> None:
    path = getattr(kept, what)
    code, out, _ = inspect(path, "--expect-dim", DIM)
    assert code == 0
    assert str(path) in out
    only_error(*inspect(path, "--expect-dim", 1280))


def test_files_of_others(kept: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    shard = kept.folder / "clips" / "shards" / "all_features-00000.h5"
    for file in (tmp_path / "gone.h5", tmp_path / "text.h5", shard):
        with pytest.raises(InputError, match=file.name):
            read_h5(file)
