"""Limits: bodies, pixels, k, batches, ids, answers, queues."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image

from api.config import Limits
from api.service.embedding import ImageEmbedder
from common.errors import InputError
from common.json_models import configure
from tests.helpers.api.world import JSON, World, error_of, frame_body, serving
from tracks.live.session import LiveLinker


def test_a_large_body_is_refused(world: World) -> None:
    with serving(world.index, limits=Limits(body_bytes=5000)) as http:
        big = b"x" * 6000
        assert error_of(http.post("/v1/search/image", files={"image": big}), 413)[0] == "too_large"
        form = {"content-type": "multipart/form-data; boundary=b"}
        head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for url, headers, start in (("", JSON, b'"'), ("/image", form, head)):
            parts = iter([start, *[big[:1500]] * 4])  # sent in chunks, with no length declared
            response = http.post("/v1/search" + url, content=parts, headers=headers)
            code, message = error_of(response, 413)
            assert (code, "5000 bytes" in message) == ("too_large", True)
        assert http.post("/v1/search", json={"detection_id": "a-0"}).status_code == 200
        assert 'onepass_rejected_requests_total{reason="body"} 3.0' in http.get("/metrics").text


def bomb(side: int) -> bytes:
    """A PNG of some kilobytes that decodes to ``side`` squared pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(bytes(side + 1)) for _ in range(min(side, 200)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", rows + pack.flush()), chunk(b"IEND", b"")]
    )


def test_a_decompression_bomb_is_not_decoded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("the image was decoded")

    with serving(world.index) as http:
        monkeypatch.setattr(ImageEmbedder, "_load", decoded)
        for side in (9000, 40_000, 300_000):
            data = bomb(side)
            assert len(data) < 200_000
            code, message = error_of(http.post("/v1/search/image", files={"image": data}), 422)
            assert (code, "60000000 pixels" in message) == ("image_too_large", True)


def test_an_image_within_the_limit_is_embedded(world: World) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (300, 200), (9, 90, 9)).save(picture, "PNG")
    for pixels, status in ((60_000, 200), (59_999, 422)):
        with serving(world.index, limits=Limits(pixels=pixels)) as http:
            files = {"image": picture.getvalue()}
            assert http.post("/v1/search/image", files=files).status_code == status


def test_limits_can_be_lowered(world: World) -> None:
    limits = Limits(k=20, batch=3, ids=2, hits=30, numbers=500)
    query = {"detection_id": "a-0"}
    with serving(world.index, limits=limits) as http:

        def message_of(body: dict[str, object], tail: str = "") -> str:
            code, message = error_of(http.post("/v1/search" + tail, json=body), 422)
            assert code == "over_limit"
            return message

        assert "up to 20" in message_of(query | {"k": 21})
        assert "up to 2" in message_of(query | {"ids": ["a", "b", "c"]})
        assert "up to 3" in message_of({"queries": [query] * 4}, "/batch")
        assert "33 hits" in message_of({"queries": [query] * 3, "k": 11}, "/batch")
        assert "16 vectors of 32 numbers" in message_of(query | {"k": 16, "include_features": True})
        code, _ = error_of(http.get("/v1/detections/a-0/neighbours?k=21"), 422)
        assert code == "over_limit"
        assert http.post("/v1/search", json=query | {"k": 20}).status_code == 200
        batch = {"queries": [query] * 3, "k": 10}
        assert http.post("/v1/search/batch", json=batch).status_code == 200


@pytest.mark.parametrize("values", [{"k": 0}, {"k": 1001}, {"batch": 257}, {"body_bytes": -1}])
def test_limits_above_the_documented_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(InputError):
        configure(Limits, **values)


@pytest.mark.parametrize(
    ("queue", "owner", "method"),
    [("uploads", ImageEmbedder, "embed_images"), ("frames", LiveLinker, "link")],
)
def test_queues_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch, queue: str, owner: type, method: str
) -> None:
    under_way, proceed = threading.Event(), threading.Event()
    original = getattr(owner, method)

    def slowly(*args: Any, **options: Any) -> object:
        under_way.set()
        assert proceed.wait(60)
        return original(*args, **options)

    monkeypatch.setattr(owner, method, slowly)
    image = (world.images / world.names[0]).read_bytes()

    def send(http: httpx.Client) -> httpx.Response:
        if queue == "uploads":
            return http.post("/v1/search/image", files={"image": image})
        return http.post("/v1/link", json=frame_body())

    limits = Limits(**{f"waiting_{queue}": 1})
    with serving(world.index, limits=limits) as http, ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, http)
        assert under_way.wait(60)
        refused = send(http)
        assert error_of(refused, 429)[0] == "too_busy"
        assert refused.headers["retry-after"] == "1"
        assert f'rejected_requests_total{{reason="{queue}"}} 1.0' in http.get("/metrics").text
        # Searches are not blocked meanwhile.
        assert http.post("/v1/search", json={"detection_id": "a-0"}).status_code == 200
        proceed.set()
        assert first.result().status_code == 200
        assert send(http).status_code == 200
