"""The service over real HTTP: real images, a real model, a real FAISS index, real tracks.

Answers are held against NumPy brute force over the stored embeddings. The OpenAPI document
is a golden file; ``python -m tests.integration.test_api`` writes it anew.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image, ImageDraw

from api.app import create_app
from api.server import serve
from api.state import Holdings
from cluster.errors import InputError, OnepassError, SnapshotError
from index.build import build_index
from index.linking import LinkOptions
from index.tracks import link_run
from pipelines.backbones import examine
from pipelines.embed import Embedder
from pipelines.facts import ModelFacts, ModelRequest
from tests.runs import write_run

GOLDEN = Path(__file__).with_name("openapi.json")
FRAMES, PER_FRAME = 8, 3
ODD_ID = "trap 1/é?#%26+%/x"
JSON = {"content-type": "application/json"}
FAILED = 5  # a row whose image could not be embedded: in the run, not in the index


@dataclass
class World:
    """An index over two runs, the second with the same sequence and track ids as the first."""

    index: Path
    images: Path
    facts: ModelFacts
    embedder: Embedder
    ids: list[str]  # of the first run
    boxes: list[tuple[float, ...]]
    names: list[str]
    all_ids: list[str]  # of both, as indexed
    unit: np.ndarray  # their embeddings, length 1


def draw(file: Path, frame: int) -> list[tuple[float, ...]]:
    """A grey picture with coloured blobs that drift from frame to frame; their boxes."""
    picture = Image.new("RGB", (240, 160), (90, 90, 90))
    pen = ImageDraw.Draw(picture)
    boxes = []
    for blob in range(PER_FRAME):
        x, y = 10.0 + 75 * blob + 2 * frame, 20.0 + 40 * blob
        colour = tuple(60 + 180 * (channel == blob) for channel in range(3))
        pen.ellipse((x, y, x + 40, y + 30), fill=colour)
        pen.line((x, y, x + 40, y + 30 - frame), fill=(255, 255, 255), width=2)
        boxes.append((x, y, x + 40, y + 30))
    picture.save(file, quality=95)
    return boxes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    base = tmp_path_factory.mktemp("api")
    images = base / "images"
    (images / "trap").mkdir(parents=True)
    facts = examine(ModelRequest(spec="tiny"))
    embedder = Embedder.load(facts)
    names: list[str] = []
    boxes: list[tuple[float, ...]] = []
    for frame in range(FRAMES):
        name = f"trap/202206200029{frame:02d}.jpg"
        boxes += draw(images / name, frame)
        names += [name] * PER_FRAME
    vectors = np.stack(
        [
            embedder.embed_bytes((images / name).read_bytes(), box=box).embedding
            for name, box in zip(names, boxes, strict=True)
        ]
    )
    corners = {f: [box[i] for box in boxes] for i, f in enumerate(("x1", "y1", "x2", "y2"))}
    ids = [f"a-{row}" for row in range(len(names))]
    ids[1] = ODD_ID
    first = write_run(
        base / "first",
        {"image": names, "detection_id": ids, **corners},
        vectors,
        errors={FAILED: "damaged image: made so for this test"},
        root=images,
        facts=facts,
    )
    other = np.random.default_rng(4).normal(size=(9, facts.feature_dim)).astype(np.float32)
    second_ids = [f"b-{row}" for row in range(9)]
    second = write_run(
        base / "second",
        # Absolute names, of files that are not there: no answer may show their folder.
        {"image": [str(images / "trap" / f"gone{i}.jpg") for i in range(9)],
         "detection_id": second_ids, "sequence": ["trap"] * 9},
        other,
        root=images,
        facts=facts,
    )  # fmt: skip
    equal = LinkOptions(feature_weight=1, iou_weight=1, area_weight=1, distance_weight=1)
    for run in (first, second):
        link_run(run.path, options=equal)
    build_index([first.path, second.path], base / "index")
    good = [row for row in range(len(ids)) if row != FAILED]
    kept = np.concatenate([vectors[good], other])
    return World(
        index=base / "index",
        images=images,
        facts=facts,
        embedder=embedder,
        ids=ids,
        boxes=boxes,
        names=names,
        all_ids=[ids[row] for row in good] + second_ids,
        unit=kept / np.linalg.norm(kept, axis=1, keepdims=True),
    )


@contextmanager
def serving(app: FastAPI, *, ready: bool = True) -> Iterator[httpx.Client]:
    """A real uvicorn in a thread, and a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, ws="none", log_config=None))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                if ready:
                    wait_until_ready(client)
                yield client
        finally:
            server.should_exit = True
            thread.join()


