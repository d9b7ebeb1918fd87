"""The exact answer, how recall is counted against it, and which search parameters tuning takes."""

from __future__ import annotations

import numpy as np
import pytest

from index.config import Metric
from index.metrics import prepare
from index.search import recall
from index.search.accelerator import SearchParams
from index.search.recall import ExactKnn, Hits, recall_at, tune
from tests.helpers.indexes import embeddings, true_hits


@pytest.mark.parametrize("metric", ["cosine", "ip", "l1", "l2"])
def test_exact_search_in_parts_equals_exact_search_at_once(metric: Metric) -> None:
    raw, raw_queries = embeddings(400), embeddings(9, seed=1)
    vectors, queries = (prepare(each, [""] * len(each), metric) for each in (raw, raw_queries))
    at_once = ExactKnn(queries, 7, metric)
    at_once.add(vectors, 0)
    joined = ExactKnn(queries, 7, metric)
    for first, last in ((300, 400), (0, 3), (3, 300), (5, 5)):  # also fewer than are wanted
        part = ExactKnn(queries, 7, metric)
        part.add(vectors[first:last], first)
        joined.merge(*part.neighbors())
    true = true_hits(metric, raw_queries, raw, 7)
    for answer in (at_once.hits(), joined.hits()):
        np.testing.assert_array_equal(answer.rows, true.rows)
        np.testing.assert_allclose(answer.scores, true.scores, atol=2e-6)


def test_fewer_vectors_than_wanted_are_all_found() -> None:
    vectors = prepare(embeddings(3), [""] * 3, "cosine")
    nearest = ExactKnn(vectors[:2], 10, "cosine")
    nearest.add(vectors, 40)
    assert [sorted(rows) for rows in nearest.hits().rows.tolist()] == [[40, 41, 42]] * 2
    nobody = ExactKnn(vectors[:0], 10, "cosine")
    nobody.add(vectors, 0)
    assert len(nobody.hits().rows) == 0


def hits(rows: list[int], scores: list[float]) -> Hits:
    return Hits(np.array([rows]), np.array([scores], np.float32))


def test_recall_counts_the_share_found() -> None:
    exact = hits([1, 2, 3, 4], [0.9, 0.8, 0.7, 0.6])
    assert recall_at(exact, exact) == 1
    assert recall_at(exact, hits([4, 1, 8, 9], [0.6, 0.9, 0.5, 0.4])) == 0.5
    assert recall_at(exact, hits([1, -1, -1, -1], [0.9, 0, 0, 0])) == 0.25


def test_recall_takes_a_tie_for_the_last_place_but_not_for_a_better_one() -> None:
    exact = hits([1, 2, 3], [0.9, 0.5, 0.5])
    assert recall_at(exact, hits([1, 7, 8], [0.9, 0.5, 0.5])) == 1
    assert recall_at(exact, hits([7, 8, 9], [0.5, 0.5, 0.5])) == pytest.approx(2 / 3)
    distances = hits([1, 2, 3], [0.1, 0.5, 0.5])
    assert recall_at(distances, hits([1, 9, 8], [0.1, 0.5, 0.50002])) == pytest.approx(2 / 3)


def test_row_that_is_not_there_never_ties() -> None:
    exact = hits([1, 2], [0.5, 0.0])
    assert recall_at(exact, hits([1, -1], [0.5, 0.0])) == 0.5


EXACT = Hits(np.arange(1000)[:, None], np.ones((1000, 1), np.float32))


