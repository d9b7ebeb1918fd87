"""Which of the nearest rows an answer holds, against loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from index.search.recall import Hits
from index.search.selection import Selection, select, within


def hits(metric: str) -> Hits:
    random = np.random.default_rng(0)
    rows = np.stack([random.permutation(30)[:12] for _ in range(5)])
    rows[2, 9:] = -1
    scores = np.sort(random.random((5, 12)).astype(np.float32), axis=1)
    return Hits(rows, scores if metric == "l2" else scores[:, ::-1].copy())


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_query_is_cut_by_its_own_options(metric: Any) -> None:
    found = hits(metric)
    ends, offsets = [3, 12, 20, 7, 5], [0, 4, 2, 7, 1]
    thresholds = [None, 0.5, 0.3, 0.1, float(found.scores[4, 3])]
    own = np.array([found.rows[0, 1], -1, -1, 29, found.rows[4, 0]])
    excluded = [(1, found.rows[1, [0, 5]]), (3, np.array([99]))]
    cut = select(
        found,
        metric,
        ends=ends,
        offsets=offsets,
        thresholds=thresholds,
        own_rows=own,
        excluded=excluded,
    )
    start = 0
    for query in range(5):
        left_out = {-1, int(own[query])} | {
            int(row) for number, rows in excluded if number == query for row in rows
        }
        pairs = [
            (int(row), float(score))
            for row, score in zip(found.rows[query], found.scores[query], strict=True)
            if row not in left_out
        ][: ends[query]]
        limit = thresholds[query]
        expected = [
            (rank, row, score)
            for rank, (row, score) in enumerate(pairs, start=1)
            if rank > offsets[query]
            and (limit is None or (score >= limit if metric == "cosine" else score <= limit))
        ]
        end = start + int(cut.counts[query])
        actual = zip(cut.ranks[start:end], cut.rows[start:end], cut.scores[start:end], strict=True)
        assert [(int(a), int(b), float(c)) for a, b, c in actual] == expected
        start = end
    assert start == len(cut.rows)


@pytest.mark.parametrize(
    ("threshold", "metric", "near"),
    [(-5e196, "cosine", True), (5e196, "ip", False), (5e196, "l2", True), (-1e39, "l1", False)],
)
def test_a_threshold_may_be_beyond_any_score(threshold: float, metric: Any, near: bool) -> None:
    scores = np.array([[0.5, 1.0]], np.float32)
    assert within(scores, threshold, metric).tolist() == [[near, near]]
    assert within(scores, np.array([[threshold]]), metric).tolist() == [[near, near]]


def test_a_threshold_is_compared_as_the_scores_are() -> None:
    scores = np.array([0.9, 0.8], np.float32)
    assert within(scores, 0.9, "cosine").tolist() == [True, False]
    assert within(scores, 0.8, "l1").tolist() == [False, True]
    assert within(scores, np.nan, "cosine").tolist() == [True, True]


def test_rows_of_queries_with_fewer_hits_are_filled_up() -> None:
    cut = Selection(
        rows=np.array([4, 2, 7]),
        scores=np.array([0.9, 0.8, 0.7], np.float32),
        ranks=np.array([1, 2, 1]),
        counts=np.array([2, 0, 1]),
        groups=["x", None, "y"],
    )
    padded, groups = cut.padded()
    assert padded.rows.tolist() == [[4, 2], [-1, -1], [7, -1]]
    assert np.isnan(padded.scores).tolist() == [[False, False], [True, True], [False, True]]
    assert groups is not None
    assert groups.tolist() == [["x", None], [None, None], ["y", None]]
    empty, _ = Selection(*(np.empty(0) for _ in range(3)), np.zeros(2, np.int64)).padded()
    assert empty.rows.shape == (2, 0)