def wait_until_ready(client: httpx.Client, seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.05)):
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.ConnectError:
            pass  # a process that is still importing
        time.sleep(0.05)
    raise AssertionError(f"not ready within {seconds} s")


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[httpx.Client]:
    with serving(create_app(world.index)) as client:
        yield client


def told(response: httpx.Response, status: int) -> tuple[str, str]:
    """Code and message of an error, which must have the one shape."""
    assert response.status_code == status, response.text
    answer = response.json()
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"code", "message"}
    assert "\n" not in answer["error"]["message"]
    return answer["error"]["code"], answer["error"]["message"]


def nearest(world: World, query: np.ndarray, k: int, leave_out: str = "") -> dict[str, float]:
    """Brute force: ids and cosines of the k nearest, nearest first."""
    cosine = world.unit @ (query / np.linalg.norm(query))
    order = [i for i in np.argsort(-cosine, kind="stable") if world.all_ids[i] != leave_out][:k]
    return {world.all_ids[i]: float(cosine[i]) for i in order}


def check_hits(answer: dict[str, Any], expected: dict[str, float]) -> None:
    hits = answer["hits"]
    assert [hit["rank"] for hit in hits] == list(range(1, len(expected) + 1))
    assert [hit["detection_id"] for hit in hits] == list(expected)
    np.testing.assert_allclose([h["score"] for h in hits], list(expected.values()), atol=1e-5)


def detection_url(detection_id: str, *, safe: str = "") -> str:
    return f"/v1/detections/{quote(detection_id, safe=safe)}"


def test_search_by_vector_equals_brute_force(client: httpx.Client, world: World) -> None:
    rng = np.random.default_rng(1)
    for query in rng.normal(size=(5, world.facts.feature_dim)).astype(np.float32):
        expected = nearest(world, query, 7)
        as_text = base64.b64encode(query.astype("<f4").tobytes()).decode()
        for vector in (query.tolist(), as_text):
            for exact in (False, True):
                body = {"vector": vector, "k": 7, "exact": exact}
                answer = client.post("/v1/search", json=body).json()
                assert (answer["metric"], answer["k"]) == ("cosine", 7)
                check_hits(answer, expected)
                assert all(hit["features"] is None for hit in answer["hits"])


@pytest.mark.parametrize("exact", [False, True])
def test_search_by_detection_leaves_itself_out(
    client: httpx.Client, world: World, exact: bool
) -> None:
    for row in (0, 10, len(world.all_ids) - 1):
        body = {"detection_id": world.all_ids[row], "k": 5, "exact": exact}
        answer = client.post("/v1/search", json=body).json()
        check_hits(answer, nearest(world, world.unit[row], 5, world.all_ids[row]))
        if not exact:
            url = detection_url(world.all_ids[row]) + "/neighbours?k=5"
            assert client.get(url).json() == answer


def test_more_hits_than_rows_gives_every_row_once(client: httpx.Client, world: World) -> None:
    answer = client.post("/v1/search", json={"detection_id": ODD_ID, "k": 1000}).json()
    found = [hit["detection_id"] for hit in answer["hits"]]
    assert sorted([*found, ODD_ID]) == sorted(world.all_ids)


def test_features_are_the_stored_vectors(client: httpx.Client, world: World) -> None:
    body = {"detection_id": "a-0", "k": 3, "include_features": True}
    for hit in client.post("/v1/search", json=body).json()["hits"]:
        unit = world.unit[world.all_ids.index(hit["detection_id"])]
        np.testing.assert_allclose(hit["features"], unit, atol=1e-5)


def test_a_hit_says_what_the_run_knows(client: httpx.Client, world: World) -> None:
    hit = client.get(detection_url(ODD_ID)).json()
    assert hit == {
        "detection_id": ODD_ID,
        "label": "class 1",
        "label_score": pytest.approx(0.9),
        "image": "20220620002900.jpg",
        "box": list(world.boxes[1]),
        "sequence": "trap",
        "frame": 0,
        "timestamp": "2022-06-20T00:29:00",
    }
    whole = client.get("/v1/detections/b-0").json()
    assert (whole["box"], whole["image"]) == (None, "gone0.jpg")


