"""Tests that every server of the service must pass, whatever runs it.

A module that imports these classes runs them against its fixture ``base_url``; the default one is
uvicorn. Hits are compared with NumPy brute force over the stored embeddings, and the client checks
every answer against its declared model.
"""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import numpy as np
import pytest
from PIL import Image

from api.client import Client, ServiceError
from tests.integration.api.world import (
    FAILED,
    FRAMES,
    JSON,
    ODD_ID,
    PER_FRAME,
    World,
    check_hits,
    detection_url,
    error_of,
    nearest,
)
from tracks.store import read_tracks


def raised_error(call: Any, *args: Any, **options: Any) -> ServiceError:
    """The error that the service answers with."""
    with pytest.raises(ServiceError) as caught:
        call(*args, **options)
    assert caught.value.request_id
    return caught.value


BOX: dict[str, Any] = {"box": [1.0, 2.0, 30.0, 40.0]}
DETECTION: dict[str, Any] = BOX | {"vector": [1.0] * 32}
NO_SIZE = {"image_width": None, "image_height": None}
COSTS = ("cost", "cost_feature", "cost_iou", "cost_area", "cost_distance", "margin")


def frame_body(**fields: Any) -> dict[str, Any]:
    """A request with one detection, of a sequence that nothing else uses."""
    size = {"image_width": 240, "image_height": 160}
    plain = {"request_id": "1", "sequence": uuid4().hex, "detections": [DETECTION]}
    return plain | size | fields


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
                assert client.neighbours(world.all_ids[row], 5) == answer

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
        answer = client.neighbours(own, 5, where="label = 'class 0'")
        check_hits(answer.hits, nearest(world, world.unit[0], 5, own, label="class 0"))
        chosen = [own, "a-7", ODD_ID, "nobody"]
        ids = [hit.detection_id for hit in client.search(own, 10, ids=chosen).hits]
        assert sorted(ids) == sorted(["a-7", ODD_ID])
        assert client.search(query, 4, where="score > 2").hits == []
        assert client.search(query, 4, ids=["a-7"], where="detection_id = 'a-8'").hits == []

    @pytest.mark.parametrize(
        ("where", "reason"),
        [
            ("colour = 'red'", "there is no column 'colour'"),
            ("label = ", "cannot be used"),
            ("", "empty"),
            ("score", "not true or false"),
            ("read_text('/etc/passwd') = ''", "read_text' is not allowed"),
            ("detection_id IN (SELECT image FROM rows)", "subquery is not allowed"),
            ("true) FROM rows; DROP TABLE rows; --", "cannot be used"),
        ],
    )
    def test_invalid_filters_are_explained(
        self, client: Client, world: World, where: str, reason: str
    ) -> None:
        for error in (
            raised_error(client.search, "a-0", where=where),
            raised_error(client.search_batch, ["a-0"], where=where),
            raised_error(client.neighbours, "a-0", where=where),
        ):
            assert (error.status, error.code) == (422, "invalid_filter")
            assert reason in error.message
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
        ("body", "reason"),
        [
            ({}, "exactly one of detection_id and vector, not none"),
            ({"detection_id": "a-0", "vector": [1.0]}, "exactly one"),
            ({"vector": [1.0, 2.0]}, "2 numbers, this index has 32"),
            ({"vector": [0.0] * 32}, "all zeros"),
            ({"vector": [1e300] * 32}, "not finite"),
            ({"vector": ["x"] * 9}, "and 7 more"),
            ({"vector": "%%%"}, "not base64"),
            ({"vector": "AAAAAAA="}, "5 bytes, not a multiple of 4"),
            ({"vector": "AADAfw=="}, "not finite"),
            ({"vector": [1.0] * 32, "k": 0}, "body.k"),
            ({"vector": [1.0] * 32, "k": 1001}, "less than or equal to 1000"),
            ({"vector": [1.0] * 32, "filter": "x"}, "body.filter"),
            ({"detection_id": "a-0", "ids": []}, "body.ids"),
            ({"detection_id": "a-0", "ids": ["x"] * 10_001}, "at most 10000"),
        ],
    )
    def test_bad_searches_are_explained(
        self, http: httpx.Client, body: dict[str, Any], reason: str
    ) -> None:
        assert reason in error_of(http.post("/v1/search", json=body), 422)[1]

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({}, "exactly one of queries and vectors, not none"),
            ({"queries": [], "k": 3}, "body.queries"),
            ({"queries": [{"detection_id": "a-0"}, {}]}, "body.queries.1"),
            ({"queries": [{"detection_id": "a-0"}] * 257}, "at most 256"),
            ({"queries": [{"detection_id": "a-0"}, {"vector": [1.0]}]}, "query 1: the vector has 1 "),
            ({"queries": [{"detection_id": "a-0"}, {"vector": "="}]}, "query 1: the vector is text"),
            ({"queries": [{"detection_id": "a-0"}] * 256, "k": 1000}, "256000 hits"),
            ({"vectors": ""}, "0 numbers"),
            ({"vectors": base64.b64encode(bytes(4 * 33)).decode()}, "a multiple of 32"),
            ({"vectors": base64.b64encode(bytes(4 * 64)).decode()}, "query 0: the vector is all zeros"),
            ({"vectors": base64.b64encode(bytes(4 * 32 * 257)).decode()}, "257 queries"),
        ],
    )  # fmt: skip
    def test_bad_batches_are_explained(
        self, http: httpx.Client, body: dict[str, Any], reason: str
    ) -> None:
        assert reason in error_of(http.post("/v1/search/batch", json=body), 422)[1]

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
        }
        whole = http.get("/v1/detections/b-0").json()
        assert (whole["box"], whole["image"]) == (None, "gone0.jpg")

    def test_a_hit_has_the_same_fields(self, client: Client, world: World) -> None:
        for hit in client.search("a-0", 1000).hits:
            alone = client.detection(hit.detection_id).model_dump()
            assert hit.model_dump(include=set(alone)) == alone

    def test_the_crop_has_the_boxs_pixels(self, client: Client, world: World) -> None:
        for detection_id, row, other in ((ODD_ID, 1, 2), ("a-2", 2, 1)):
            got = np.asarray(Image.open(io.BytesIO(client.image(detection_id))), dtype=float)
            with Image.open(world.images / world.names[row]) as picture:
                want, wrong = (
                    np.asarray(picture.crop(tuple(map(int, world.boxes[which]))), dtype=float)
                    for which in (row, other)
                )
            assert got.shape == want.shape
            # Sharp colour edges are what JPEG is worst at; another crop is ten times as far off.
            assert np.abs(got - want).mean() < 8
            assert np.abs(got - wrong).mean() > 40
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


