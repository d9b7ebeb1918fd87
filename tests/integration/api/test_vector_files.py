"""An index of vectors that were made elsewhere, served: everything that needs no model, and no more."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from api.client import Client, ServiceError
from index.build.version import build_index
from tests.helpers.api.world import detection_url, error_of, frame_body, serving
from tests.helpers.indexes import embeddings
from tests.helpers.vector_files import parquet

ROWS = 20
IDS = [f"d{row}" for row in range(ROWS)]
VECTORS = embeddings(ROWS)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("vectors")
    images = [f"{row}.png" if row < 2 else None for row in range(ROWS)]
    Image.new("RGB", (20, 10), (9, 90, 9)).save(folder / "0.png")
    more = {"image": images, "label": ["moth", "fly"] * 10, "site": ["north", "south"] * 10}
    path = parquet("list", "f4")(folder, VECTORS, IDS, more)
    build_index([path], folder / "index", model_name="clip")
    with serving(folder / "index") as client:
        yield client


def test_the_index_says_that_it_has_no_model(http: httpx.Client) -> None:
    summary = http.get("/v1/index").json()
    assert (summary["model"], summary["fingerprint"]) == (None, "vectors:clip")
    assert summary["rows"] == ROWS
    facets = http.get("/v1/index/facets", params={"column": "label"}).json()["values"]
    assert facets == [{"value": "fly", "rows": 10}, {"value": "moth", "rows": 10}]


def test_searches_and_pages_are_those_of_any_index(http: httpx.Client) -> None:
    with Client(str(http.base_url)) as client:
        assert client.search(VECTORS[7], k=1).hits[0].detection_id == "d7"
        hits = client.neighbors("d7", k=ROWS, where="site = 'south' AND label = 'fly'").hits
        assert {hit.detection_id for hit in hits} == set(IDS[1::2]) - {"d7"}
        assert {hit.image for hit in hits} == {None, "1.png"}
    page = http.get("/v1/detections", params={"where": "site = 'north'", "limit": 5}).json()
    assert (page["total"], len(page["detections"])) == (10, 5)
    assert http.get(detection_url("d3")).json()["image"] is None


def test_images_of_vectors_are_shown_where_they_are(http: httpx.Client) -> None:
    crop = http.get(detection_url("d0") + "/image")
    assert Image.open(io.BytesIO(crop.content)).size == (20, 10)
    for missing in ("d1", "d2"):
        assert error_of(http.get(detection_url(missing) + "/image"), 404)[0] == "image_missing"


def test_what_needs_a_model_or_tracks_is_refused_in_one_line(http: httpx.Client) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (30, 20)).save(picture, "PNG")
    with Client(str(http.base_url)) as client, pytest.raises(ServiceError) as caught:
        client.search_image(picture.getvalue())
    assert (caught.value.status, caught.value.code) == (422, "no_model")
    assert error_of(http.get("/v1/tracks"), 404)[0] == "no_tracks"
    assert error_of(http.get(detection_url("d0") + "/track"), 404)[0] == "no_track"


def test_frames_of_vectors_can_be_linked_and_frames_of_images_not(http: httpx.Client) -> None:
    detection = {"box": [0, 0, 9, 9], "vector": VECTORS[0].tolist()}
    answer = http.post("/v1/link", json=frame_body(detections=[detection]))
    assert answer.status_code == 200, answer.text
    picture = io.BytesIO()
    Image.new("RGB", (240, 160)).save(picture, "PNG")
    image = base64.b64encode(picture.getvalue()).decode()
    body = frame_body(detections=[{"box": [0, 0, 9, 9]}], image=image)
    del body["image_width"], body["image_height"]
    assert error_of(http.post("/v1/link", json=body), 422)[0] == "no_model"
