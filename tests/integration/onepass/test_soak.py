"""``benchmarks.soak``: what grows is seen, and an answer that is not brute force's."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from benchmarks.soak import STEPS, judge
from benchmarks.soak_world import Camera, K, Searches
from tests.helpers.indexes import embeddings, true_hits

BASE = embeddings(50)


@pytest.mark.parametrize("name", STEPS)
def test_what_grows_after_the_warm_up_is_seen(name: str) -> None:
    flat = [dict.fromkeys(STEPS, 100.0) | {"seconds": 10.0 * i} for i in range(360)]
    assert all(each["flat"] for each in judge(flat, 600).values())
    early = [each | {name: min(each["seconds"], 590.0)} for each in flat]
    assert judge(early, 600)[name]["flat"]
    growing = [each | {name: 100 + each["seconds"] / 36} for each in flat]  # 100 an hour
    judged = judge(growing, 600)
    assert [each for each, verdict in judged.items() if not verdict["flat"]] == [name]
    assert judged[name]["an hour"] == pytest.approx(100)


def hits_of(query: np.ndarray, k: int = K) -> tuple[list[str], list[float]]:
    """The k nearest of ``BASE``, by definition: names and scores."""
    hits = true_hits("cosine", query[None], BASE, k)
    return [f"d{row}" for row in hits.rows[0].tolist()], hits.scores[0].tolist()


def answer_of(names: list[str], scores: list[float], version: str = "v0001") -> dict[str, Any]:
    pairs = zip(names, scores, strict=True)
    hits = [{"detection_id": name, "score": score} for name, score in pairs]
    return {"snapshot": version, "hits": hits}


def compare(searches: Searches, body: dict[str, Any], query: np.ndarray, answer: Any) -> int:
    """How many findings one answer makes."""
    before = len(searches.wrong)
    searches._answers.put(({"exact": True} | body, query, answer))
    searches.finish()
    return len(searches.wrong) - before


def test_answers_are_compared_with_the_version_that_gave_them() -> None:
    searches = Searches("", BASE, threading.Event())
    query, own = embeddings(1, seed=4)[0], {"detection_id": "d3"}
    names, scores = hits_of(query)
    (_, *others), (_, *other_scores) = hits_of(BASE[3], K + 1)
    assert compare(searches, {}, query, answer_of(names, scores)) == 0
    assert compare(searches, own, BASE[3], answer_of(others, other_scores)) == 0
    assert (searches.compared, searches.recalls) == (2, [])

    (_, *later), (_, *later_scores) = hits_of(query, K + 1)
    kept = {f"d{row}": vector for row, vector in enumerate(BASE)}
    del kept[names[0]]
    searches.known("v0002", kept)
    assert compare(searches, {}, query, answer_of(later, later_scores, "v0002")) == 0
    assert compare(searches, {"exact": False}, query, answer_of(later, later_scores)) == 0
    assert searches.recall == pytest.approx(1 - 1 / K)
    for body, asked, answer in (
        ({}, query, answer_of([*names[:-1], names[0]], [*scores[:-1], scores[0]])),  # twice
        ({}, query, answer_of(names, [score + 1e-3 for score in scores])),
        ({}, query, answer_of(later, later_scores)),  # not the nearest
        ({}, query, answer_of(names[:-1], scores[:-1])),  # one is missing
        ({}, query, answer_of(names, scores, "v0002")),  # one was deleted
        (own, BASE[3], answer_of(*hits_of(BASE[3]))),  # itself
        ({}, query, answer_of(names, scores, "v0003")),  # nobody made it
    ):
        assert compare(searches, body, asked, answer) == 1


def test_an_object_that_changes_its_track_is_seen() -> None:
    camera = Camera("", 8, threading.Event())
    rows = [{"track_id": "camera:00000", "position": 0}]
    camera._compare(0, rows)
    camera._compare(1, [{"track_id": "camera:00000", "position": 1}])
    assert camera.wrong == []
    camera._compare(2, [{"track_id": "camera:00001", "position": 0}])
    camera._compare(25, [rows[0] | {"position": 25}, {"track_id": "camera:00000", "position": 0}])
    assert len(camera.wrong) == 2
