"""Searches that wait together: the same answers as alone, one snapshot, a bounded queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from api.app import create_app
from api.http.limits import Limits
from index.search.snapshot import Hits, Snapshot
from tests.integration.api.world import World, error_of, nearest, serving

Gate = tuple[threading.Event, list[int]]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Searches wait until the event is set; the list has the queries of each call of FAISS."""
    opened, sizes = threading.Event(), []
    really = Snapshot.search

    def slowly(self: Snapshot, vectors: np.ndarray, k: int, **wishes: Any) -> Hits:
        sizes.append(len(vectors))
        assert opened.wait(60)
        return really(self, vectors, k, **wishes)

    opened.set()  # the server searches once before it is ready
    monkeypatch.setattr(Snapshot, "search", slowly)
    return opened, sizes


@contextmanager
def together(count: int) -> Iterator[Callable[..., Any]]:
    """Calls that run side by side; all are waited for at the end."""
    with ThreadPoolExecutor(count) as pool:
        yield pool.submit


def depth(http: httpx.Client) -> float:
    lines = http.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("onepass_queue_depth ")).split()[1])


def wait_for_depth(http: httpx.Client, wanted: int) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if depth(http) == wanted:
            return
        pause.wait(0.005)
    raise AssertionError(f"the queue never held {wanted} queries")


@pytest.mark.parametrize("micro_batching", [True, False])
def test_many_at_once_answer_like_one_at_a_time(world: World, micro_batching: bool) -> None:
    queries = np.random.default_rng(3).normal(size=(60, world.facts.feature_dim))
    wishes: list[dict[str, Any]] = [
        {"k": 3},
        {"k": 200},
        {"k": 5, "where": "label = 'class 1'"},
        {"k": 2, "exact": True},
    ]
    with serving(create_app(world.index, micro_batching=micro_batching)) as http:

        def ask(number: int) -> tuple[list[str], list[str]]:
            wish, query = wishes[number % 4], queries[number]
            body = {"vector": query.tolist()} | wish
            hits = http.post("/v1/search", json=body).json()["hits"]
            label = "class 1" if "where" in wish else None
            expected = nearest(world, query, int(wish["k"]), label=label)
            return [hit["detection_id"] for hit in hits], list(expected)

        with together(30) as begin:
            found = [begin(ask, number) for number in range(60)]
        for one in found:
            got, expected = one.result()
            assert got == expected


def test_what_waits_is_searched_in_one_call(world: World, gate: Gate) -> None:
    opened, sizes = gate
    with serving(create_app(world.index)) as http:
        sizes.clear()
        opened.clear()
        with together(40) as begin:
            first = begin(http.post, "/v1/search", json={"detection_id": "a-0"})
            while not sizes:  # it searches, so that all others wait
                pass
            others = [
                begin(http.post, "/v1/search", json={"detection_id": f"a-{row}", "k": row})
                for row in range(6, 20)
            ]
            lost = begin(http.post, "/v1/search", json={"detection_id": "nobody"})
            odd = begin(http.post, "/v1/search", json={"vector": [1.0]})
            bad = begin(http.post, "/v1/search", json={"detection_id": "a-0", "where": "x"})
            batch = begin(
                http.post, "/v1/search/batch", json={"queries": [{"detection_id": "a-0"}] * 9}
            )
            wait_for_depth(http, 14 + 3 + 9)
            opened.set()
        # One that came first, then all of one filter in a call, and the one whose filter is none.
        assert sorted(sizes) == [1, 1, 14 + 9]
        assert first.result().status_code == 200
        for row, one in enumerate(others, start=6):
            unit = world.unit[world.all_ids.index(f"a-{row}")]
            got = [hit["detection_id"] for hit in one.result().json()["hits"]]
            assert got == list(nearest(world, unit, row, f"a-{row}"))
        assert len(batch.result().json()["results"]) == 9
        # What is wrong with one stays with that one.
        assert error_of(lost.result(), 404)[0] == "detection_not_found"
        assert error_of(odd.result(), 422)[0] == "invalid_vector"
        assert error_of(bad.result(), 422)[0] == "invalid_filter"
        text = http.get("/metrics").text
        assert 'onepass_batch_size_bucket{le="16.0"} 2.0' in text
        assert 'onepass_batch_size_bucket{le="32.0"} 3.0' in text


def test_a_full_queue_says_when_to_ask_again(world: World, gate: Gate) -> None:
    opened, sizes = gate
    limits = Limits(waiting_queries=4, batch=4)
    with serving(create_app(world.index, limits=limits)) as http:
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
        assert [one.result().status_code for one in waiting] == [200] * 5
        assert 'onepass_rejected_requests_total{reason="queue"} 3.0' in http.get("/metrics").text
        assert depth(http) == 0
        assert http.post("/v1/search", json=body).status_code == 200


def test_a_search_that_breaks_is_told_to_whom_it_belongs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Snapshot.search

    def broken(self: Snapshot, vectors: np.ndarray, k: int, **wishes: Any) -> Hits:
        if wishes.get("exact"):
            raise RuntimeError(f"{self.path} is on fire")
        return really(self, vectors, k, **wishes)

    with serving(create_app(world.index)) as http:
        monkeypatch.setattr(Snapshot, "search", broken)
        response = http.post("/v1/search", json={"detection_id": "a-0", "exact": True})
        code, message = error_of(response, 500)
        assert (code, "fire" in message) == ("internal", False)
        assert http.post("/v1/search", json={"detection_id": "a-0"}).status_code == 200
