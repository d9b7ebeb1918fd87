"""Embeddings that are zero or not finite: left out, counted and named; refused only if asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import OnepassWarning, SnapshotError
from index.build.update import add_runs, compact
from index.build.version import build_index
from index.config import IndexConfig
from index.search.snapshot import Snapshot
from migration.candidate import build_candidate
from onepass import search as api
from pipelines.run import Run
from tests.helpers.commands import here
from tests.helpers.indexes import DIM, embeddings, make_run, tree, true_hits
from tests.helpers.refusals import only_error
from tests.helpers.runs import TINY_FACTS

ROWS = 60
BAD = {3: 0.0, 17: np.nan, 18: np.inf, 40: -np.inf, 59: 0.0}
GOOD = [row for row in range(ROWS) if row not in BAD]


def spoilt() -> np.ndarray:
    """Vectors of which some are zero, and some hold one value that is not finite."""
    vectors = embeddings(ROWS)
    for row, value in BAD.items():
        vectors[row, 5 if value else slice(None)] = value
    return vectors


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", spoilt(), errors={7: "torn file"})


@pytest.mark.parametrize("factory", ["auto", "IVF4,Flat", "HNSW8"])
@pytest.mark.parametrize("metric", ["cosine", "l1"])
def test_other_rows_are_indexed_and_found(
    tmp_path: Path, run: Path, factory: str, metric: Any
) -> None:
    index = build_index([run], tmp_path / "index", IndexConfig(factory=factory, metric=metric))
    good = [row for row in GOOD if row != 7]
    manifest = index.manifest
    assert (manifest.rows, manifest.skipped) == (len(good), 6)
    assert manifest.skipped_reasons == {"error": 1, "zero": 2, "not_finite": 3}
    (note,) = manifest.notes
    for name in ("2 zero ('d3', 'd59')", "3 not finite ('d17', 'd18', 'd40')"):
        assert name in note
    assert (index.rows_of([f"d{row}" for row in BAD]) == -1).all()
    hits = index.search(spoilt()[good], 5, exact=True)
    true = true_hits(metric, spoilt()[good], spoilt()[good], 5)
    for found, expected in zip(hits.rows, true.rows, strict=True):
        assert index.columns(found)["detection_id"] == [f"d{good[row]}" for row in expected]
    assert index.verify() == len(good)


def test_every_batch_and_part_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.build.sources.run.BATCH_ROWS", 7)
    monkeypatch.setattr("index.build.inputs.PART_ROWS", 20)
    vectors = embeddings(100)
    vectors[::3] = 0
    index = build_index([make_run(tmp_path / "run", vectors, files=9)], tmp_path / "index")
    assert index.manifest.skipped_reasons == {"zero": 34}
    assert "34 zero ('d0', 'd3', 'd6', 'd9', 'd12' and 29 more)" in index.manifest.notes[0]
    assert index.manifest.runs[0].rows == 66


def test_strict_refuses_and_writes_nothing(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    with pytest.raises(SnapshotError, match="5 vectors have no direction") as caught:
        build_index([run], out, strict=True)
    assert "'d3', 'd59'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [name for name in tree(out) if not name.startswith(".")]
    build_index([make_run(tmp_path / "good", embeddings(9), prefix="g")], out, strict=True)
    with pytest.raises(SnapshotError, match="'d17', 'd18', 'd40'"):
        add_runs(out, [run], strict=True)
    assert Snapshot.open(out).manifest.version == "v0001"


def test_nothing_but_such_rows_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", np.zeros((4, DIM), np.float32), errors={1: "torn"})
    with pytest.raises(SnapshotError, match="no row to index: 1 have an error, 3 are zero"):
        build_index([run], tmp_path / "index")


def test_add_and_compact_count_too(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    vectors = embeddings(9)
    vectors[2] = 0
    build_index([make_run(tmp_path / "first", vectors, prefix="a")], out)
    added = add_runs(out, [run]).manifest
    assert (added.rows, added.skipped) == (8 + 54, 7)
    assert added.skipped_reasons == {"zero": 3, "error": 1, "not_finite": 3}
    assert "'d3'" in added.notes[0]
    assert "'a2'" not in added.notes[0]
    compacted = compact(out).manifest
    assert (compacted.rows, compacted.skipped_reasons) == (62, added.skipped_reasons)


def test_migration_brings_rows_that_were_zero_before(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    build_index([run], out)
    facts = TINY_FACTS.model_copy(update={"weights_sha256": "1" * 64})
    new = make_run(tmp_path / "new", embeddings(ROWS, seed=4), facts=facts)
    assert build_candidate(out, Run.open(run), Run.open(new)).rows == ROWS


def test_python_warns(tmp_path: Path, run: Path) -> None:
    with pytest.warns(OnepassWarning, match="2 zero .*'d3', 'd59'"):
        index = api.build_index(run, tmp_path / "index", progress=False)
    assert len(index) == 54
    with pytest.raises(SnapshotError, match="no direction"):
        api.build_index(run, tmp_path / "other", strict=True, progress=False)
    zero = make_run(
        tmp_path / "zero", np.eye(3, DIM, dtype=np.float32) * [[0], [1], [1]], prefix="z"
    )
    with pytest.warns(OnepassWarning, match="1 zero .*'z0'"):
        assert len(index.add(zero)) == 56


def test_the_command_warns_once_and_refuses_if_asked(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    built = here("index", "build", run, "--out", out, "--json")
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["skipped_reasons"]["zero"] == 2
    assert built.stderr.count("'d3', 'd59'") == 1
    refused = here("index", "build", run, "--out", out, "--strict")
    assert "--strict" in only_error(refused.returncode, refused.stdout, refused.stderr)
    more = make_run(tmp_path / "more", np.stack([np.zeros(DIM), np.ones(DIM)]), prefix="m")
    added = here("index", "add", out, more)
    assert (added.returncode, added.stderr.count("'m0'")) == (0, 1)
    refused = here("index", "add", out, more, "--strict")
    assert "'m0'" in only_error(refused.returncode, refused.stdout, refused.stderr)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize(("value", "says"), [(0, "is zero"), (np.nan, "NaN"), (-np.inf, "NaN")])
def test_a_query_is_refused_by_its_number(
    tmp_path: Path, value: float, says: str, kind: str
) -> None:
    index = build_index([make_run(tmp_path / "run", embeddings(9))], tmp_path / "index")
    queries = embeddings(4).astype(kind)
    queries[2, 3 if value else slice(None)] = value
    with pytest.raises(SnapshotError, match=f"query 2 .*{says}") as caught:
        index.search(queries, 3)
    assert "image" not in str(caught.value)
    assert "extract" not in str(caught.value)
    np.save(tmp_path / "query.npy", queries[2])
    ended = here("query", tmp_path / "index", "--vector", tmp_path / "query.npy")
    message = only_error(ended.returncode, ended.stdout, ended.stderr)
    assert says in message
    assert "image" not in message
