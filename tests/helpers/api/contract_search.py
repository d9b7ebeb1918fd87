"""Contract of every server of the API: searches, detections and tracks.

A module that imports these classes runs them against its fixture ``base_url``.
"""

import base64
import io
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image

from api.client import Client
from tests.helpers.api.world import (
    FRAMES,
    ODD_ID,
    World,
    check_hits,
    detection_url,
    error_of,
    nearest,
    raised_error,
)


class TestSearch:
    """One query, many queries, an image; with and without a filter."""

    def test_vectors_equal_brute_force(
        self, client: Client, http: httpx.Client, world: World
    ) -> None:
        rng = np.random.default_rng(1)
        for query in rng.normal(size=(5, world.model.feature_dim)).astype(np.float32):
            expected = nearest(world, query, 7)
            for exact in (False, True):
                answer = client.search(query, 7, exact=exact)
                assert (answer.metric, answer.k, answer.snapshot) == ("cosine", 7, "v0001")
                check_hits(answer.hits, expected)
                assert all(hit.features is None for hit in answer.hits)
                body = {"vector": query.tolist(), "k": 7, "exact": exact}
                assert http.post("/v1/search", json=body).json() == answer.model_dump(mode="json")

    @pytest.mark.parametrize("exact", [False, True])
    def test_a_detection_is_not_its_own_hit(
        self, client: Client, world: World, exact: bool
    ) -> None:
        for row in (0, 10, len(world.all_ids) - 1):
            answer = client.search(world.all_ids[row], 5, exact=exact)
            check_hits(answer.hits, nearest(world, world.unit[row], 5, world.all_ids[row]))
            if not exact:
                assert client.neighbors(world.all_ids[row], 5) == answer

    def test_more_hits_than_rows_gives_every_row_once(self, client: Client, world: World) -> None:
        ids = [hit.detection_id for hit in client.search(ODD_ID, 1000).hits]
        assert sorted([*ids, ODD_ID]) == sorted(world.all_ids)

    def test_features_are_the_stored_vectors(self, client: Client, world: World) -> None:
        mixed: list[str | np.ndarray] = ["a-0", world.unit[3]]
        for results in (
            [client.search("a-0", 3, include_features=True)],
            client.search_batch(mixed, 3, include_features=True).results,
        ):
            for hit in [hit for result in results for hit in result.hits]:
                unit = world.unit[world.all_ids.index(hit.detection_id)]
                assert hit.features is not None
                np.testing.assert_allclose(hit.features, unit, atol=1e-5)

    def test_a_batch_is_as_many_searches(self, client: Client, world: World) -> None:
        vectors = np.random.default_rng(6).normal(size=(256, world.model.feature_dim))
        answer = client.search_batch(vectors.astype(np.float32), 4)
        assert len(answer.results) == 256
        for vector, result in zip(vectors, answer.results, strict=True):
            check_hits(result.hits, nearest(world, vector, 4))
        mixed: list[str | np.ndarray] = ["a-3", vectors[0], ODD_ID, "a-3"]
        answer = client.search_batch(mixed, 6, where="label = 'class 0'")
        for query, result in zip(mixed, answer.results, strict=True):
            assert result.hits == client.search(query, 6, where="label = 'class 0'").hits
            assert {hit.label for hit in result.hits} == {"class 0"}

    def test_filters_limit_the_rows(self, client: Client, world: World) -> None:
        query = np.random.default_rng(7).normal(size=world.model.feature_dim)
        expected = nearest(world, query, 4, label="class 2")
        check_hits(client.search(query, 4, where="label = 'class 2'").hits, expected)
        check_hits(client.search(query, 4, where="label = 'class 2'", exact=True).hits, expected)
        own = world.all_ids[0]
        answer = client.neighbors(own, 5, where="label = 'class 0'")
        check_hits(answer.hits, nearest(world, world.unit[0], 5, own, label="class 0"))
        chosen = [own, "a-7", ODD_ID, "nobody"]
        ids = [hit.detection_id for hit in client.search(own, 10, ids=chosen).hits]
        assert sorted(ids) == sorted(["a-7", ODD_ID])
        assert client.search(query, 4, where="score > 2").hits == []
        assert client.search(query, 4, ids=["a-7"], where="detection_id = 'a-8'").hits == []

    @pytest.mark.parametrize(
        "where", ["colour = 'red'", "", "score", "read_text('/etc/passwd') = ''", "true); --"]
    )
    def test_invalid_filters_are_refused(self, client: Client, world: World, where: str) -> None:
        for error in (
            raised_error(client.search, "a-0", where=where),
            raised_error(client.search_batch, ["a-0"], where=where),
            raised_error(client.neighbors, "a-0", where=where),
        ):
            assert (error.status, error.code) == (422, "invalid_filter")
            assert str(world.index) not in error.message

    def test_an_upload_finds_the_same_pixels(self, client: Client, world: World) -> None:
        data = (world.images / world.names[0]).read_bytes()
        answer = client.search_image(data, 4, include_features=True)
        expected = world.embedder.embed_bytes(data)
        check_hits(answer.hits, nearest(world, expected.embedding, 4))
        assert answer.query.label == expected.label
        assert answer.query.score == pytest.approx(expected.score)
        assert [score.label_index for score in answer.query.topk] == [
            score["label_index"] for score in expected.topk
        ]
        assert len(answer.hits[0].features or []) == world.model.feature_dim
        filtered = client.search_image(data, 4, where="label = 'class 1'")
        check_hits(filtered.hits, nearest(world, expected.embedding, 4, label="class 1"))
        # The crop the service itself serves is JPEG again, so nearly, not exactly, the same.
        assert client.search_image(client.image("a-4"), 1).hits[0].score > 0.999

    @pytest.mark.parametrize(
        ("code", "body"),
        [
            ("invalid_request", {}),
            ("invalid_request", {"detection_id": "a-0", "vector": [1.0]}),
            ("invalid_vector", {"vector": [1.0, 2.0]}),
            ("invalid_vector", {"vector": [0.0] * 32}),
            ("invalid_vector", {"vector": [1e300] * 32}),
            ("invalid_request", {"vector": ["x"] * 9}),
            ("invalid_vector", {"vector": "%%%"}),
            ("invalid_vector", {"vector": "AAAAAAA="}),
            ("invalid_vector", {"vector": "AADAfw=="}),
            ("invalid_request", {"vector": [1.0] * 32, "k": 0}),
            ("invalid_request", {"vector": [1.0] * 32, "k": 1001}),
            ("invalid_request", {"vector": [1.0] * 32, "filter": "x"}),
            ("invalid_request", {"detection_id": "a-0", "ids": ["x"] * 10_001}),
        ],
    )
    def test_bad_searches_are_refused(
        self, http: httpx.Client, code: str, body: dict[str, Any]
    ) -> None:
        assert error_of(http.post("/v1/search", json=body), 422)[0] == code

    @pytest.mark.parametrize(
        ("code", "body"),
        [
            ("invalid_request", {}),
            ("invalid_request", {"queries": [], "k": 3}),
            ("invalid_request", {"queries": [{"detection_id": "a-0"}, {}]}),
            ("invalid_request", {"queries": [{"detection_id": "a-0"}] * 257}),
            ("invalid_vector", {"queries": [{"detection_id": "a-0"}, {"vector": [1.0]}]}),
            ("invalid_vector", {"queries": [{"detection_id": "a-0"}, {"vector": "="}]}),
            ("over_limit", {"queries": [{"detection_id": "a-0"}] * 256, "k": 1000}),
            ("invalid_vector", {"vectors": ""}),
            ("invalid_vector", {"vectors": base64.b64encode(bytes(4 * 33)).decode()}),
            ("invalid_vector", {"vectors": base64.b64encode(bytes(4 * 64)).decode()}),
            ("over_limit", {"vectors": base64.b64encode(np.ones(32 * 257, "<f4")).decode()}),
        ],
    )
    def test_bad_batches_are_refused(
        self, http: httpx.Client, code: str, body: dict[str, Any]
    ) -> None:
        assert error_of(http.post("/v1/search/batch", json=body), 422)[0] == code

    def test_a_batch_names_the_unknown_query(self, client: Client) -> None:
        error = raised_error(client.search_batch, ["a-0", "nobody"])
        assert (error.status, error.code) == (404, "detection_not_found")
        assert error.message.startswith("query 1: no detection 'nobody'")

    def test_invalid_uploads_are_explained(self, http: httpx.Client, client: Client) -> None:
        error = raised_error(client.search_image, b"no image")
        assert (error.status, error.code) == (422, "invalid_image")
        assert "no known format" in error.message
        assert "image" in error_of(http.post("/v1/search/image", data={"k": "3"}), 422)[1]


