"""Images of strangers that hang their decoder, crash it or take its memory: one 4xx, and the service goes on."""

from __future__ import annotations

import base64
import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image

from api.app import create_app
from api.config import Limits, ServeConfig
from api.service.uploads import UploadDecoder
from benchmarks.damaged_files import kinds
from pipelines.images.errors import ImageError
from tests.helpers.api import faulty_decoder
from tests.helpers.api.faulty_decoder import DEADLY, LARGE, SLOW, fault
from tests.helpers.api.world import World, error_of, frame_body, process, serving
from tests.helpers.pictures import drawn, encoded
from tests.security.api.test_bodies import peak_mb

IDLE_MB = 300  # what a server may take over an idle one
SEARCH = {"detection_id": "a-0"}
GOOD = encoded(drawn(3), "PNG")


def send(http: httpx.Client, image: bytes) -> httpx.Response:
    return http.post("/v1/search/image", files={"image": image})


def send_frame(http: httpx.Client, image: bytes) -> httpx.Response:
    boxes = [{"box": [1.0, 2.0, 30.0, 40.0]}]
    text = base64.b64encode(image).decode()
    body = {"request_id": "1", "sequence": uuid4().hex, "image": text, "detections": boxes}
    return http.post("/v1/link", json=body)


def send_crops(http: httpx.Client, image: bytes) -> httpx.Response:
    boxes = [
        {"box": [1.0, 2.0, 30.0, 40.0], "image": base64.b64encode(data).decode()}
        for data in (GOOD, image)
    ]
    return http.post("/v1/link", json=frame_body(detections=boxes))


ROUTES = [send, send_frame, send_crops]
Send = Callable[[httpx.Client, bytes], httpx.Response]


@pytest.fixture(scope="module")
def http(world: World) -> Iterator[httpx.Client]:
    """A server whose decoder fails in the ways of ``faulty_decoder``."""
    limits = Limits(decode_seconds=2.0, pixels=1_000_000)  # which allows some 300 MB
    app = create_app(ServeConfig(index=str(world.index), limits=limits))
    app.state.service.decoder = UploadDecoder(limits, faulty_decoder.decode)
    with serving(app) as http:
        yield http


@pytest.mark.parametrize("name", [*SLOW, *LARGE, *DEADLY])
def test_a_decoder_that_fails_refuses_its_image_only(http: httpx.Client, name: str) -> None:
    expected = send(http, GOOD).raise_for_status().json()
    code, message = error_of(send(http, fault(name)), 422)
    kind = "too slow" if name in SLOW else "too much memory" if name in LARGE else "decoder crashed"
    assert (code, message.partition(":")[0]) == ("invalid_image", kind)
    assert send(http, GOOD).json() == expected
    assert not Path("taken-over").exists()


@pytest.mark.parametrize("route", ROUTES[1:])
@pytest.mark.parametrize("name", ["hang", "4 GB", "segmentation fault"])
def test_frames_and_crops_are_decoded_so_as_well(
    http: httpx.Client, route: Send, name: str
) -> None:
    assert error_of(route(http, fault(name)), 422)[0] == "invalid_image"
    assert route(http, GOOD).status_code == 200


