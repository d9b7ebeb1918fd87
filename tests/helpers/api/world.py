"""What the tests of the service serve: real images, a real model, a real FAISS index over two runs
and real tracks, behind a real uvicorn."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image, ImageDraw

from api.app import create_app
from api.client import Client, ServiceError
from api.config import ServeConfig
from api.schemas.search import Hit
from api.server import Server, bind
from index.build.version import build_index
from pipelines.engines.embed import Embedder
from pipelines.model_info import ModelInfo, ModelRequest
from pipelines.models.registry import examine
from tests.helpers.runs import write_run
from tracks.association.options import PRESETS, LinkOptions
from tracks.link import link_run

ROOT = Path(__file__).parents[3]
FRAMES, PER_FRAME = 8, 3
ODD_ID = "trap 1/é?#%26+%/x"
FAILED = 5  # a row whose image could not be embedded: in the run, not in the index


@dataclass
class World:
    """An index over two runs, the second with the same sequence and track ids as the first."""

    index: Path
    images: Path
    model: ModelInfo
    embedder: Embedder
    ids: list[str]  # of the first run
    boxes: list[tuple[float, ...]]
    names: list[str]
    all_ids: list[str]  # of both, as indexed
    labels: list[str]  # theirs
    unit: np.ndarray  # their embeddings, length 1


def draw(file: Path, frame: int) -> list[tuple[float, ...]]:
    """Draw coloured blobs that move from frame to frame on grey; returns their boxes."""
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


def make_world(base: Path) -> World:
    """Runs, tracks and an index in ``base``."""
    images = base / "images"
    (images / "trap").mkdir(parents=True)
    model = examine(ModelRequest(spec="tiny"))
    embedder = Embedder.load(model)
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
        errors={FAILED: "damaged image: for this test"},
        root=images,
        facts=model,
    )
    other = np.random.default_rng(4).normal(size=(9, model.feature_dim)).astype(np.float32)
    second_ids = [f"b-{row}" for row in range(9)]
    second = write_run(
        base / "second",
        # Absolute names of missing files: no answer may show their folder.
        {"image": [str(images / "trap" / f"gone{i}.jpg") for i in range(9)],
         "detection_id": second_ids, "sequence": ["trap"] * 9},
        other,
        root=images,
        facts=model,
    )  # fmt: skip
    equal = LinkOptions(feature_weight=1, iou_weight=1, area_weight=1, distance_weight=1)
    for run in (first, second):
        link_run(run.path, options=equal)
    # As live cameras are linked, under the same folder.
    link_run(first.path, options=PRESETS["online"], out=base / "first-default" / "tracks")
    build_index([first.path, second.path], base / "index")
    good = [row for row in range(len(ids)) if row != FAILED]
    kept = np.concatenate([vectors[good], other])
    return World(
        index=base / "index",
        images=images,
        model=model,
        embedder=embedder,
        ids=ids,
        boxes=boxes,
        names=names,
        all_ids=[ids[row] for row in good] + second_ids,
        labels=[f"class {row % 3}" for row in [*good, *range(9)]],
        unit=kept / np.linalg.norm(kept, axis=1, keepdims=True),
    )


JSON = {"content-type": "application/json"}


@contextmanager
def serving(what: Path | FastAPI, *, ready: bool = True, **fields: Any) -> Iterator[httpx.Client]:
    """A real uvicorn in a thread, and a client of it.

    Args:
        what: an index, or an application.
        ready: wait until the index is open.
        fields: of the index's ``ServeConfig``.
    """
    app = what if isinstance(what, FastAPI) else create_app(ServeConfig(index=what, **fields))
    with bind("127.0.0.1", 0) as listener:
        server = Server(app)
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


@contextmanager
def connected(what: Path | FastAPI, **fields: Any) -> Iterator[tuple[httpx.Client, Client]]:
    """As ``serving``, with the Python client as well."""
    with serving(what, **fields) as http, Client(str(http.base_url)) as client:
        yield http, client


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(
    *command: str, log: int = subprocess.PIPE
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Python as a server process, and a client of it; the port is added to its arguments.

    Args:
        command: its arguments.
        log: where its stderr goes; a pipe takes some hundred lines.
    """
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-W", "error", *command, str(port)],
        cwd=ROOT,
        stderr=log,
        text=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            wait_until_ready(http)
            yield child, http
    finally:
        child.kill()
        if child.stderr and not child.stderr.closed:
            child.communicate(timeout=30)
        child.wait(30)


def wait_until_ready(client: httpx.Client, seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.05)):
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.ConnectError:
            pass  # the process is still importing
        time.sleep(0.05)
    raise AssertionError(f"not ready within {seconds} s")


def error_of(response: httpx.Response, status: int) -> tuple[str, str]:
    """Code and message of an error, whose shape is checked."""
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    answer = response.json()
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"code", "message"}
    assert "\n" not in answer["error"]["message"]
    return answer["error"]["code"], answer["error"]["message"]


def nearest(
    world: World, query: np.ndarray, k: int, excluded: str = "", *, label: str | None = None
) -> dict[str, float]:
    """Brute force: ids and cosines of the k nearest (of one label), nearest first."""
    cosine = world.unit @ (query / np.linalg.norm(query))
    order = [
        i
        for i in np.argsort(-cosine, kind="stable")
        if world.all_ids[i] != excluded and label in (None, world.labels[i])
    ][:k]
    return {world.all_ids[i]: float(cosine[i]) for i in order}


def check_hits(hits: Sequence[Hit], expected: dict[str, float]) -> None:
    assert [hit.rank for hit in hits] == list(range(1, len(expected) + 1))
    assert [hit.detection_id for hit in hits] == list(expected)
    np.testing.assert_allclose([h.score for h in hits], list(expected.values()), atol=1e-5)


def detection_url(detection_id: str, *, safe: str = "") -> str:
    return f"/v1/detections/{quote(detection_id, safe=safe)}"


def raised_error(call: Any, *args: Any, **options: Any) -> ServiceError:
    """The error that the service answers with."""
    with pytest.raises(ServiceError) as caught:
        call(*args, **options)
    assert caught.value.request_id
    return caught.value


BOX: dict[str, Any] = {"box": [1.0, 2.0, 30.0, 40.0]}
DETECTION: dict[str, Any] = BOX | {"vector": [1.0] * 32}


def frame_body(**fields: Any) -> dict[str, Any]:
    """A request with one detection, of a sequence that nothing else uses."""
    size = {"image_width": 240, "image_height": 160}
    plain = {"request_id": "1", "sequence": uuid4().hex, "detections": [DETECTION]}
    return plain | size | fields
