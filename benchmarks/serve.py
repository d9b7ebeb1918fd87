"""What serving costs: searches/s and latency, beside a bare route, under reloads, and live linking.

    python -m benchmarks.serve --images PHOTOS [--work DIR] [--rows 100000] [--seconds 5]

The index is of made vectors (see ``made.py``; --work keeps them). ``onepass serve`` and 32 clients
that keep their connections are processes of their own and share the machine's cores; the clients
send bytes and receive bytes, without a library (uvloop where it is installed).

* **bare route**: FastAPI that answers a constant, under the same uvicorn settings: the bound;
* **by id**, **by vector**: ``/v1/search``;
* **batch**: ``/v1/search/batch`` of 256 vectors from one client, beside the same vectors through
  ``Snapshot.search`` in a process of its own; requests/s are of whole batches;
* **reloads**: by id while another process promotes one version after the other and reloads;
* **live link**: one camera's frames of 20 detections with vectors, one after the other.

An answer other than 200 or a broken connection ends the benchmark.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work), --quick, 5,000 vectors, requests/s
(p50, p99 ms): bare 4,041 (5.9, 85), by id 2,643 (12, 20), by vector 2,755 (11, 23), under reloads 2,502
(12, 21), batches of 256 31 (27, 52; Snapshot.search 65), live link 289 frames/s (3.2, 6.2).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np

from benchmarks import runner
from benchmarks.made import Floats, Maker, real_run
from index.build.versions import promote
from index.search.snapshot import Snapshot
from index.storage.layout import current_version

K, CLIENTS, BATCH = 10, 32, 256
Request = tuple[str, str, Any]  # method, path, body


class Connection(asyncio.Protocol):
    """One client: sends a request, waits for the whole answer, sends the next."""

    def __init__(self, wire: Iterator[bytes], seen: list[tuple[float, int, float]]) -> None:
        self._wire, self._seen, self._buffer = wire, seen, b""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        self.transport.write(next(self._wire))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length:")[2].split()[0]):
            return
        now = time.perf_counter()
        self._seen.append((now, int(head[9:12]), now - self._began))
        self._buffer = b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(None)


def clients(port: int, requests: str, connections: int, seconds: float) -> dict[str, Any]:
    """Send a file of requests in turn, again and again; the first second does not count."""

    def wire() -> Iterator[bytes]:
        asked = json.loads(Path(requests).read_text())
        encoded = []
        for method, path, body in asked:
            data = b"" if body is None else json.dumps(body).encode()
            head = (
                f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            )
            encoded.append(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        while True:
            yield from encoded

    async def run() -> list[tuple[float, int, float]]:
        loop, sent = asyncio.get_running_loop(), wire()
        seen: list[tuple[float, int, float]] = []
        opened = [
            (await loop.create_connection(lambda: Connection(sent, seen), "127.0.0.1", port))[1]
            for _ in range(connections)
        ]
        await asyncio.sleep(1 + seconds)
        if any(one.lost.done() for one in opened):
            raise ConnectionError("the server closed a connection under load")
        return seen

    run_loop: Any = asyncio.run
    with contextlib.suppress(ImportError):
        from uvloop import run as run_loop
    began = time.perf_counter()
    seen = [one for one in run_loop(run()) if one[0] > began + 1]
    statuses = {status for _, status, _ in seen}
    if statuses != {200}:
        raise ConnectionError(f"answers with {statuses}")
    p50, p99 = np.percentile([1000 * spent for _, _, spent in seen], [50, 99]).tolist()
    return {"requests/s": len(seen) / (seen[-1][0] - seen[0][0]), "p50 ms": p50, "p99 ms": p99}


def bare_server(index: str, port: int) -> None:
    """A bare route under uvicorn as ``onepass serve`` starts it."""
    from fastapi import FastAPI

    import api.server
    from api.config import Limits, ServeConfig
    from api.http.metrics import Metrics

    def bare(*_: Any, **__: Any) -> FastAPI:
        app = FastAPI()
        app.state.service = SimpleNamespace(draining=False, limits=Limits(), metrics=Metrics())
        app.get("/readyz")(lambda: {"status": "ok"})
        return app

    setattr(api.server, "create_app", bare)  # noqa: B010
    api.server.serve(ServeConfig(index=index, port=port))


@contextlib.contextmanager
def serving(kind: str, index: Path, work: Path) -> Iterator[int]:
    """The port of a server that is ready; it is gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [*runner.ONEPASS, "serve", str(index), "--port", str(port)]
    if kind != "onepass":
        command = runner.child_command(bare_server, {"index": index, "port": port})
    with (work / f"{kind}.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=runner.ROOT, env=runner.ENVIRONMENT, stdout=log, stderr=log
        )
    try:
        for _ in range(1200):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            if server.poll() is not None:
                sys.exit((work / f"{kind}.log").read_text()[-1000:])
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


