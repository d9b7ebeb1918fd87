"""What every source of vectors promises: a run, and each kind of file, of the same rows."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import SnapshotError
from index.build.inputs import open_sources
from index.build.sources.source import Part, VectorSource
from index.build.update import add_runs, compact, delete_rows
from index.build.version import build_index
from index.config import IndexConfig
from index.search.filters import Filter
from index.storage.columns import rows_schema
from tests.helpers.indexes import DIM, embeddings, true_hits
from tests.helpers.vector_files import KINDS, Write

ROWS = 70
ZERO, NOT_FINITE, MISSING = 5, 40, 66
GOOD = [row for row in range(ROWS) if row not in (ZERO, NOT_FINITE, MISSING)]
FULL = {name for name in KINDS if name.startswith(("npy", "parquet-fixed"))}  # cannot lack a row
IDS = [f"käfer {row}" for row in range(ROWS)]


def rows() -> np.ndarray:
    """Values that float16 holds; a zero row, one with NaN, and one that is missing: all -1."""
    vectors = embeddings(ROWS).astype("f2").astype("f4")
    vectors[ZERO], vectors[NOT_FINITE, 3], vectors[MISSING] = 0, np.nan, -1
    return vectors


def columns(kind: str) -> dict[str, Any]:
    """Own columns; a NumPy file has none."""
    if kind.startswith("npy"):
        return {}
    return {"site": [f"s{row % 3}" for row in range(ROWS)], "height": np.arange(ROWS) / 4}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(kind: str, tmp_path: Path) -> Path:
    return write(KINDS[kind], tmp_path, kind)


def write(kind: Write, folder: Path, name: str) -> Path:
    vectors = rows()
    if name in FULL:
        vectors[MISSING, 0] = np.inf
    return kind(folder, vectors, IDS, columns(name))


@pytest.fixture
def source(path: Path) -> VectorSource:
    (opened,) = open_sources([path])
    return opened


def parts(source: VectorSource) -> list[Part]:
    own = {field.name: str(field.type) for field in source.own_columns.schema}
    return [Part.of(source, 3, reader, rows_schema(own)) for reader in source.readers()]


def test_rows_come_in_order_with_ids_vectors_and_columns(source: VectorSource, kind: str) -> None:
    assert (source.dim, source.rows, source.row_ids) == (DIM, ROWS, None)
    batches = [batch for part in parts(source) for batch in part.batches()]
    assert [i for batch, _ in batches for i in batch["detection_id"].to_pylist()] == [
        IDS[row] for row in GOOD
    ]
    assert [i for batch, _ in batches for i in batch["row_id"].to_pylist()] == GOOD
    assert {i for batch, _ in batches for i in batch["run"].to_pylist()} == {3}
    vectors = np.concatenate([batch for _, batch in batches])
    assert vectors.dtype.kind == "f"
    np.testing.assert_array_equal(vectors, rows()[GOOD])
    for name, values in columns(kind).items():
        assert name in source.own_columns.schema.names
        stored = [value for batch, _ in batches for value in batch[name].to_pylist()]
        assert stored == [values[row] for row in GOOD]


def test_counts_are_those_of_the_rows_and_name_the_others(source: VectorSource, kind: str) -> None:
    counts = [part.count() for part in parts(source)]
    assert sum(each.rows for each in counts) == len(GOOD) == sum(len(c.hashes) for c in counts)
    skipped: dict[str, int] = {}
    for each in counts:
        for reason, number in each.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + number
    missing = "not_finite" if kind in FULL else "no_embedding"
    expected = {"zero": 1, "not_finite": 1}
    assert skipped == {**expected, missing: expected.get(missing, 0) + 1}
    assert [each.named["zero"] for each in counts if "zero" in each.named] == [[IDS[ZERO]]]


def test_readers_and_parts_can_be_sent_to_another_process(source: VectorSource) -> None:
    for part in parts(source):
        sent = pickle.loads(pickle.dumps(part))  # noqa: S301 (our own)
        for (a, x), (b, y) in zip(part.batches(), sent.batches(), strict=True):
            assert a == b
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_an_index_of_it_answers_as_brute_force(
    tmp_path: Path, path: Path, kind: str, metric: Any
) -> None:
    index = build_index([path], tmp_path / "index", IndexConfig(metric=metric, factory="IVF4,Flat"))
    vectors, queries = rows()[GOOD], embeddings(9, seed=8)
    hits = index.search(queries, 6, exact=True)
    true = true_hits(metric, queries, vectors, 6)
    for found, expected in zip(hits.rows, true.rows, strict=True):
        assert index.columns(found)["detection_id"] == [IDS[GOOD[row]] for row in expected]
    np.testing.assert_allclose(hits.scores, true.scores, atol=1e-5)
    manifest = index.manifest
    assert (manifest.rows, manifest.skipped, manifest.runs[0].rows) == (67, 3, 67)
    if kind != "run":
        assert (manifest.model, manifest.fingerprint) == (None, "vectors")
    if columns(kind):
        assert len(index.matching(Filter("site = 's1' AND height < 3"))) == 4
    assert index.verify() == 67


def test_some_rows_can_be_selected(source: VectorSource) -> None:
    again = source.select(np.array([2, ZERO, 69]))
    kept = [
        i
        for part in parts(again)
        for batch, _ in part.batches()
        for i in batch["row_id"].to_pylist()
    ]
    assert kept == [2, 69]


def test_compact_does_without_it(tmp_path: Path, path: Path) -> None:
    out = tmp_path / "index"
    build_index([path], out)
    delete_rows(out, Filter("row_id < 20"))
    path.rename(path.with_suffix(".away"))
    compacted = compact(out)
    assert (compacted.manifest.rows, compacted.manifest.deleted) == (48, 0)
    assert compacted.rows_of([IDS[3], IDS[30]])[0] == -1
    assert compacted.search(rows()[30:31], 1).rows[0, 0] == compacted.row_of(IDS[30])


def test_the_same_ids_again_are_refused(tmp_path: Path, path: Path) -> None:
    out = tmp_path / "index"
    with pytest.raises(SnapshotError, match="is there 2 times"):
        build_index([path, path], out)
    build_index([path], out)
    assert add_runs(out, [path]).manifest.version == "v0001"  # nothing is new