def test_upload_finds_the_same_pixels(client: httpx.Client, world: World) -> None:
    data = (world.images / world.names[0]).read_bytes()
    form = {"k": "4", "include_features": "true"}
    answer = client.post("/v1/search/image", files={"image": data}, data=form).json()
    expected = world.embedder.embed_bytes(data)
    check_hits(answer, nearest(world, expected.embedding, 4))
    assert answer["query"]["label"] == expected.label
    assert answer["query"]["score"] == pytest.approx(expected.score)
    assert [one["label_index"] for one in answer["query"]["topk"]] == [
        one["label_index"] for one in expected.topk
    ]
    assert len(answer["hits"][0]["features"]) == world.facts.feature_dim
    # The crop the service itself serves is JPEG again, so nearly, not exactly, the same.
    crop = client.get(detection_url("a-4") + "/image").content
    hit = client.post("/v1/search/image", files={"image": crop}, data={"k": "1"}).json()["hits"][0]
    assert hit["score"] > 0.999


def test_crop_has_the_boxs_pixels(client: httpx.Client, world: World) -> None:
    for detection_id, row, other in ((ODD_ID, 1, 2), ("a-2", 2, 1)):
        response = client.get(detection_url(detection_id) + "/image")
        assert response.headers["content-type"] == "image/jpeg"
        got = np.asarray(Image.open(io.BytesIO(response.content)), dtype=float)
        with Image.open(world.images / world.names[row]) as picture:
            want, wrong = (
                np.asarray(picture.crop(tuple(map(int, world.boxes[which]))), dtype=float)
                for which in (row, other)
            )
        assert got.shape == want.shape
        # Sharp colour edges are what JPEG is worst at; another crop is ten times as far off.
        assert np.abs(got - want).mean() < 8
        assert np.abs(got - wrong).mean() > 40
    code, message = told(client.get("/v1/detections/b-3/image"), 404)
    assert code == "image_missing"
    assert "gone3.jpg" in message


@pytest.mark.parametrize("safe", ["", "/"])
def test_odd_ids_may_be_asked_for(client: httpx.Client, safe: str) -> None:
    url = detection_url(ODD_ID, safe=safe)
    assert client.get(url).json()["detection_id"] == ODD_ID
    assert len(client.get(f"{url}/neighbours?k=2").json()["hits"]) == 2
    assert client.get(f"{url}/image").status_code == 200


def test_tracks_follow_the_blobs(client: httpx.Client, world: World) -> None:
    listed = client.get("/v1/tracks", params={"sequence": "trap"}).json()
    own = [track for track in listed["tracks"] if track["run"] == 0]
    assert sorted(track["length"] for track in own) == [FRAMES - 1, FRAMES, FRAMES]
    detail = client.get(f"/v1/tracks/{quote(own[0]['track_id'])}", params={"run": 0}).json()
    steps = detail["detections"]
    assert [step["position"] for step in steps] == list(range(own[0]["length"]))
    assert steps[0]["previous_detection_id"] is steps[0]["cost"] is None
    for before, step in pairwise(steps):
        assert step["previous_detection_id"] == before["detection_id"]
        terms = [step[f"cost_{term}"] for term in ("feature", "iou", "area", "distance")]
        assert step["cost"] == pytest.approx(sum(terms), abs=1e-5)
        assert step["detection"]["frame"] == step["frame"]


def test_tracks_come_in_pages(client: httpx.Client) -> None:
    everything = client.get("/v1/tracks").json()
    assert everything["total"] == len(everything["tracks"]) > 2
    page = client.get("/v1/tracks", params={"limit": 2, "offset": 1}).json()
    assert page["tracks"] == everything["tracks"][1:3]
    assert page["total"] == everything["total"]
    assert client.get("/v1/tracks", params={"sequence": "no"}).json()["total"] == 0


def test_one_track_id_in_two_runs_needs_the_run(client: httpx.Client) -> None:
    code, message = told(client.get("/v1/tracks/trap:00000"), 422)
    assert (code, "0, 1" in message) == ("ambiguous_track", True)
    assert client.get("/v1/tracks/trap:00000?run=1").json()["run"] == 1
    assert told(client.get("/v1/tracks/trap:99999"), 404)[0] == "track_not_found"


