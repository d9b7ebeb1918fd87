"""A run as people read it: rows in order, columns by name, embeddings as one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from common.errors import RunError
from pipelines.run import Run
from tests.helpers.runs import write_run

ROWS, FAILED = 7, 3


@pytest.fixture
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, 32)).astype(np.float32)


@pytest.fixture
def run(tmp_path: Path, embeddings: np.ndarray) -> Run:
    plan = {"image": [f"{number}.jpg" for number in range(ROWS)]}
    return write_run(tmp_path / "run", plan, embeddings, errors={FAILED: "no image"})


def test_rows_are_in_the_order_of_their_ids(run: Run) -> None:
    frame = run.to_pandas(["row_id", "image", "error"])
    assert frame["row_id"].tolist() == list(range(ROWS))
    assert frame["image"].tolist() == [f"{number}.jpg" for number in range(ROWS)]
    assert frame["error"].notna().tolist() == [number == FAILED for number in range(ROWS)]


def test_embeddings_are_those_of_the_rows(run: Run, embeddings: np.ndarray) -> None:
    read = run.embeddings()
    assert read.dtype == np.float32
    good = np.arange(ROWS) != FAILED
    assert np.array_equal(read[good], embeddings[good])
    assert np.isnan(read[FAILED]).all()
    stacked = np.stack(run.to_pandas(["embedding"])["embedding"].to_list())
    assert np.array_equal(stacked, read, equal_nan=True)


def test_batches_hold_every_row_once(run: Run) -> None:
    batches = list(run.iter_batches(2, columns=["row_id", "label"]))
    assert {batch.num_rows for batch in batches} <= {1, 2}
    assert batches[0].schema.names == ["row_id", "label"]
    assert sorted(row for batch in batches for row in batch["row_id"].to_pylist()) == list(
        range(ROWS)
    )


def test_all_columns_are_read_where_none_is_named(run: Run) -> None:
    assert run.to_arrow().column_names == run.columns
    assert {"detection_id", "embedding", "label", "error"} <= set(run.columns)


def test_a_condition_selects_rows(run: Run) -> None:
    failed = run.to_arrow(["image"], where=pc.field("error").is_valid())
    assert failed["image"].to_pylist() == [f"{FAILED}.jpg"]


def test_its_length_and_repr_say_what_it_holds(run: Run) -> None:
    assert len(run) == ROWS
    assert "7 rows, 1 with errors, tiny, 32-d" in repr(run)


@pytest.mark.parametrize("read", ["to_arrow", "to_pandas"])
def test_an_unknown_column_is_named(run: Run, read: str) -> None:
    with pytest.raises(RunError, match="'colour'"):
        getattr(run, read)(["colour"])
