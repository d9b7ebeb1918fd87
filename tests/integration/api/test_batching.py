"""Searches that wait together: the answers are those of single searches; the queue is bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from api.config import Limits
from index.search.snapshot import Hits, Snapshot
from tests.helpers.api.world import World, error_of, nearest, serving

Gate = tuple[threading.Event, list[int]]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Searches wait for the event; the list has the number of queries of each call of FAISS."""
    opened, sizes = threading.Event(), []
    original = Snapshot.search

    def slowly(self: Snapshot, vectors: np.ndarray, k: int, **options: Any) -> Hits:
        sizes.append(len(vectors))
        assert opened.wait(60)
        return original(self, vectors, k, **options)

    opened.set()  # the server searches once before it is ready
    monkeypatch.setattr(Snapshot, "search", slowly)
    return opened, sizes


@contextmanager
def together(count: int) -> Iterator[Callable[..., Any]]:
    """Calls in threads; all of them are finished at the end."""
    with ThreadPoolExecutor(count) as pool:
        yield pool.submit


def depth(http: httpx.Client) -> float:
    lines = http.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("onepass_queue_depth ")).split()[1])


def wait_for_depth(http: httpx.Client, expected: int) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if depth(http) == expected:
            return
        pause.wait(0.005)
    raise AssertionError(f"the queue never held {expected} queries")


def test_concurrent_searches_equal_single_ones(world: World) -> None:
    queries = np.random.default_rng(3).normal(size=(60, world.model.feature_dim))
    options: list[dict[str, Any]] = [
        {"k": 3},
        {"k": 200},
        {"k": 5, "where": "label = 'class 1'"},
        {"k": 2, "exact": True},
    ]
    with serving(world.index) as http:

        def search(number: int) -> tuple[list[str], list[str]]:
            option, query = options[number % 4], queries[number]
            body = {"vector": query.tolist()} | option
            hits = http.post("/v1/search", json=body).json()["hits"]
            label = "class 1" if "where" in option else None
            expected = nearest(world, query, int(option["k"]), label=label)
            return [hit["detection_id"] for hit in hits], list(expected)

        with together(30) as begin:
            futures = [begin(search, number) for number in range(60)]
        for future in futures:
            actual, expected = future.result()
            assert actual == expected


def test_waiting_searches_share_one_call(world: World, gate: Gate) -> None:
    opened, sizes = gate
    with serving(world.index) as http:
        sizes.clear()
        opened.clear()
        with together(40) as begin:
            first = begin(http.post, "/v1/search", json={"detection_id": "a-0"})
            while not sizes:  # it is being searched, so all others wait
                pass
            others = [
                begin(http.post, "/v1/search", json={"detection_id": f"a-{row}", "k": row % 7 + 1})
                for row in range(6, 20)
            ]
            unknown = begin(http.post, "/v1/search", json={"detection_id": "nobody"})
            short = begin(http.post, "/v1/search", json={"vector": [1.0]})
            unfiltered = begin(http.post, "/v1/search", json={"detection_id": "a-0", "where": "x"})
            batch = begin(
                http.post, "/v1/search/batch", json={"queries": [{"detection_id": "a-0"}] * 9}
            )
            wait_for_depth(http, 14 + 3 + 9)
            opened.set()
        # The first one alone, then all without a filter in one call, then the one with a filter:
        # 1 to 11 neighbours are searched with the same effort.
        assert sorted(sizes) == [1, 1, 14 + 9]
        assert first.result().status_code == 200
        for row, future in enumerate(others, start=6):
            unit = world.unit[world.all_ids.index(f"a-{row}")]
            actual = [hit["detection_id"] for hit in future.result().json()["hits"]]
            assert actual == list(nearest(world, unit, row % 7 + 1, f"a-{row}"))
        assert len(batch.result().json()["results"]) == 9
        # An error of one request fails only that request.
        assert error_of(unknown.result(), 404)[0] == "detection_not_found"
        assert error_of(short.result(), 422)[0] == "invalid_vector"
        assert error_of(unfiltered.result(), 422)[0] == "invalid_filter"
        text = http.get("/metrics").text
        assert 'onepass_batch_size_bucket{le="16.0"} 2.0' in text
        assert 'onepass_batch_size_bucket{le="32.0"} 3.0' in text


def test_options_of_one_search_do_not_touch_another(world: World, gate: Gate) -> None:
    """What is asked for alone is what is answered in a call that many share."""
    opened, sizes = gate
    options: list[dict[str, Any]] = [
        {},
        {"k": 4, "offset": 3},
        {"k": 9, "score_threshold": 0.2},
        {"k": 2, "offset": 30, "with_vector": True},
        {"with_payload": False},
        {"k": 3, "include_features": True},
        {"k": 2, "group_by": "label", "group_size": 2},
        {"k": 3, "group_by": "sequence"},
    ]
    queries: list[dict[str, Any]] = [
        {"detection_id": "a-0"},
        {"vector": world.unit[4].tolist()},
        {"positive": ["a-2", "b-1"], "negative": [world.unit[3].tolist()]},
    ]
    bodies = [query | option for query in queries for option in options]
    with serving(world.index) as http:
        alone = [http.post("/v1/search", json=body) for body in bodies]
        assert {answer.status_code for answer in alone} == {200}
        sizes.clear()
        opened.clear()
        with together(len(bodies) + 1) as begin:
            first = begin(http.post, "/v1/search", json={"detection_id": "a-0"})
            while not sizes:
                pass
            answers = [begin(http.post, "/v1/search", json=body) for body in bodies]
            wait_for_depth(http, len(queries) * (7 + 32 // 4))  # vectors cost more
            opened.set()
        assert first.result().status_code == 200
        assert 1 < max(sizes) <= len(queries) * 6  # those without groups share calls
        for future, answer in zip(answers, alone, strict=True):
            assert future.result().json() == answer.json()


def test_a_full_queue_says_when_to_try_again(world: World, gate: Gate) -> None:
    opened, sizes = gate
    limits = Limits(waiting_queries=4, batch=4)
    with serving(world.index, limits=limits) as http:
        sizes.clear()
        opened.clear()
        with together(10) as begin:
            body = {"detection_id": "a-0"}
            waiting = [begin(http.post, "/v1/search", json=body)]
            while not sizes:
                pass
            waiting += [begin(http.post, "/v1/search", json=body) for _ in range(4)]
            wait_for_depth(http, 4)
            for _ in range(3):
                refused = http.post("/v1/search", json=body)
                code, message = error_of(refused, 429)
                assert (code, "4 queries wait" in message) == ("too_busy", True)
                assert int(refused.headers["retry-after"]) >= 1
            opened.set()
        assert [future.result().status_code for future in waiting] == [200] * 5
        assert 'onepass_rejected_requests_total{reason="queue"} 3.0' in http.get("/metrics").text
        assert depth(http) == 0
        assert http.post("/v1/search", json=body).status_code == 200


def test_an_unexpected_error_fails_only_its_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Snapshot.search

    def broken(self: Snapshot, vectors: np.ndarray, k: int, **options: Any) -> Hits:
        if options.get("exact"):
            raise RuntimeError(f"{self.path} is on fire")
        return original(self, vectors, k, **options)

    with serving(world.index) as http:
        monkeypatch.setattr(Snapshot, "search", broken)
        response = http.post("/v1/search", json={"detection_id": "a-0", "exact": True})
        code, message = error_of(response, 500)
        assert (code, "fire" in message) == ("internal", False)
        assert http.post("/v1/search", json={"detection_id": "a-0"}).status_code == 200