def test_tracks_of_an_unlinked_run_say_what_to_do(tmp_path: Path) -> None:
    vectors = np.random.default_rng(2).normal(size=(4, 8)).astype(np.float32)
    run = write_run(tmp_path / "run", {"image": [f"{i}.jpg" for i in range(4)]}, vectors)
    build_index([run.path], tmp_path / "index")
    with serving(create_app(tmp_path / "index")) as client:
        for url in ("/v1/tracks", "/v1/tracks/x"):
            code, message = told(client.get(url), 404)
            assert (code, "'onepass link RUN'" in message) == ("no_tracks", True)
        link_run(run.path)  # and no restart
        assert client.get("/v1/tracks").status_code == 200
        # Its weights are made up, so the model that can be built here is another one.
        assert told(client.post("/v1/search/image", files={"image": b"x"}), 503)[0] == (
            "model_unavailable"
        )


def test_index_says_what_is_served(client: httpx.Client, world: World) -> None:
    served = client.get("/v1/index").json()
    assert served["rows"] == len(world.all_ids)
    assert served["dim"] == served["model"]["feature_dim"] == world.facts.feature_dim
    assert served["fingerprint"] == world.facts.fingerprint
    assert served["model"]["spec"] == "tiny"
    assert served["runs"] == ["first", "second"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "exactly one of detection_id and vector, not none"),
        ({"detection_id": "a-0", "vector": [1.0]}, "exactly one"),
        ({"vector": [1.0, 2.0]}, "2 numbers, this index has 32"),
        ({"vector": [0.0] * 32}, "all zeros"),
        ({"vector": [1e300] * 32}, "not finite"),
        ({"vector": ["x"] * 9}, "and 7 more"),
        ({"vector": "%%%"}, "not base64"),
        ({"vector": "AAAAAAA="}, "5 bytes, not a multiple of 4"),
        ({"vector": [1.0] * 32, "k": 0}, "body.k"),
        ({"vector": [1.0] * 32, "k": 1001}, "less than or equal to 1000"),
        ({"vector": [1.0] * 32, "filter": "x"}, "body.filter"),
    ],
)
def test_bad_searches_are_explained(client: httpx.Client, body: dict[str, Any], says: str) -> None:
    assert says in told(client.post("/v1/search", json=body), 422)[1]


def test_other_errors_have_the_one_shape(client: httpx.Client) -> None:
    assert "not JSON" in told(client.post("/v1/search", content=b"{", headers=JSON), 422)[1]
    nan = b'{"vector": [' + b",".join([b"NaN"] * 32) + b"]}"
    assert "not finite" in told(client.post("/v1/search", content=nan, headers=JSON), 422)[1]
    unknown = {"detection_id": f"a-{FAILED}"}  # in the run, with an error, so not in the index
    assert told(client.post("/v1/search", json=unknown), 404)[0] == "detection_not_found"
    for tail in ("", "/neighbours", "/image"):
        assert told(client.get(f"/v1/detections/nobody{tail}"), 404)[0] == "detection_not_found"
    assert "k" in told(client.get("/v1/detections/a-0/neighbours?k=x"), 422)[1]
    assert told(client.get("/v1/detections/a%0Ab"), 404)[0] == "not_found"
    assert "offset" in told(client.get(f"/v1/tracks?offset={10**30}"), 422)[1]
    assert told(client.get("/v2/search"), 404)[0] == "not_found"
    assert told(client.get("/v1/search"), 405)[0] == "method_not_allowed"
    code, message = told(client.post("/v1/search/image", files={"image": b"no image"}), 422)
    assert (code, "no known format" in message) == ("invalid_image", True)
    assert "image" in told(client.post("/v1/search/image", data={"k": "3"}), 422)[1]


