"""What cannot be built, opened or asked for: one line, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError, RunError, SnapshotError
from common.json_models import configure
from index.build.version import build_index
from index.config import IndexConfig
from index.search.snapshot import Snapshot, current_version, list_versions
from tests.helpers.indexes import DIM, embeddings, make_run, tree
from tests.helpers.runs import TINY_FACTS


def refused(
    out: Path, runs: list[Path], match: str, memory_bytes: int | None = None, **fields: Any
) -> None:
    before = tree(out.parent)
    with pytest.raises(InputError, match=match) as caught:
        build_index(runs, out, configure(IndexConfig, **fields), memory_bytes=memory_bytes)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert tree(out.parent) == before


def test_runs_of_two_models_are_refused_with_both_fingerprints(tmp_path: Path) -> None:
    other = TINY_FACTS.model_copy(update={"weights_sha256": "1" * 64})
    a = make_run(tmp_path / "a", embeddings(5), prefix="a")
    b = make_run(tmp_path / "b", embeddings(5), prefix="b", facts=other)
    refused(tmp_path / "index", [a, b], f"{other.fingerprint}, .* has {TINY_FACTS.fingerprint}")


def test_runs_of_two_dimensions_are_refused(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", embeddings(5), prefix="a")
    b = make_run(tmp_path / "b", embeddings(5, dim=8), prefix="b")
    refused(tmp_path / "index", [a, b], "dimension 8, .* of 32")


def test_ids_that_stand_twice_are_refused(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", embeddings(5))
    b = make_run(tmp_path / "b", embeddings(3, seed=1))
    refused(tmp_path / "index", [a, b], r"'d0' is there 2 times \(in .*/a, .*/b; 3 ids")
    refused(tmp_path / "index", [a, a], r"'d0' is there 2 times \(in .*/a, .*/a; 5 ids")


def test_run_without_a_good_row_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", embeddings(2), errors={0: "torn", 1: "torn"})
    refused(tmp_path / "index", [run], r"no row to index: 2 have an error")


def test_bad_arguments_are_refused(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    refused(out, [], "no run was given")
    refused(out, [run], "'Nope'.* 'cosine'", factory="Nope")
    refused(out, [run], "'PQ4x4'.* 'l1'", factory="PQ4x4", metric="l1")
    refused(out, [run], "refining index is not needed", factory="IVF8,PQ4x4,Refine(SQ8)")
    refused(out, [run], "memory_bytes=1000.* 64 MB", memory_bytes=1000)
    refused(out, [run], "training on 700 rows", factory="IVF4096,Flat")
    with pytest.raises(RunError, match="no such run"):
        build_index([tmp_path / "nothing"], out)
    assert not out.exists()


def test_index_of_other_vectors_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "index"
    build_index([make_run(tmp_path / "a", embeddings(5))], out)
    b = make_run(tmp_path / "b", embeddings(5, dim=8))
    refused(out, [b], "serves v0001 of dimension 32, this build has 8")
    refused(out, [tmp_path / "a"], "of metric cosine, this build has l1", metric="l1")
    other = TINY_FACTS.model_copy(update={"weights_sha256": "1" * 64})
    c = make_run(tmp_path / "c", embeddings(5), facts=other)
    refused(out, [c], f"fingerprint {TINY_FACTS.fingerprint}, this build has {other.fingerprint}")


def test_folder_of_something_else_is_refused(tmp_path: Path, run: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "moth.jpg").touch()
    refused(tmp_path / "photos", [run], "holds 'moth.jpg' and is no index")
    refused(tmp_path / "photos" / "moth.jpg", [run], "is a file")


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path, run: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "index", [run], "cannot be written")


def test_bad_queries_are_refused(served: Snapshot) -> None:
    with pytest.raises(SnapshotError, match=r"shape \(1, 8\), .* dimension 32"):
        served.search(np.ones((1, 8)), 3)
    with pytest.raises(SnapshotError, match=r"shape \(32,\)"):
        served.search(np.ones(DIM), 3)
    with pytest.raises(SnapshotError, match="k=0"):
        served.search(np.ones((1, DIM)), 0)
    with pytest.raises(SnapshotError, match="k=0"):
        served.neighbors("d1", 0)


def test_missing_index_says_what_to_do(tmp_path: Path, run: Path) -> None:
    with pytest.raises(SnapshotError, match="does not exist; make one with 'onepass index build'"):
        Snapshot.open(tmp_path / "nothing")
    with pytest.raises(SnapshotError, match="holds no index"):
        Snapshot.open(tmp_path)
    assert (current_version(tmp_path), list_versions(tmp_path / "nothing")) == (None, [])
    out = tmp_path / "index"
    build_index([run], out)
    for version in ("v0007", "../index/v0001"):
        with pytest.raises(SnapshotError, match=r"has no version .* \(it has: v0001\)"):
            Snapshot.open(out, version)
    (out / "CURRENT").write_text("latest\n")
    with pytest.raises(SnapshotError, match="'latest'"):
        Snapshot.open(out)