class FakeIndex:
    """An index of which each parameter finds a given share in a given time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **shares: float) -> None:
        self.tried: list[str] = []
        self._shares = shares
        self._cost = dict.fromkeys(shares, 0.001)
        monkeypatch.setattr(recall, "_seconds", lambda _, params: self._cost[name_of(params)])

    def costs(self, **seconds: float) -> FakeIndex:
        self._cost |= seconds
        return self

    def search(self, params: SearchParams) -> Hits:
        self.tried.append(name_of(params))
        hits = round(1000 * self._shares[name_of(params)])
        rows = EXACT.rows.copy()
        rows[hits:] = -1
        return Hits(rows, EXACT.scores)


def name_of(params: SearchParams) -> str:
    return chr(params.effort)


def grid_row(*names: str) -> list[SearchParams]:
    return [SearchParams(12, ord(name)) for name in names]


def tuned(
    index: FakeIndex, grid: list[list[SearchParams]], *, target: float
) -> tuple[SearchParams, float]:
    params, recalls = tune(index.search, grid, EXACT, ks=[1], target=target)
    return params, recalls[1]


def test_cheapest_search_that_reaches_the_target_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    index = FakeIndex(monkeypatch, a=0.5, b=0.96, c=1.0)
    params, measured = tuned(index, [grid_row("a", "b", "c")], target=0.95)
    assert (name_of(params), measured) == ("b", 0.96)
    assert index.tried == ["a", "b"]


def test_target_is_reached_with_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    index = FakeIndex(monkeypatch, a=0.951, b=0.956)
    params, measured = tuned(index, [grid_row("a", "b")], target=0.95)
    assert (name_of(params), measured) == ("b", 0.956)
    perfect = FakeIndex(monkeypatch, a=0.999, b=1.0)
    assert tuned(perfect, [grid_row("a", "b")], target=1.0)[1] == 1.0


def test_least_effort_is_found_between_two_steps() -> None:
    efforts: list[int] = []

    def search(params: SearchParams) -> Hits:
        efforts.append(params.effort)
        rows = EXACT.rows.copy()
        rows[params.effort * 10 :] = -1  # 0.01 for each
        return Hits(rows, EXACT.scores)

    row = [SearchParams(12, effort) for effort in (36, 54, 81, 100)]
    params, recall = tune(search, [row], EXACT, ks=[1], target=0.88)
    assert efforts[:5] == [36, 54, 81, 100, 90]
    assert (params.effort, recall) == (90, {1: 0.9})


def test_fewer_queries_leave_more_margin() -> None:
    few = Hits(EXACT.rows[:64], EXACT.scores[:64])  # which resolve 0.02

    def search(params: SearchParams) -> Hits:
        rows = few.rows.copy()
        rows[params.effort :] = -1
        return Hits(rows, few.scores)

    row = [SearchParams(12, effort) for effort in (61, 62, 63)]
    assert tune(search, [row], few, ks=[1], target=0.95)[0].effort == 63


def test_faster_of_two_rows_of_the_grid_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    index = FakeIndex(monkeypatch, a=0.9, b=0.97, c=0.96).costs(b=0.02, c=0.01)
    params, measured = tuned(index, [grid_row("a", "b"), grid_row("c")], target=0.95)
    assert (name_of(params), measured) == ("c", 0.96)
    index.costs(b=0.005)
    assert tuned(index, [grid_row("a", "b"), grid_row("c")], target=0.95)[1] == 0.97


def test_flat_row_of_the_grid_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    index = FakeIndex(monkeypatch, a=0.5, b=0.7, c=0.701, d=0.702, e=0.999, f=0.98)
    params, _ = tuned(index, [grid_row("a", "b", "c", "d", "e"), grid_row("f")], target=0.95)
    assert index.tried == ["a", "b", "c", "d", "f"]
    assert name_of(params) == "f"


def test_slow_start_is_not_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    index = FakeIndex(monkeypatch, a=0.5, b=0.501, c=0.7, d=0.701, e=0.97)
    params, _ = tuned(index, [grid_row("a", "b", "c", "d", "e")], target=0.95)
    assert name_of(params) == "e"


def test_best_is_returned_where_none_reaches_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    index = FakeIndex(monkeypatch, a=0.5, b=0.7, c=0.6)
    params, measured = tuned(index, [grid_row("a", "b"), grid_row("c")], target=0.95)
    assert (name_of(params), measured) == ("b", 0.7)


def test_target_is_reached_for_every_number_of_neighbours() -> None:
    two = Hits(np.arange(2000).reshape(1000, 2), np.tile(np.float32([1, 0.5]), (1000, 1)))

    def search(params: SearchParams) -> Hits:  # finds every first and some of the second
        rows = two.rows.copy()
        rows[10 * params.effort :, 1] = -1
        return Hits(rows, two.scores)

    grid = [[SearchParams(12, effort) for effort in (80, 90, 94)]]
    assert tune(search, grid, two, ks=[1], target=0.95) == (grid[0][0], {1: 1.0})
    assert tune(search, grid, two, ks=[1, 2], target=0.95) == (grid[0][2], {1: 1.0, 2: 0.97})