class TestLink:
    """Live frames: the same tracks as linking the run, and each frame once."""

    @pytest.mark.parametrize("way", ["vectors", "image"])
    def test_frame_by_frame_gives_what_linking_the_run_gave(
        self, client: Client, world: World, way: str
    ) -> None:
        sequence = f"trap/{uuid4().hex}"
        offline = read_tracks(world.index.parent / "first-default").to_pylist()
        assert len(offline) == FRAMES * PER_FRAME - 1
        assert sum(row["cost"] is not None for row in offline) > PER_FRAME * (FRAMES - 2)
        live = []
        for frame in range(FRAMES):
            rows = [n for n in range(frame * PER_FRAME, (frame + 1) * PER_FRAME) if n != FAILED]
            data = (world.images / world.names[rows[0]]).read_bytes()
            embedded = [world.embedder.embed_bytes(data, box=world.boxes[n]) for n in rows]
            content: dict[str, Any] = {"image": data}
            if way == "vectors":
                vectors = np.stack([item.embedding for item in embedded])
                content = {"vectors": vectors, "size": (240, 160)}
            answer = client.link(
                sequence,
                [world.boxes[n] for n in rows],
                request_id=f"frame {frame}",
                ids=[world.ids[n] for n in rows],
                **content,
            )
            assert (answer.frame, answer.restarted) == (frame, None)
            for link, expected in zip(answer.detections, embedded, strict=True):
                label = (expected.label, pytest.approx(expected.score, abs=1e-5))
                assert (link.label, link.label_score) == (label if way == "image" else (None, None))
            live += [(frame, link) for link in answer.detections]
        for row, (frame, link) in zip(offline, live, strict=True):
            assert row["frame"] == frame
            assert row["track_id"].removeprefix("trap:") == link.track_id.removeprefix(
                sequence + ":"
            )
            for name in ("detection_id", "position", "previous_detection_id"):
                assert row[name] == getattr(link, name)
            for name in COSTS:
                assert getattr(link, name) == pytest.approx(row[name], abs=1e-5)
        state = client.open_tracks(sequence)
        assert (state.frame, state.restarts) == (FRAMES - 1, None)
        assert state.tracks_started == len({row["track_id"] for row in offline})
        last = {row["track_id"].removeprefix("trap:"): row for row in offline}
        assert len(state.tracks) == answer.tracks_open == len(last)
        for track in state.tracks:
            row = last[track.track_id.removeprefix(sequence + ":")]
            assert track.detection_id == row["detection_id"]
            assert (track.frame, track.length) == (row["frame"], row["position"] + 1)
            assert track.box == world.boxes[world.ids.index(track.detection_id)]

    def test_crops_are_embedded_as_uploads_are(self, client: Client, world: World) -> None:
        crops = [client.image(name) for name in ("a-3", "a-4")]
        vectors = np.stack([world.embedder.embed_bytes(crop).embedding for crop in crops])
        boxes, size = [world.boxes[3], world.boxes[4]], (240, 160)
        sequence = uuid4().hex
        client.link(sequence, boxes, request_id="1", crops=crops, size=size)
        links = client.link(sequence, boxes, request_id="2", vectors=vectors, size=size).detections
        for number, link in enumerate(links):
            assert link.previous_detection_id == f"1/{number}"
            assert link.cost_feature == pytest.approx(0, abs=1e-6)
            assert link.cost == pytest.approx(0, abs=1e-6)
            assert link.margin is not None
            assert link.margin > 0.1

    def test_a_request_sent_again_is_linked_once(self, http: httpx.Client) -> None:
        body = frame_body(request_id="1", frame=5)
        first = http.post("/v1/link", json=body)
        assert (first.status_code, "idempotent-replayed" in first.headers) == (200, False)
        assert http.post("/v1/link", json=body | {"request_id": "2", "frame": 6}).status_code == 200
        reordered = dict(reversed(body.items()))
        for same in (body, reordered):
            again = http.post("/v1/link", json=same)
            assert (again.status_code, again.content) == (200, first.content)
            assert again.headers["idempotent-replayed"] == "true"
        code, message = error_of(http.post("/v1/link", json=body | {"frame": 7}), 409)
        assert (code, "was answered before" in message) == ("clash", True)
        code, message = error_of(http.post("/v1/link", json=body | {"request_id": "3"}), 409)
        assert (code, "not later than the last one, 6" in message) == ("clash", True)
        state = http.get("/v1/link", params={"sequence": body["sequence"]}).json()
        assert [track["length"] for track in state["tracks"]] == [2]

    def test_many_at_once_are_linked_one_after_the_other(self, base_url: str) -> None:
        body = frame_body()

        def ask(number: int) -> tuple[int, bytes]:
            mine = body | {"request_id": str(number // 2)}  # each request comes twice
            answer = httpx.post(f"{base_url}/v1/link", json=mine, timeout=60)
            return answer.status_code, answer.content

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(40)))
        assert {status for status, _ in answers} == {200}
        assert answers[::2] == answers[1::2]
        links = [json.loads(content) for _, content in answers[::2]]
        assert sorted(link["frame"] for link in links) == list(range(20))
        positions = {link["frame"]: link["detections"][0]["position"] for link in links}
        assert positions == {number: number for number in range(20)}

    @pytest.mark.parametrize("name", ["a/b c/é?#%2F", ".", "..", "x" * 500])
    def test_unusual_sequence_names_work(self, client: Client, name: str) -> None:
        name = (name + uuid4().hex)[-500:] if len(name) > 2 else name
        request_id = uuid4().hex
        client.link(name, [], request_id=request_id, size=(9, 9))
        assert client.open_tracks(name).sequence == name
        assert raised_error(client.open_tracks, uuid4().hex).code == "sequence_not_found"

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"image_width": None}, "give image_width and image_height"),
            ({"image": "AAAA"}, "leave image_width and image_height out"),
            ({"image": "AAAA", **NO_SIZE}, "detection 0 has vector"),
            ({"image": "AAAA", **NO_SIZE, "detections": [BOX]}, "not an image"),
            ({"image": "%%%", **NO_SIZE, "detections": [BOX]}, "frame's image is text but not"),
            ({"detections": [BOX]}, "detection 0 has nothing"),
            ({"detections": [DETECTION, BOX]}, "detection 1 has nothing"),
            ({"detections": [DETECTION, BOX | {"image": "AAAA"}]}, "detection 1 has image"),
            ({"detections": [DETECTION | {"image": "AAAA"}]}, "detection 0 has vector and image"),
            ({"detections": [BOX | {"image": "AAAA"}]}, "detection 0: not an image"),
            ({"detections": [BOX | {"image": "é"}]}, "image of detection 0 is text but not"),
            (
                {"detections": [DETECTION, DETECTION | {"vector": [0.0] * 32}]},
                "detection 1: the vector is all",
            ),
            (
                {"detections": [DETECTION | {"vector": [1.0]}]},
                "detection 0: the vector has 1 numbers",
            ),
            (
                {"detections": [DETECTION | {"vector": "%"}]},
                "detection 0: the vector is text but not",
            ),
            (
                {"detections": [DETECTION | {"box": [5, 5, 5, 9]}]},
                "detection 0: box [5.0, 5.0, 5.0, 9.0]",
            ),
            ({"detections": [DETECTION | {"box": [1e300, 5, 5, 9]}]}, "body.detections.0.box.0"),
            (
                {"detections": [DETECTION | {"detection_id": "x"}] * 2},
                "detection_id 'x' is given twice",
            ),
            ({"detections": [DETECTION] * 1001}, "at most 1000"),
            ({"frame": -1}, "body.frame"),
            ({"sequence": ""}, "body.sequence"),
            ({"timestamp": "yesterday"}, "body.timestamp"),
            ({"camera": 1}, "body.camera"),
        ],
    )
    def test_invalid_frames_are_explained(
        self, http: httpx.Client, change: dict[str, Any], reason: str
    ) -> None:
        body = frame_body() | change
        assert reason in error_of(http.post("/v1/link", json=body), 422)[1]
        # Nothing of it was linked.
        at = {"sequence": body["sequence"] or "x"}
        assert error_of(http.get("/v1/link", params=at), 404)[0] == "sequence_not_found"

    def test_a_box_outside_of_the_frame_is_named(self, client: Client, world: World) -> None:
        data = (world.images / world.names[0]).read_bytes()
        boxes = [world.boxes[0], (300.0, 10.0, 310.0, 20.0)]
        error = raised_error(client.link, uuid4().hex, boxes, request_id="1", image=data)
        assert (error.status, error.code) == (422, "invalid_box")
        assert "detection 1: box outside image" in error.message
        assert "240x160" in error.message