class TestDetections:
    """One detection and its pixels."""

    def test_fields_are_those_of_the_run(self, http: httpx.Client, world: World) -> None:
        assert http.get(detection_url(ODD_ID)).json() == {
            "detection_id": ODD_ID,
            "label": "class 1",
            "label_score": pytest.approx(0.9),
            "image": "20220620002900.jpg",
            "box": list(world.boxes[1]),
            "sequence": "trap",
            "frame": 0,
            "timestamp": "2022-06-20T00:29:00",
            "payload": {},
            "vector": None,
        }
        whole = http.get("/v1/detections/b-0").json()
        assert (whole["box"], whole["image"]) == (None, "gone0.jpg")

    def test_a_hit_has_the_same_fields(self, client: Client, world: World) -> None:
        for hit in client.search("a-0", 1000).hits:
            alone = client.detection(hit.detection_id).model_dump()
            assert hit.model_dump(include=set(alone)) == alone

    def test_the_crop_has_the_boxs_pixels(self, client: Client, world: World) -> None:
        for detection_id, row, other in ((ODD_ID, 1, 2), ("a-2", 2, 1)):
            crop = np.asarray(Image.open(io.BytesIO(client.image(detection_id))), dtype=float)
            with Image.open(world.images / world.names[row]) as picture:
                expected, neighbour = (
                    np.asarray(picture.crop(tuple(map(int, world.boxes[which]))), dtype=float)
                    for which in (row, other)
                )
            assert crop.shape == expected.shape
            # Sharp colour edges are what JPEG is worst at; another crop is ten times as far off.
            assert np.abs(crop - expected).mean() < 8
            assert np.abs(crop - neighbour).mean() > 40
        error = raised_error(client.image, "b-3")
        assert (error.status, error.code) == (404, "image_missing")
        assert "gone3.jpg" in error.message

    @pytest.mark.parametrize("safe", ["", "/"])
    def test_unusual_ids_work(self, http: httpx.Client, safe: str) -> None:
        url = detection_url(ODD_ID, safe=safe)
        assert http.get(url).json()["detection_id"] == ODD_ID
        assert len(http.get(f"{url}/neighbours?k=2").json()["hits"]) == 2
        answer = http.get(f"{url}/image")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")

    @pytest.mark.parametrize(
        "name", ["nobody", "../../etc/passwd", "..%2F..%2Fetc%2Fpasswd", "%00"]
    )
    def test_unknown_ids_are_404(self, http: httpx.Client, name: str) -> None:
        for tail in ("", "/neighbours", "/image"):
            code, message = error_of(http.get(f"/v1/detections/{quote(name, safe='%')}{tail}"), 404)
            assert code == "detection_not_found"
            assert "root:" not in message


