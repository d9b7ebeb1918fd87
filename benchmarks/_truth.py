"""The right answers: brute force in NumPy over a run's own embeddings, and recall against it.

Cosines of the raw embeddings at length 1, so nothing of the index package is trusted. Rows are
named by the run's ``row_id``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
from _vectors import Floats, embeddings, nearest, unit
from numpy.typing import NDArray

from pipelines.run import Run

Rows = NDArray[np.int64]
Chosen = Callable[[pa.Table], NDArray[np.bool_]]
_BLOCK = 50_000


def exact(
    run: Run,
    queries: Floats,
    k: int,
    *,
    filters: Mapping[str, Chosen] | None = None,
    columns: tuple[str, ...] = (),
) -> dict[str, Rows]:
    """``row_id`` of the k nearest of each query, [Q, k'], among the rows of each filter.

    k' is k, or as many rows as the filter leaves. ``columns`` are what the filters look at;
    without filters the one answer is named "".
    """
    asked = unit(queries)
    best: dict[str, tuple[Rows, Floats]] = {}
    for batch in run.batches(["row_id", "embedding", *columns], batch_rows=_BLOCK):
        table = pa.Table.from_batches([batch])
        vectors, ids = unit(embeddings(table)), table["row_id"].to_numpy()
        for name, chosen in (filters or {"": lambda rows: np.ones(rows.num_rows, bool)}).items():
            rows = np.flatnonzero(chosen(table))
            if not len(rows):
                continue
            found, cosines = nearest(asked, vectors[rows], min(k, len(rows)))
            best[name] = _merged(best.get(name), (ids[rows[found]], cosines), k)
    return {name: rows for name, (rows, _) in best.items()}


def _merged(
    left: tuple[Rows, Floats] | None, right: tuple[Rows, Floats], k: int
) -> tuple[Rows, Floats]:
    if left is None:
        return right
    rows, cosines = (np.hstack(pair) for pair in zip(left, right, strict=True))
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def recall_of(truth: Rows, found: Rows) -> float:
    """Share of the true rows that were found."""
    pairs = zip(truth.tolist(), found.tolist(), strict=True)
    return sum(len(set(true) & set(one)) for true, one in pairs) / truth.size