class TestIndex:
    """What is being served."""

    def test_the_summary_is_that_of_the_snapshot(self, client: Client, world: World) -> None:
        served = client.index()
        assert (served.version, served.versions) == ("v0001", ["v0001"])
        assert served.rows == len(world.all_ids)
        assert served.dim == served.model.feature_dim == world.model.feature_dim
        assert served.fingerprint == world.model.fingerprint
        assert served.model.spec == "tiny"
        assert served.runs == ["first", "second"]
        assert served.since.tzinfo is not None

    def test_a_reload_of_the_current_version_changes_nothing(self, client: Client) -> None:
        done = client.reload()
        assert (done.reloaded, done.version, done.before) == (False, "v0001", "v0001")

    def test_no_answer_shows_a_folder_of_the_server(self, http: httpx.Client, world: World) -> None:
        base = str(world.index.parent)
        track = "/v1/tracks/trap:00000?run="
        urls = ["/v1/index", "/v1/tracks", track + "0", track + "1", "/openapi.json", "/metrics"]
        for detection_id in world.all_ids:
            url = detection_url(detection_id)
            urls += [url, url + "/neighbours?k=100", url + "/neighbours?where=x"]
            if detection_id.startswith("b-"):
                urls.append(url + "/image")
        texts = [http.get(url).text for url in urls]
        assert len(texts) > 100
        assert not [text for text in texts if base in text or str(world.images) in text]