class TestTracks:
    """Tracks, a page at a time and one by one."""

    def test_tracks_follow_the_blobs(self, client: Client, world: World) -> None:
        own = [track for track in client.tracks("trap").tracks if track.run == 0]
        assert sorted(track.length for track in own) == [FRAMES - 1, FRAMES, FRAMES]
        steps = client.track(own[0].track_id, run=0).detections
        assert [step.position for step in steps] == list(range(own[0].length))
        assert steps[0].previous_detection_id is steps[0].cost is None
        for before, step in pairwise(steps):
            assert step.previous_detection_id == before.detection_id
            terms = [getattr(step, f"cost_{t}") for t in ("feature", "iou", "area", "distance")]
            assert step.cost == pytest.approx(sum(terms), abs=1e-5)
            assert step.detection is not None
            assert step.detection == client.detection(step.detection_id)
            assert step.detection.frame == step.frame

    def test_tracks_come_in_pages(self, client: Client) -> None:
        everything = client.tracks()
        assert everything.total == len(everything.tracks) > 2
        page = client.tracks(limit=2, offset=1)
        assert page.tracks == everything.tracks[1:3]
        assert page.total == everything.total
        assert client.tracks("no").total == 0

    def test_one_id_in_two_runs_needs_the_run(self, client: Client) -> None:
        error = raised_error(client.track, "trap:00000")
        assert (error.status, error.code, "0, 1" in error.message) == (422, "ambiguous_track", True)
        assert client.track("trap:00000", run=1).run == 1
        assert raised_error(client.track, "trap:99999").code == "track_not_found"
