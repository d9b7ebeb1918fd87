"""Which pairs become links, on costs small enough to see through."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from tracks.association import assign as module
from tracks.association.assign import assign, assign_sparse
from tracks.association.options import Assignment

CONTESTED = [[0.1, 0.2], [1.4, 0.3]]  # both later ones like the first best


@pytest.mark.parametrize(
    ("costs", "assignment", "expected"),
    [
        (CONTESTED, "cheapest", [0, 0]),
        (CONTESTED, "optimal", [0, 1]),
        ([[1.5], [1.6]], "optimal", [0]),  # exactly the limit
        ([[1.6], [1.5]], "optimal", [1]),
        # The largest number of links would be 2: the later ones crosswise, at 1.4 each.
        ([[0.1, 1.4], [1.4, 9.0]], "optimal", [0, -1]),
    ],
)
def test_which_pairs_become_links(
    costs: list[list[float]], assignment: Assignment, expected: list[int]
) -> None:
    assert assign(np.array(costs), max_cost=1.5, assignment=assignment).tolist() == expected


@pytest.mark.parametrize("assignment", ["optimal", "greedy", "cheapest"])
def test_nothing_feasible(assignment: Assignment) -> None:
    def chosen(costs: np.ndarray) -> list[int]:
        return assign(costs, max_cost=1.0, assignment=assignment).tolist()

    assert chosen(np.full((3, 2), 9.0)) == chosen(np.empty((0, 2))) == [-1, -1]
    assert chosen(np.empty((2, 0))) == []
    assert chosen(np.array([[np.inf], [0.5]])) == [1]


def test_gating_never_makes_an_assignment_worse() -> None:
    random = np.random.default_rng(2)
    for _ in range(50):
        costs = random.uniform(0, 2, (3, 4))
        costs[random.random((3, 4)) < 0.2] = np.inf
        chosen = assign(costs, max_cost=1.0)
        saved = sum(1.0 - costs[row, at] for at, row in enumerate(chosen) if row >= 0)
        gain = np.where(costs <= 1.0, 1.0 - costs, 0.0)
        best = max(
            sum(gain[row, at] for row, at in enumerate(order))
            for order in permutations(range(4), 3)
        )
        assert saved == pytest.approx(best)


def random_costs(random: np.random.Generator) -> np.ndarray:
    costs = random.uniform(0, 2, random.integers(1, 9, 2))
    costs[random.random(costs.shape) < 0.3] = np.inf
    return np.asarray(costs)


def margins(costs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    pairs = np.nonzero(costs <= 1.0)
    return module.margins(
        (pairs[0], pairs[1]), costs[pairs], chosen, max_cost=1.0, earlier=len(costs)
    )


def test_greedy_takes_the_cheapest_pair_first() -> None:
    random = np.random.default_rng(5)
    for _ in range(100):
        costs = random_costs(random)
        expected = np.full(costs.shape[1], -1)
        free_rows = set(range(len(costs)))
        for row, column in sorted(np.ndindex(costs.shape), key=lambda at: costs[at]):
            if costs[row, column] <= 1.0 and row in free_rows and expected[column] < 0:
                expected[column] = row
                free_rows.remove(row)
        assert assign(costs, max_cost=1.0, assignment="greedy").tolist() == expected.tolist()


def test_greedy_ends_where_everything_costs_the_same() -> None:
    chosen = assign(np.full((4, 3), 0.5), max_cost=1.0, assignment="greedy")
    assert sorted(chosen.tolist()) == [0, 1, 2]


def test_a_list_of_all_pairs_gives_what_the_matrix_gives() -> None:
    random = np.random.default_rng(6)
    for _ in range(100):
        costs = random_costs(random)
        whole = assign(costs, max_cost=1.0)
        pairs = np.nonzero(np.isfinite(costs))
        listed = assign_sparse(
            (pairs[0], pairs[1]), costs[pairs], max_cost=1.0, later=costs.shape[1]
        )
        assert listed.tolist() == whole.tolist()
        others = costs.copy()  # what either end could have had instead
        linked = np.flatnonzero(whole >= 0)
        others[whole[linked], linked] = np.inf
        rival = np.minimum(others.min(axis=1)[whole[linked]], others.min(axis=0)[linked])
        expected = np.minimum(rival, 1.0) - costs[whole[linked], linked]
        assert margins(costs, whole)[linked].tolist() == expected.tolist()
        assert np.isnan(margins(costs, whole)).sum() == costs.shape[1] - len(linked)


def test_a_list_of_free_pairs() -> None:
    pairs = (np.array([0, 1]), np.array([0, 1]))
    assert assign_sparse(pairs, np.zeros(2), max_cost=1.0, later=3).tolist() == [0, 1, -1]
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
    assert assign_sparse(nothing, np.empty(0), max_cost=1.0, later=2).tolist() == [-1, -1]


def test_margins_by_hand() -> None:
    costs = np.array([[0.1, 0.6, 9.0], [0.7, 0.2, 9.0], [9.0, 0.15, 0.9]])
    chosen = assign(costs, max_cost=1.0)
    assert chosen.tolist() == [0, 1, 2]
    # 0: its rivals are 0.6 and 0.7. 1: 0.15, cheaper than itself. 2: its track's 0.15.
    assert margins(costs, chosen) == pytest.approx([0.5, -0.05, -0.75])


def test_without_a_rival_the_limit_is_the_other_choice() -> None:
    assert margins(np.array([[0.3]]), np.array([0])) == pytest.approx([0.7])
    assert np.isnan(margins(np.array([[3.0]]), np.array([-1]))).all()
