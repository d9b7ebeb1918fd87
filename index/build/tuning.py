"""Choose the search parameters of an approximate index for each number of neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.build.held_out import HeldOut, TrueNeighbors
from index.config import IndexConfig, Metric
from index.metrics import to_scores
from index.search.accelerator import WIDTHS, Accelerator, SearchParams
from index.search.allowed import Allowed
from index.search.recall import Hits, recall_at, tune, without_rows

RECALL_K = 10
MEASURED_KS = dict(zip(WIDTHS, ((1, RECALL_K), (50,), (200,), (1000,)), strict=True))
"""Numbers of neighbours whose recall the manifest says, by the width they are searched with."""

_WIDE_QUERIES = 200  # at most, at the greater widths, where each has many neighbours
_EXACT_VALUES = 100_000_000  # rows x dimension up to which ``auto`` prefers exact to poor recall


@dataclass(frozen=True)
class Width:
    """Parameters of the searches of one width, and what they reach."""

    params: SearchParams
    recall: dict[int, float]  # of held-out rows before they were added, by number of neighbours
    rows: NDArray[np.int64]  # others, which were in the index from the start
    exact: Hits  # of these in the whole segment, themselves left out

    def measure(self, accelerator: Accelerator, vectors: Any, metric: Metric) -> dict[int, float]:
        """Recall of rows of the complete index, by number of neighbours."""
        width = min(self.params.width, vectors.ntotal)
        queries = vectors.reconstruct_batch(self.rows)
        values, rows = accelerator.search(queries, width, self.params)
        hits = without_rows(Hits(rows, to_scores(values, metric)), self.rows[:, None], width - 1)
        short = rows[:, -1] < 0  # a search compares such queries with every row
        exact = self.exact.first(hits.rows.shape[1])
        hits.rows[short], hits.scores[short] = exact.rows[short], exact.scores[short]
        ks = {min(k, width - 1) for k in MEASURED_KS[self.params.width]} - {0}
        return {k: recall_at(self.exact.first(k), hits.first(k)) for k in sorted(ks)}


def tune_widths(
    accelerator: Accelerator,
    vectors: Any,
    held_out: HeldOut,
    true: TrueNeighbors,
    allowed: Allowed | None,
    config: IndexConfig,
    *,
    is_auto: bool,
) -> list[Width] | None:
    """Search parameters of every width that is faster than comparing with every row.

    Args:
        accelerator: of the index without the held-out rows.
        vectors: FAISS index of the exact vectors.
        held_out: the queries.
        true: exact neighbours.
        allowed: the rows to find, where the held-out rows are in the index already.
        config: metric, and the recall to reach.
        is_auto: give up where an exhaustive search is better than what is reached.

    Returns:
        None: it was given up.
    """
    total, metric = vectors.ntotal, config.metric
    tuned: list[Width] = []
    for width in WIDTHS:
        rows, others = held_out.rows, held_out.others
        if width > WIDTHS[0]:
            rows, others = _evenly_spaced(rows), _evenly_spaced(others)
        grid = accelerator.search_grid(width)
        if not len(rows):  # too few to measure anything
            nothing = Hits(np.empty((0, 0), np.int64), np.empty((0, 0), np.float32))
            return [Width(grid[0][-1], {}, rows, nothing)]
        if is_auto or width > WIDTHS[0]:
            grid = [[p for p in row if accelerator.distances(p) < total] for row in grid]
            grid = [row for row in grid if row]
        if not grid:
            break
        queries = vectors.reconstruct_batch(rows)
        exact = true.without(queries, width, held_out.rows)
        most = exact.rows.shape[1]

        def search(params: SearchParams, queries: Any = queries, k: int = most) -> Hits:
            values, found = accelerator.search(queries, k, params, allowed, adaptive=False)
            return Hits(found, to_scores(values, metric))

        ks = sorted({min(k, most) for k in (*MEASURED_KS[width], width)})
        params, recall = tune(search, grid, exact, ks=ks, target=config.recall)
        reached = min(recall.values()) >= config.recall
        small = is_auto and total * vectors.d <= _EXACT_VALUES
        if not reached and (width > WIDTHS[0] or small):
            break
        whole = true.without(vectors.reconstruct_batch(others), width, others[:, None])
        tuned.append(Width(params, recall, others, whole))
        if most < width:
            break
    return tuned or None


def _evenly_spaced(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most ``_WIDE_QUERIES`` of the rows, from all over the segment."""
    return rows[:: max(1, -(-len(rows) // _WIDE_QUERIES))]
