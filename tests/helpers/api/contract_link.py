"""Contract of every server of the API: live frames.

A module that imports these classes runs them against its fixture ``base_url``.
"""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from api.client import Client
from tests.helpers.api.world import (
    BOX,
    DETECTION,
    FAILED,
    FRAMES,
    PER_FRAME,
    World,
    error_of,
    frame_body,
    raised_error,
)
from tracks.store import read_tracks

NO_SIZE = {"image_width": None, "image_height": None}
COSTS = ("cost", "cost_feature", "cost_iou", "cost_area", "cost_distance", "margin")


class TestLink:
    """Live frames: the same tracks as linking the run, and each frame once."""

    @pytest.mark.parametrize("content_kind", ["vectors", "image"])
    def test_frame_by_frame_gives_what_linking_the_run_gave(
        self, client: Client, world: World, content_kind: str
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
            if content_kind == "vectors":
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
                assert (link.label, link.label_score) == (
                    label if content_kind == "image" else (None, None)
                )
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

    @pytest.mark.parametrize("orientation", [3, 6])
    def test_boxes_in_stored_pixels_are_turned_as_exif_says(
        self, client: Client, world: World, orientation: int
    ) -> None:
        exif, stream = Image.Exif(), io.BytesIO()
        exif[ExifTags.Base.Orientation] = orientation
        with Image.open(world.images / world.names[0]) as image:
            image.save(stream, "PNG", exif=exif)
        with Image.open(stream) as image:
            upright = ImageOps.exif_transpose(image)
        stored, (width, height) = world.boxes[0], upright.size
        if orientation == 3:
            box = [width - stored[2], height - stored[3], width - stored[0], height - stored[1]]
        else:
            box = [width - stored[3], stored[0], width - stored[1], stored[2]]
        sequence, plain = uuid4().hex, io.BytesIO()
        upright.save(plain, "PNG")
        client.link(sequence, [stored], request_id="1", image=stream.getvalue(), box_frame="stored")
        assert list(client.open_tracks(sequence).tracks[0].box) == pytest.approx(box)
        again = client.link(sequence, [box], request_id="2", image=plain.getvalue())
        assert again.detections[0].cost == pytest.approx(0, abs=1e-6)

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
        state = http.get("/v1/link/" + body["sequence"]).json()
        assert [track["length"] for track in state["tracks"]] == [2]

    def test_many_at_once_are_linked_one_after_the_other(self, base_url: str) -> None:
        body = frame_body()

        def send(number: int) -> tuple[int, bytes]:
            mine = body | {"request_id": str(number // 2)}  # each request comes twice
            answer = httpx.post(f"{base_url}/v1/link", json=mine, timeout=60)
            return answer.status_code, answer.content

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(send, range(40)))
        assert {status for status, _ in answers} == {200}
        assert answers[::2] == answers[1::2]
        links = [json.loads(content) for _, content in answers[::2]]
        assert sorted(link["frame"] for link in links) == list(range(20))
        positions = {link["frame"]: link["detections"][0]["position"] for link in links}
        assert positions == {number: number for number in range(20)}

    def test_a_deleted_sequence_begins_anew(self, client: Client) -> None:
        sequence, box, vectors = uuid4().hex, [(1, 2, 30, 40)], np.ones((1, 32), np.float32)
        for frame in (7, 8):
            client.link(
                sequence, box, request_id=str(frame), vectors=vectors, size=(99, 99), frame=frame
            )
        client.delete_sequence(sequence)
        assert raised_error(client.delete_sequence, sequence).code == "sequence_not_found"
        again = client.link(sequence, box, request_id="8", vectors=vectors, size=(99, 99), frame=3)
        assert (again.frame, again.restarted) == (3, None)
        assert again.detections[0].track_id == f"{sequence}:00000"
        assert again.detections[0].position == 0

    def test_a_number_far_ahead_is_refused_until_it_is_allowed(self, client: Client) -> None:
        sequence, size = uuid4().hex, (99, 99)
        client.link(sequence, [], request_id="1", size=size, frame=5)
        far = {"request_id": "2", "size": size, "frame": 2**50}
        error = raised_error(client.link, sequence, [], **far)
        assert (error.status, error.code) == (422, "invalid_frame")
        assert client.link(sequence, [], request_id="3", size=size, frame=6).frame == 6
        assert client.link(sequence, [], **far, allow_jump=True).frame == 2**50

    @pytest.mark.parametrize("name", ["a/b c/é?#%2F", ".", "..", "x" * 500])
    def test_unusual_sequence_names_work(self, client: Client, name: str) -> None:
        name = (name + uuid4().hex)[-500:] if len(name) > 2 else name
        request_id = uuid4().hex
        client.link(name, [], request_id=request_id, size=(9, 9))
        state = client.open_tracks(name)
        assert (state.sequence, state.frame, state.tracks) == (name, 0, [])
        assert state.bytes > 100
        client.delete_sequence(name)
        assert raised_error(client.open_tracks, name).code == "sequence_not_found"
        assert raised_error(client.open_tracks, uuid4().hex).code == "sequence_not_found"

    @pytest.mark.parametrize(
        ("code", "change"),
        [
            ("invalid_request", {"image_width": None}),
            ("invalid_request", {"image": "AAAA"}),
            ("invalid_request", {"image": "AAAA", **NO_SIZE}),
            ("invalid_image", {"image": "AAAA", **NO_SIZE, "detections": [BOX]}),
            ("invalid_image", {"image": "%%%", **NO_SIZE, "detections": [BOX]}),
            ("invalid_request", {"detections": [BOX]}),
            ("invalid_request", {"detections": [DETECTION, BOX]}),
            ("invalid_request", {"detections": [DETECTION, BOX | {"image": "AAAA"}]}),
            ("invalid_request", {"detections": [DETECTION | {"image": "AAAA"}]}),
            ("invalid_image", {"detections": [BOX | {"image": "AAAA"}]}),
            ("invalid_image", {"detections": [BOX | {"image": "é"}]}),
            ("invalid_vector", {"detections": [DETECTION, DETECTION | {"vector": [0.0] * 32}]}),
            ("invalid_vector", {"detections": [DETECTION | {"vector": [1.0]}]}),
            ("invalid_vector", {"detections": [DETECTION | {"vector": "%"}]}),
            ("invalid_request", {"detections": [DETECTION | {"box": [5, 5, 5, 9]}]}),
            ("invalid_request", {"detections": [DETECTION | {"box": [1e300, 5, 5, 9]}]}),
            ("invalid_request", {"detections": [DETECTION | {"detection_id": "x"}] * 2}),
            ("invalid_request", {"detections": [DETECTION] * 1001}),
            ("invalid_request", {"frame": -1}),
            ("invalid_request", {"sequence": ""}),
            ("invalid_request", {"timestamp": "yesterday"}),
            ("invalid_request", {"timestamp": 45228}),
            ("invalid_request", {"timestamp": "45228.09"}),
            ("invalid_request", {"timestamp": 10**30}),
            ("invalid_request", {"camera": 1}),
            ("invalid_request", {"box_frame": "stored"}),
            ("invalid_request", {"box_frame": "turned"}),
        ],
    )
    def test_invalid_frames_are_refused(
        self, http: httpx.Client, code: str, change: dict[str, Any]
    ) -> None:
        body = frame_body() | change
        assert error_of(http.post("/v1/link", json=body), 422)[0] == code
        # Nothing of it was linked.
        response = http.get(f"/v1/link/{body['sequence'] or 'x'}")
        assert error_of(response, 404)[0] == "sequence_not_found"

    def test_a_box_outside_of_the_frame_is_named(self, client: Client, world: World) -> None:
        data = (world.images / world.names[0]).read_bytes()
        boxes = [world.boxes[0], (300.0, 10.0, 310.0, 20.0)]
        error = raised_error(client.link, uuid4().hex, boxes, request_id="1", image=data)
        assert (error.status, error.code) == (422, "invalid_box")
        assert "detection 1: box outside image" in error.message
        assert "240x160" in error.message