class TestErrors:
    """One shape for every error, and an id for every request."""

    def test_every_error_has_the_one_shape(self, http: httpx.Client) -> None:
        assert "not JSON" in error_of(http.post("/v1/search", content=b"{", headers=JSON), 422)[1]
        nan = b'{"vector": [' + b",".join([b"NaN"] * 32) + b"]}"
        assert "not finite" in error_of(http.post("/v1/search", content=nan, headers=JSON), 422)[1]
        plain = {"content-type": "text/plain"}
        message = error_of(http.post("/v1/search", content=b"{}", headers=plain), 422)[1]
        assert "send application/json, not text/plain" in message
        unknown = {"detection_id": f"a-{FAILED}"}  # in the run, with an error: not in the index
        assert error_of(http.post("/v1/search", json=unknown), 404)[0] == "detection_not_found"
        half = b'{"detection_id": "\\ud800"}'
        assert http.post("/v1/search", content=half, headers=JSON).status_code in (404, 422)
        deep = b'{"vector": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        error_of(http.post("/v1/search", content=deep, headers=JSON), 422)
        assert "k" in error_of(http.get("/v1/detections/a-0/neighbours?k=x"), 422)[1]
        assert error_of(http.get("/v1/detections/a%0Ab"), 404)[0] in (
            "not_found",
            "detection_not_found",
        )
        assert "offset" in error_of(http.get(f"/v1/tracks?offset={10**30}"), 422)[1]
        assert error_of(http.get("/v2/search"), 404)[0] == "not_found"
        assert error_of(http.get("/v1/search"), 405)[0] == "method_not_allowed"
        bad = {"content-type": "multipart/form-data; boundary=x"}
        assert error_of(http.post("/v1/search/image", content=b"--y", headers=bad), 400)[0] == (
            "bad_request"
        )

    def test_a_request_keeps_its_valid_id(self, http: httpx.Client) -> None:
        for path in ("/livez", "/nowhere"):
            answered = http.get(path, headers={"x-request-id": "job-7/a.b"}).headers["x-request-id"]
            assert answered == "job-7/a.b"
        for odd in ("a b", "x" * 200, '"'):
            answered = http.get("/livez", headers={"x-request-id": odd}).headers["x-request-id"]
            assert answered not in (odd, "")
        names = {http.get("/livez").headers["x-request-id"] for _ in range(20)}
        assert len(names) == 20