@pytest.mark.parametrize("name", ["hang in C", "spin"])
def test_the_rest_of_the_service_goes_on_meanwhile(http: httpx.Client, name: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        hanging = pool.submit(send, http, fault(name))
        waiting = pool.submit(send, http, GOOD)
        for _ in range(20):
            assert http.get("/livez").status_code == 200
            assert http.post("/v1/search", json=SEARCH).status_code == 200
        assert not hanging.done()
        assert hanging.result().status_code == 422
        assert waiting.result().status_code == 200


def test_a_process_that_does_not_start_is_no_fault_of_the_image(world: World) -> None:
    app = create_app(ServeConfig(index=str(world.index)))
    app.state.service.decoder = UploadDecoder(Limits(), faulty_decoder.no_decoder)
    with serving(app) as http:
        for _ in range(2):
            response = send(http, GOOD)
            assert error_of(response, 503)[0] == "unavailable"
            assert response.headers["retry-after"]
        assert http.post("/v1/search", json=SEARCH).status_code == 200


def late_exif(side: int) -> bytes:
    """A PNG whose EXIF comes after the pixels, so that its header alone does not have it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(bytes(3 * side + 1)) for _ in range(side)) + pack.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    exif = chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + exif + end


def many_scans(side: int, scans: int) -> bytes:
    """A JPEG that refines its picture again and again."""
    jpeg = encoded(Image.new("RGB", (side, side), (9, 90, 200)), progressive=True)
    return jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * scans + b"\xff\xd9"


def floats(side: int, bands: int) -> bytes:
    """A TIFF of 64-bit floats, most of which are no colours."""
    tile = np.zeros((512, 512, bands))
    tiles = itertools.repeat(tile, (-(-side // 512)) ** 2)
    stream = io.BytesIO()
    options = {"photometric": "rgb", "compression": "zstd", "tile": tile.shape[:2]}
    tifffile.imwrite(stream, tiles, shape=(side, side, bands), dtype=tile.dtype, **options)
    return stream.getvalue()


BOMBS = {
    "image_too_large": lambda: late_exif(20_000),  # 1.2 GB
    "invalid_image": lambda: floats(6_000, 8),  # 2.3 GB, within the limit of pixels, and a copy
}


class Server(NamedTuple):
    """A server with the usual limits, in a process of its own."""

    process_id: int
    http: httpx.Client
    idle_mb: float  # once its model is loaded

    def more_mb(self) -> float:
        """The most memory that it has had, over that of an idle one."""
        return peak_mb(self.process_id) - self.idle_mb


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[Server]:
    with process("-m", "onepass", "serve", str(world.index), "--port") as (child, http):
        http.timeout = httpx.Timeout(120)
        assert send(http, GOOD).status_code == 200
        yield Server(child.pid, http, peak_mb(child.pid))


@pytest.mark.parametrize("code", BOMBS)
def test_a_small_file_that_takes_gigabytes(server: Server, code: str) -> None:
    image = BOMBS[code]()
    assert len(image) < 2_000_000
    assert error_of(send(server.http, image), 422)[0] == code
    assert server.more_mb() < IDLE_MB
    assert send(server.http, GOOD).status_code == 200


def test_a_small_file_that_takes_minutes(server: Server) -> None:
    image = many_scans(7_700, 1_000)
    assert len(image) < 5_000_000
    assert error_of(send(server.http, image), 422)[1].startswith("too slow")
    assert send(server.http, GOOD).status_code == 200


@pytest.mark.parametrize("name", ["pixels", "bytes"])
def test_sixty_large_uploads_at_once(server: Server, name: str) -> None:
    image = Image.new("RGB", (7_700, 7_700), (9, 90, 200))
    data = encoded(image) if name == "pixels" else encoded(image.crop((0, 0, 2_300, 2_300)), "BMP")

    def upload(_: int) -> int:
        return send(server.http, data).status_code

    with ThreadPoolExecutor(60) as pool:
        statuses = list(pool.map(upload, range(60)))
    assert set(statuses) <= {200, 429, 503}
    # Eight may wait for the model, and six such bodies are within the bytes under way.
    assert statuses.count(200) >= {"pixels": 8, "bytes": 6}[name]
    assert server.more_mb() < IDLE_MB


@pytest.mark.parametrize("name", kinds())
def test_the_answer_is_that_of_a_decoder_in_this_process(
    server: Server, world: World, name: str
) -> None:
    response = send(server.http, kinds()[name])
    try:
        expected, status = world.embedder.embed_bytes(kinds()[name]).topk, 200
    except ImageError as error:
        expected, status = str(error), 422
    assert response.status_code == status
    answer = response.json()
    assert (answer["query"]["topk"] if status == 200 else answer["error"]["message"]) == expected
