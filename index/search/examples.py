"""Search by several examples: what the hits should be like, and what they should be unlike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.errors import ExampleError
from index.config import Metric
from index.metrics import prepare

_ZERO = 1e-7  # what float32 rounds away, for vectors of length 1

Example = str | NDArray[np.float32]  # the id of a detection, or a raw vector [D]


@dataclass(frozen=True, eq=False)
class Examples:
    """One query made of detections and vectors, mixed.

    Attributes:
        positive: hits should be like these; at least one.
        negative: hits should be unlike these.
        ids: the detections among both, in this order.
    """

    positive: Sequence[Example]
    negative: Sequence[Example] = ()
    ids: list[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not len(self.positive):
            raise ExampleError("give at least one positive example; the others say what to avoid")
        ids = [each for each in (*self.positive, *self.negative) if isinstance(each, str)]
        object.__setattr__(self, "ids", ids)

    def vector(self, stored: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
        """The vector to search with: mean(positive), plus mean(positive) - mean(negative) if any.

        Every example counts the same: the mean is of vectors normalised for the metric.

        Args:
            stored: [len(ids), D] vectors of ``ids`` as the index holds them.
            metric: of the index.

        Returns:
            [D].

        Raises:
            ExampleError: the vectors are not of the index's dimension, or the examples cancel out.
            SnapshotError: a vector is zero or not finite.
        """
        rows = iter(stored)
        dim = stored.shape[1]

        def mean(examples: Sequence[Example], name: str) -> NDArray[np.float32]:
            vectors = np.empty((len(examples), dim), np.float32)
            for number, example in enumerate(examples):
                if isinstance(example, str):
                    vectors[number] = next(rows)
                    continue
                if example.shape != (dim,):
                    raise ExampleError(
                        f"{name} example {number} has {example.size} numbers, this index has {dim}"
                    )
                vectors[number] = prepare(example[None], [f"{name} example {number}"], metric)[0]
            average: NDArray[np.float32] = vectors.mean(axis=0, dtype=np.float64)
            return average

        query = mean(self.positive, "positive")
        if len(self.negative):
            query = 2 * query - mean(self.negative, "negative")
        if np.abs(query).max() < _ZERO:
            raise ExampleError("the examples cancel out, so nothing is nearest; leave some out")
        return query.astype(np.float32)
