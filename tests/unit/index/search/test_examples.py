"""Several examples as one query, by definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.errors import ExampleError, SnapshotError
from index.search.examples import Examples

STORED = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)


@pytest.mark.parametrize("metric", ["cosine", "l1"])
def test_the_query_is_that_of_the_means(metric: Any) -> None:
    far, near = np.array([0, 30, 40], np.float32), np.array([0.01, 0, 0.01], np.float32)
    examples = Examples(["a", far, "b"], [near, "c"])
    assert examples.ids == ["a", "b", "c"]

    def unit(vector: np.ndarray) -> np.ndarray:
        return vector / (np.linalg.norm(vector) if metric == "cosine" else np.abs(vector).sum())

    positive = np.mean([STORED[0], unit(far), STORED[1]], axis=0)
    negative = np.mean([unit(near), STORED[2]], axis=0)
    np.testing.assert_allclose(
        examples.vector(STORED, metric), positive + (positive - negative), atol=1e-6
    )
    np.testing.assert_allclose(
        Examples(["a", far, "b"]).vector(STORED[:2], metric), positive, atol=1e-6
    )


@pytest.mark.parametrize(
    ("error", "positive", "negative"),
    [
        (ExampleError, [], []),
        (ExampleError, [], ["a"]),
        (ExampleError, [np.ones(4, np.float32)], []),
        (ExampleError, [np.ones(3, np.float32), -np.ones(3, np.float32)], []),
        (SnapshotError, [np.zeros(3, np.float32)], []),
        (SnapshotError, [np.ones(3, np.float32)], [np.full(3, np.nan, np.float32)]),
    ],
)
def test_examples_that_give_no_query(
    error: type[Exception], positive: list[Any], negative: list[Any]
) -> None:
    with pytest.raises(error):
        Examples(positive, negative).vector(
            STORED[: sum(x == "a" for x in negative if isinstance(x, str))], "cosine"
        )
