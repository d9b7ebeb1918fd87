"""The few rows of a plan that a command is resolved on."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.engines.unresolved import sample_of


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 1), (3, 3), (15, 15), (16, 16), (200, 16), (768, 48), (10_000, 64)]
)
def test_the_sample_is_spread_over_the_plan(rows: int, size: int) -> None:
    taken = sample_of(pa.table({"row_id": list(range(rows))}))["row_id"].to_pylist()
    assert len(taken) == len(set(taken)) == size
    assert min(taken) == 0
    assert max(taken) >= 0.75 * (rows - 1)