def raw_batches(index: str, seconds: float) -> dict[str, float]:
    """Batches/s of ``Snapshot.search`` on all cores."""
    snapshot = Snapshot.open(index)
    queries = snapshot.vectors(np.arange(BATCH))
    began, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        snapshot.search(queries, K)
        calls += 1
    return {"requests/s": calls / spent}


@contextlib.contextmanager
def reloading(index: Path, versions: list[str], port: int) -> Iterator[list[float]]:
    """Meanwhile, one version after the other is promoted and served; seconds of each reload."""
    over, spent = threading.Event(), list[float]()

    def change() -> None:
        turn = 0
        while not over.wait(0.2):
            promote(index, versions[turn % len(versions)])
            began = time.perf_counter()
            httpx.post(f"http://127.0.0.1:{port}/v1/index/reload").raise_for_status()
            spent.append(time.perf_counter() - began)
            turn += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield spent
    finally:
        over.set()
        thread.join()


def text(vectors: Floats) -> str:
    """Base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(vectors, "<f4").tobytes()).decode()


def frames(queries: Floats, count: int, turn: int) -> list[Request]:
    """Frames of a camera with 20 boxes each; sequence and request ids are new in every turn."""
    found = []
    for number in range(count):
        here = queries[(20 * number + np.arange(20)) % len(queries)]
        boxes = [
            {"box": [60 * at, number % 50, 60 * at + 50, number % 50 + 50], "vector": text(one)}
            for at, one in enumerate(here)
        ]
        body = {"request_id": str(number), "sequence": f"camera {turn}", "detections": boxes}
        found.append(("POST", "/v1/link", body | {"image_width": 1300, "image_height": 1000}))
    return found


def main() -> None:
    parser = runner.arguments(__doc__)
    parser.add_argument("--images", type=Path, help="photos, where --work has no crops yet")
    parser.add_argument("--work", type=Path, help="keeps the vectors")
    parser.add_argument("--rows", type=int, default=100_000, help="made vectors that are served")
    parser.add_argument("--crops", type=int, default=2_000, help="that they are made from")
    parser.add_argument("--seconds", type=float, default=4, help="of each contender a round")
    given = runner.parsed(parser, rows=5_000, crops=500, seconds=1.0)
    report = runner.Report(f"serving {given.rows} vectors, k {K}, {CLIENTS} clients")
    with runner.folder(given.work) as work, contextlib.ExitStack() as stack:
        maker = Maker(real_run(given.images, work, given.crops))
        run = maker.run(work / f"made-{given.rows}", given.rows)
        more = maker.run(work / "more", 1_000, first=given.rows)
        index = work / "served"
        runner.process([*runner.ONEPASS, "index", "build", str(run.path), "--out", str(index)])
        first = str(current_version(index))
        runner.process([*runner.ONEPASS, "index", "add", str(index), str(more.path)])
        versions = [first, str(current_version(index))]
        dice = np.random.default_rng(5)
        queries = maker.draw(dice, 1_000)[0]
        ids = [f"made-{row:08d}" for row in dice.integers(0, given.rows, 1_000)]
        by_id = [("POST", "/v1/search", {"detection_id": one, "k": K}) for one in ids]
        by_vector = [("POST", "/v1/search", {"vector": text(one), "k": K}) for one in queries]
        batch = ("POST", "/v1/search/batch", {"vectors": text(queries[:BATCH]), "k": K})
        ports = {
            kind: stack.enter_context(serving(kind, index, work)) for kind in ("onepass", "bare")
        }

        def load(kind: str, requests: list[Request], connections: int = CLIENTS) -> runner.Measures:
            file = work / "requests.json"
            file.write_text(json.dumps(requests))
            how: dict[str, Any] = {
                "requests": file,
                "connections": connections,
                "seconds": given.seconds,
            }
            return runner.call(clients, port=ports[kind], **how).answer()

        def under_reloads() -> runner.Measures:
            with reloading(index, versions, ports["onepass"]) as spent:
                measures = load("onepass", by_id)
            return measures | {"reloads": len(spent), "longest reload, s": max(spent)}

        turns, frame_count = iter(range(1_000_000)), int(1_000 * (1 + given.seconds))
        contenders: dict[str, runner.Contender] = {
            "bare route": lambda: load("bare", [("GET", "/readyz", None)]),
            "by id": lambda: load("onepass", by_id),
            "by vector": lambda: load("onepass", by_vector),
            "by id, reloads": under_reloads,
            "batch of 256": lambda: load("onepass", [batch], 1),
            f"Snapshot.search, {runner.CORES} cores": lambda: runner.call(
                raw_batches, index=index, seconds=given.seconds
            ).answer(),
            "live link": lambda: load("onepass", frames(queries, frame_count, next(turns)), 1),
        }
        report.run(contenders, given.rounds)
    for name, other in (
        ("by id", "bare route"),
        ("by id, reloads", "by id"),
        ("batch of 256", f"Snapshot.search, {runner.CORES} cores"),
    ):
        report.ratio(name, other, "requests/s")
    report.show()
    report.write(given.json)


if __name__ == "__main__":
    main()
