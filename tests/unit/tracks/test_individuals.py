"""The table of individuals: by hand, and against the totals of the evaluator."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.tracks.test_scores import ONE, TWO, tracked
from tracks.boxes import TrackBoxes
from tracks.evaluation.individuals import Individual, trace_individuals
from tracks.evaluation.scores import evaluate

NAMES = {number: f"night:{number:05d}" for number in range(100)}


def test_individuals_by_hand() -> None:
    """One is found by 5, 5, 6, nobody and 6 again; one by 7 and then by 5; one by nobody."""
    truth = tracked([3] * 5, [8, 8, None, 8, 8], [4] * 5)
    result = tracked([5, 5, 6, None, 6], [7, 7, None, 7, 5], [None] * 5)
    assert trace_individuals(truth, result, NAMES) == [
        Individual(4, 5, 0, None, 0, 0, 0),
        Individual(3, 5, 4, "night:00005", 2 / 5, 1, 1),
        Individual(8, 4, 4, "night:00007", 3 / 4, 1, 1),
    ]
    assert trace_individuals(ONE, ONE.at(np.array([9])), NAMES) == [
        Individual(1, 4, 0, None, 0, 0, 0)
    ]
    swapped = trace_individuals(TWO, tracked([5, 5, 5, 6], [6, 6, 6, 5]), NAMES)
    assert [(row.track, row.share, row.switches) for row in swapped] == [
        ("night:00005", 0.75, 1),
        ("night:00006", 0.75, 1),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_the_columns_add_up_to_the_totals_of_clear(seed: int) -> None:
    """A crowd with misses, false boxes, jitter, boxes at an IoU of exactly 0.5, and empty frames."""
    random = np.random.default_rng(seed)
    rows, results = [], []
    for frame in range(60):
        for individual in range(1, 9):
            corner = np.array([20.0 * individual + 7 * np.sin(frame + individual), 10])
            if random.random() < 0.9 and frame % 13:
                rows.append((frame, individual, *corner, *(corner + 30)))
            if random.random() < 0.7 and frame % 11:
                moved = corner + random.choice([0, 10, -10, 3, 25], size=2)  # 10 of 30: IoU 0.5
                track = (individual + int(random.random() < 0.1) * random.integers(1, 8)) % 9
                results.append((frame, int(track), *moved, *(moved + 30)))
    truth, result = (
        TrackBoxes(t[:, 0].astype(int), t[:, 1].astype(int), t[:, 2:])
        for t in map(unique, (rows, results))
    )
    scores, table = evaluate(truth, result), trace_individuals(truth, result, NAMES)
    assert sum(row.switches for row in table) == scores.switches > 10
    assert sum(row.fragmentations for row in table) == scores.fragmentations > 10
    assert sum(row.boxes for row in table) == scores.truth_boxes
    assert sum(row.boxes - row.found for row in table) == scores.missed > 10
    assert len(table) == scores.truth_tracks
    assert [row.share for row in table] == sorted(row.share for row in table)


def unique(rows: list[tuple[float, ...]]) -> np.ndarray:
    """The rows as an array, each id once in a frame."""
    return np.array(list({row[:2]: row for row in rows}.values()))
