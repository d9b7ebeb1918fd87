"""Contract of every server of the API: options of searches, and what is refused.

A module that imports these classes runs them against its fixture ``base_url``.
"""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest

from api.client import Client
from api.schemas.search import Hit
from tests.helpers.api.world import (
    FAILED,
    ODD_ID,
    World,
    check_hits,
    detection_url,
    error_of,
    nearest,
    raised_error,
)

SEARCHES = ("/v1/search", "/v1/search/batch", "/v1/search/image", "neighbours")


def _ask(http: httpx.Client, world: World, route: str, **options: Any) -> httpx.Response:
    """The same question over each route that searches: what is near the vector of a-0."""
    if route == "neighbours":
        return http.get(detection_url("a-0") + "/neighbours", params=options)
    if route.endswith("image"):
        files = {"image": (world.images / world.names[0]).read_bytes()}
        return http.post(route, files=files, data=options)
    query: dict[str, Any] = {"detection_id": "a-0"}
    return http.post(route, json=options | ({"queries": [query]} if "batch" in route else query))


def _hits(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    answer = response.json()
    hits: list[dict[str, Any]] = (
        answer["hits"] if "hits" in answer else answer["results"][0]["hits"]
    )
    return hits


def _ids(hits: list[Hit]) -> list[str]:
    return [hit.detection_id for hit in hits]


class TestUnknownParameters:
    """What a route does not know is refused, not ignored."""

    @pytest.mark.parametrize(
        "url",
        [
            "/v1/detections?wher=x",
            "/v1/detections?limit=3&Limit=4",
            "/v1/detections/a-0?k=3",
            "/v1/detections/a-0/neighbours?limit=3",
            "/v1/detections/a-0/neighbours?k=3&wher=score%20%3E%200.5",
            "/v1/detections/a-0/track?run=0",
            "/v1/detections/a-0/image?size=9",
            "/v1/tracks?where=x",
            "/v1/tracks/trap:00000?run=0&frame=1",
            "/v1/link/x?frame=1",
            "/v1/index?version=v0001",
            "/v1/index/facets?column=label&offset=3",
        ],
    )
    def test_in_a_query(self, http: httpx.Client, url: str) -> None:
        unknown = url.rpartition("&")[2].rpartition("?")[2].partition("=")[0]
        code, message = error_of(http.get(url), 422)
        assert (code, repr(unknown) in message) == ("invalid_request", True)

    def test_in_the_query_of_a_route_with_a_body(self, http: httpx.Client) -> None:
        for url, body in (
            ("/v1/search?k=3", {"detection_id": "a-0"}),
            ("/v1/search/batch?k=3", {"queries": [{"detection_id": "a-0"}]}),
            ("/v1/detections?with_vector=true&ids=x", {"ids": ["a-0"]}),
            ("/v1/index/reload?now", None),
        ):
            if "now" in url:
                url += "=1"
            assert error_of(http.post(url, json=body), 422)[0] == "invalid_request"

    @pytest.mark.parametrize("field", ["wher", "limit", "vector"])
    def test_in_a_form(self, http: httpx.Client, world: World, field: str) -> None:
        response = _ask(http, world, "/v1/search/image", **{field: "3"})
        code, message = error_of(response, 422)
        assert (code, repr(field) in message, "score_threshold" in message) == (
            "invalid_request",
            True,
            True,
        )
        files = {"image": b"x", "picture": b"y"}
        assert "picture" in error_of(http.post("/v1/search/image", files=files), 422)[1]

    def test_in_a_body(self, http: httpx.Client) -> None:
        for url, body in (
            ("/v1/search", {"detection_id": "a-0", "wher": "x"}),
            ("/v1/search/batch", {"queries": [{"detection_id": "a-0"}], "wher": "x"}),
            ("/v1/detections", {"ids": ["a-0"], "wher": "x"}),
        ):
            code, message = error_of(http.post(url, json=body), 422)
            assert (code, "'wher'" in message) == ("invalid_request", True)
            assert "with_payload" in message  # what there is instead

    def test_given_twice(self, http: httpx.Client) -> None:
        for url in ("/v1/detections?limit=3&limit=4", "/v1/detections/a-0/neighbours?k=1&k=2"):
            assert error_of(http.get(url), 422)[0] == "invalid_request"
        assert http.get("/v1/detections?ids=a-0&ids=a-2").json()["total"] == 2

    def test_probes_and_the_page_take_any(self, http: httpx.Client) -> None:
        for url in ("/livez?x=1", "/readyz?x=1", "/metrics?x=1", "/?x=1", "/page/main.js?x=1"):
            assert http.get(url).status_code == 200


class TestOptions:
    """Every route that searches takes the same options, and they do what brute force does."""

    @pytest.mark.parametrize("route", SEARCHES)
    def test_every_route_takes_every_option(
        self, http: httpx.Client, world: World, route: str
    ) -> None:
        options: dict[str, Any] = {
            "k": 3,
            "offset": 2,
            "score_threshold": -1.0,
            "where": "score > 0",
            "ids": [*world.all_ids[:20], "nobody"],
            "with_payload": "false" if route in SEARCHES[2:] else False,
            "with_vector": True,
            "include_features": True,
            "exact": True,
            "group_by": "sequence",
            "group_size": 2,
        }
        response = _ask(http, world, route, **options)
        _hits(response)
        assert response.json()["unknown_ids"] == ["nobody"]
        del options["group_by"], options["group_size"]
        hits = _hits(_ask(http, world, route, **options))
        assert [hit["rank"] for hit in hits] == [3, 4, 5]
        for hit in hits:
            assert hit["payload"] is None
            assert hit["vector"] == hit["features"]
            unit = world.unit[world.all_ids.index(hit["detection_id"])]
            np.testing.assert_allclose(hit["vector"], unit, atol=1e-5)

    @pytest.mark.parametrize("route", SEARCHES)
    def test_no_ids_are_no_hits(self, http: httpx.Client, world: World, route: str) -> None:
        response = _ask(http, world, route, ids="" if route in SEARCHES[2:] else [])
        assert _hits(response) == []
        assert response.json()["unknown_ids"] == []

    def test_no_ids_over_the_client(self, client: Client, world: World) -> None:
        data = (world.images / world.names[0]).read_bytes()
        answers = (
            client.search("a-0", ids=[]),
            client.neighbors("a-0", ids=[]),
            client.search_image(data, ids=[]),
        )
        assert [answer.hits for answer in answers] == [[], [], []]
        assert client.detections(ids=[]).detections == client.fetch([]).detections == []

    def test_unknown_ids_are_named(self, client: Client) -> None:
        failed = f"a-{FAILED}"  # in the run, with an error: not in the index
        answer = client.search("a-0", 5, ids=["zz", "a-2", failed, ODD_ID])
        assert answer.unknown_ids == [failed, "zz"]
        assert set(_ids(answer.hits)) == {"a-2", ODD_ID}
        assert client.search("a-0", 5).unknown_ids == []
        assert client.detections(ids=["zz", "a-2"]).unknown_ids == ["zz"]
        fetched = client.fetch(["zz", "a-2", "y", ODD_ID])
        assert (fetched.unknown_ids, [d.detection_id for d in fetched.detections]) == (
            ["zz", "y"],
            ["a-2", ODD_ID],
        )

    def test_pages_are_parts_of_the_whole(self, client: Client, world: World) -> None:
        vector = np.random.default_rng(2).normal(size=world.model.feature_dim)
        for query in ("a-0", vector):
            whole = client.search(query, 25).hits
            pages = [client.search(query, 4, offset=offset).hits for offset in range(0, 28, 4)]
            assert [hit for page in pages for hit in page] == [
                *whole,
                *client.search(query, 3, offset=25).hits,
            ]
            assert client.search(query, offset=1000).hits == []

    def test_a_threshold_cuts_where_brute_force_does(self, client: Client, world: World) -> None:
        vector = np.random.default_rng(3).normal(size=world.model.feature_dim)
        expected = nearest(world, vector, 1000)
        limit = sorted(expected.values())[-6] - 1e-4
        hits = client.search(vector, 20, score_threshold=limit).hits
        check_hits(hits, dict(list(expected.items())[:6]))
        assert (
            _ids(client.search(vector, 20, score_threshold=limit, offset=4).hits)
            == list(expected)[4:6]
        )
        assert client.search(vector, score_threshold=1.01).hits == []

    def test_groups_equal_brute_force(self, client: Client, world: World) -> None:
        vector = np.random.default_rng(4).normal(size=world.model.feature_dim)
        order = list(nearest(world, vector, 1000))
        labels = dict(zip(world.all_ids, world.labels, strict=True))
        groups: dict[str, list[str]] = {}
        for name in order:
            groups.setdefault(labels[name], []).append(name)
        hits = client.search(vector, 2, group_by="label", group_size=3).hits
        assert _ids(hits) == [name for label in list(groups)[:2] for name in groups[label][:3]]
        assert [hit.group for hit in hits] == [labels[name] for name in _ids(hits)]
        assert [hit.rank for hit in hits] == list(range(1, 7))
        last = client.search(vector, 5, group_by="label", offset=2).hits
        assert _ids(last) == [groups[list(groups)[2]][0]]
        mixed: list[str | np.ndarray] = ["a-0", vector]
        batch = client.search_batch(mixed, 2, group_by="label", group_size=3)
        assert batch.results[1].hits == hits
        assert "a-0" not in _ids(batch.results[0].hits)

    def test_one_hit_of_each_track_and_image(self, client: Client, world: World) -> None:
        hits = client.search("a-0", 1000, group_by="track").hits
        track_of = {
            step.detection_id: (track.run, track.track_id)
            for track in client.tracks(limit=1000).tracks
            for step in client.track(track.track_id, run=track.run).detections
        }
        order = [name for name in nearest(world, world.unit[0], 1000) if name != "a-0"]
        expected = {track_of.get(name, (name, "")): name for name in reversed(order)}
        assert set(_ids(hits)) == set(expected.values())
        assert [hit.group for hit in hits] == [
            track_of[name][1] if name in track_of else None for name in _ids(hits)
        ]
        images = client.search("a-0", 1000, group_by="image").hits
        assert len(images) == len({client.detection(name).image for name in world.all_ids})
        assert not any("/" in str(hit.group) for hit in images)

    def test_examples_equal_brute_force(self, client: Client, world: World) -> None:
        extra = np.random.default_rng(5).normal(size=world.model.feature_dim) * 40
        unit = dict(zip(world.all_ids, world.unit, strict=True))
        positive = np.mean([unit["a-0"], unit["b-3"], extra / np.linalg.norm(extra)], axis=0)
        negative = np.mean([unit["a-7"], unit[ODD_ID]], axis=0)
        left_out = {"a-0", "b-3", "a-7", ODD_ID}
        hits = client.recommend(["a-0", extra, "b-3"], ["a-7", ODD_ID], 6).hits
        order = nearest(world, 2 * positive - negative, 1000)
        expected = [(name, score) for name, score in order.items() if name not in left_out][:6]
        check_hits(hits, dict(expected))
        alone = client.recommend(["a-0"], k=6).hits
        assert _ids(alone) == _ids(client.search("a-0", 6).hits)
        grouped = client.recommend(["a-0", "b-3"], k=9, group_by="label").hits
        assert len({hit.group for hit in grouped}) == len(grouped) == 3

    @pytest.mark.parametrize(
        ("code", "body"),
        [
            ("invalid_request", {"positive": []}),
            ("invalid_request", {"negative": ["a-0"]}),
            ("invalid_request", {"detection_id": "a-0", "negative": ["a-2"]}),
            ("invalid_request", {"detection_id": "a-0", "positive": ["a-2"]}),
            ("invalid_request", {"positive": [{}]}),
            ("invalid_vector", {"positive": [[0.0] * 32]}),
            ("invalid_examples", {"positive": [[1.0]]}),
            ("invalid_examples", {"positive": [[1.0] * 32, [-1.0] * 32]}),
            ("invalid_request", {"detection_id": "a-0", "offset": -1}),
            ("over_limit", {"detection_id": "a-0", "offset": 1_000_000}),
            (
                "over_limit",
                {"detection_id": "a-0", "k": 1000, "group_by": "label", "group_size": 99},
            ),
            ("invalid_request", {"detection_id": "a-0", "group_size": 2}),
            ("invalid_column", {"detection_id": "a-0", "group_by": "colour"}),
            ("invalid_column", {"detection_id": "a-0", "with_payload": ["colour"]}),
            ("invalid_filter", {"detection_id": "a-0", "group_by": "label", "where": "colour = 1"}),
        ],
    )
    def test_wrong_options_are_refused(
        self, http: httpx.Client, code: str, body: dict[str, Any]
    ) -> None:
        assert error_of(http.post("/v1/search", json=body), 422)[0] == code

    def test_an_unknown_example_is_named(self, client: Client) -> None:
        error = raised_error(client.recommend, ["a-0", "nobody"])
        assert (error.status, error.code, "'nobody'" in error.message) == (
            404,
            "detection_not_found",
            True,
        )

    def test_vectors_by_id(self, client: Client, http: httpx.Client, world: World) -> None:
        names = [*reversed(world.all_ids), world.all_ids[0]]
        fetched = client.fetch(names, with_vector=True).detections
        assert [d.detection_id for d in fetched] == names
        rows = [world.all_ids.index(name) for name in names]
        np.testing.assert_allclose([d.vector for d in fetched], world.unit[rows], atol=1e-5)
        one = client.detection(ODD_ID, with_vector=True)
        np.testing.assert_allclose(
            one.vector or [], world.unit[world.all_ids.index(ODD_ID)], atol=1e-5
        )
        page = client.detections(ids=[ODD_ID], with_vector=True).detections
        assert page == [one]
        assert client.detection(ODD_ID).vector is None
        body = {"ids": [f"x{number}" for number in range(10_001)]}
        assert error_of(http.post("/v1/detections", json=body), 422)[0] == "invalid_request"

    def test_a_vector_is_base64_as_before(self, http: httpx.Client, world: World) -> None:
        text = base64.b64encode(world.unit[0].astype("<f4").tobytes()).decode()
        answer = http.post("/v1/search", json={"vector": text, "k": 1}).json()
        assert answer["hits"][0]["detection_id"] == world.all_ids[0]