def test_a_large_body_is_refused(world: World) -> None:
    with serving(create_app(world.index, max_body_bytes=5000)) as client:
        big = b"x" * 6000
        assert told(client.post("/v1/search/image", files={"image": big}), 413)[0] == "too_large"
        form = {"content-type": "multipart/form-data; boundary=b"}
        head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for url, headers, start in (("", JSON, b'"'), ("/image", form, head)):
            parts = iter([start, *[big[:1500]] * 4])  # sent in chunks, with no length declared
            response = client.post("/v1/search" + url, content=parts, headers=headers)
            code, message = told(response, 413)
            assert (code, "5000 bytes" in message) == ("too_large", True)
        small = client.post("/v1/search", json={"detection_id": "a-0"})
        assert small.status_code == 200


def test_not_ready_before_a_first_search(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    really = Holdings.open

    def slowly(index: Path) -> Holdings:
        gate.wait()
        return really(index)

    monkeypatch.setattr(Holdings, "open", slowly)
    with serving(create_app(world.index), ready=False) as client:
        try:
            assert client.get("/livez").json() == {"status": "ok"}
            for url in ("/readyz", "/v1/index", "/v1/detections/a-0"):
                assert told(client.get(url), 503)[0] == "not_ready"
        finally:
            gate.set()
        wait_until_ready(client)
        assert client.get("/v1/index").status_code == 200


def test_the_unexpected_is_logged_and_not_shown(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/folder")

    with serving(create_app(world.index)) as client:
        monkeypatch.setattr(Holdings, "row_of", broken)
        with caplog.at_level(logging.ERROR):
            response = client.get("/v1/detections/a-0")
    assert told(response, 500)[0] == "internal"
    assert "secret" not in response.text
    assert any(record.exc_info and "secret" in str(record.exc_info[1]) for record in caplog.records)


def test_no_answer_shows_a_folder_of_the_server(client: httpx.Client, world: World) -> None:
    base = str(world.index.parent)
    track = "/v1/tracks/trap:00000?run="
    texts = [
        client.get(url).text
        for url in ("/v1/index", "/v1/tracks", track + "0", track + "1", "/openapi.json")
    ]
    for one in world.all_ids:
        url = detection_url(one)
        texts += [client.get(url).text, client.get(url + "/neighbours?k=100").text]
        if one.startswith("b-"):
            texts.append(client.get(url + "/image").text)
    assert len(texts) > 70
    assert not [text for text in texts if base in text or str(world.images) in text]


def test_many_at_once_answer_like_one_at_a_time(client: httpx.Client, world: World) -> None:
    queries = np.random.default_rng(3).normal(size=(40, world.facts.feature_dim))
    wrong: list[str] = []

    def ask(query: np.ndarray) -> None:
        answer = client.post("/v1/search", json={"vector": query.tolist(), "k": 3}).json()
        if [hit["detection_id"] for hit in answer["hits"]] != list(nearest(world, query, 3)):
            wrong.append(str(answer))

    threads = [threading.Thread(target=ask, args=(query,)) for query in queries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_serve_answers_until_told_to_stop(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    code = (
        "import sys; from pathlib import Path; from api.server import serve; "
        "serve(Path(sys.argv[1]), host='127.0.0.1', port=int(sys.argv[2]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, str(world.index), str(port)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client)
            assert client.get("/v1/detections/a-0").status_code == 200
            with pytest.raises(InputError, match=f"127.0.0.1:{port}.*--port"):
                serve(world.index, host="127.0.0.1", port=port)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert "Application shutdown complete" in log
    assert "Traceback" not in log


def test_serving_no_index_ends_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="nothing-here"):
        serve(tmp_path / "nothing-here", host="127.0.0.1", port=0)


def test_an_application_alone_says_why_it_is_not_ready(tmp_path: Path) -> None:
    heard: list[OnepassError] = []
    app = create_app(tmp_path / "nothing-here", on_failure=heard.append)
    with serving(app, ready=False) as client:
        while not heard:
            time.sleep(0.01)
        assert "cannot be opened" in told(client.get("/readyz"), 503)[1]
    assert isinstance(heard[0], SnapshotError)


def openapi() -> dict[str, Any]:
    document = create_app(Path("index")).openapi()
    document["info"]["version"] = "0"  # the package's own version is not part of the contract
    return document


def test_openapi_document_is_the_golden_one() -> None:
    assert openapi() == json.loads(GOLDEN.read_text()), (
        "the API's contract changed; if that is meant, write it anew with "
        "'python -m tests.integration.test_api' and look at the difference"
    )


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(openapi(), indent=1, ensure_ascii=False) + "\n")
