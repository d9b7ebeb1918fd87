"""What clients that mean harm can do to a server: its memory, and whether it answers meanwhile.

    python -m benchmarks.attacks [--quick] [--only NAME] [--json FILE]

Each attack is made over real sockets against a fresh ``onepass serve`` of 2,000 vectors of 1,280 numbers, for
which no key is asked, so that every body is read. ``MB`` is the most that its memory grew by, ``livez s`` the
longest that ``/livez`` took over a new connection, ``failures`` how often it did not answer. The exit code
is 1 where memory grew by more than 300 MB, ``/livez`` took more than 1 s or did not answer.

* **stalled bodies**, **stalled chunks**: 600 of 14 MB that stop before their end;
* **half requests**: 3,000 heads that do not end;
* **sent ahead**: 600 connections that send 4,000 requests each and read no answer;
* **unread …**: 600 connections that ask for large answers and read none;
* **ten bodies**: ten well-formed bodies of 20 MB at once;
* **endless …**: 600 connections that send 4 MB each of one part of a request that is no body.

--quick makes each a tenth as large.

Printed last on 2026-11-30, 2 idle cores (AMD EPYC), MB and s of /livez at full size, and in brackets MB before
there were limits, at a tenth of the size: stalled bodies 152, 0.1 (807), stalled chunks 108, 0.1 (807), half requests
4, 0.4 (2, never closed), sent ahead 0.5, 0.1 (557), unread pages 136, 0.2 (1,452), unread hits 171, 0.3, ten
bodies 156, 0.3, endless headers 0.2, 0.04 (6,891), each other endless part below 4, 0.05 (240).
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

from benchmarks import runner
from benchmarks.serve import serving
from tests.helpers.api import attacks

ROWS, DIM = 2_000, 1_280
BODY, LARGE_BODY = 14_000_000, 20_000_000
HOLD_SECONDS = 2.0  # connections stay open so long after the last has sent
MAX_MB, MAX_SECONDS = 300.0, 1.0
Attack = Callable[[int], None]
JSON = "Content-Type: application/json"


def build(work: Path) -> Path:
    """An index of random vectors."""
    vectors = np.random.default_rng(1).normal(size=(ROWS, DIM)).astype(np.float32)
    np.save(work / "vectors.npy", vectors)
    (work / "vectors.ids.txt").write_text("\n".join(f"r-{row}" for row in range(ROWS)))
    index = work / "index"
    file = str(work / "vectors.npy")
    runner.process([*runner.ONEPASS, "index", "build", file, "--out", str(index)])
    return index


def held(count: int, parts: Callable[[], Iterable[bytes]]) -> Attack:
    """An attack whose connections stay open for a while."""

    def make(port: int) -> None:
        attacks.attack(port, count, parts, receive_bytes=4096)
        time.sleep(HOLD_SECONDS)
        attacks.close_all()

    return make


def chunks() -> Iterator[bytes]:
    """A body in chunks that does not end."""
    yield attacks.head("POST /v1/search HTTP/1.1", JSON, "Transfer-Encoding: chunked")
    yield from [b"10000\r\n" + b" " * 65536 + b"\r\n"] * (BODY // 65536)


def send(url: str) -> dict[str, float]:
    """Send one well-formed batch of the largest size, in a process of its own; its status."""
    numbers = np.ones(LARGE_BODY * 3 // 4 // 4 // DIM * DIM - DIM, "<f4")
    body = json.dumps({"vectors": base64.b64encode(numbers.tobytes()).decode()}).encode()
    headers = {"content-type": "application/json"}
    return {"status": httpx.post(url, content=body, headers=headers, timeout=60).status_code}


def ten_bodies(port: int) -> None:
    """As many as a busy service has under way, each as large as it may be."""
    url = f"http://127.0.0.1:{port}/v1/search/batch"
    with ThreadPoolExecutor(10) as pool:
        calls = [pool.submit(runner.call, send, url=url) for _ in range(10)]
    statuses = {call.result().answer()["status"] for call in calls}
    if not statuses <= {422, 503}:  # more vectors than a batch may have, or no room
        raise ConnectionError(f"answers with {statuses}")


def all_attacks(scale: float) -> dict[str, Attack]:
    """Attacks by name, at this share of their full size."""
    many, more = int(600 * scale), int(3_000 * scale)
    body = json.dumps({"detection_id": "r-0", "k": 1000, "with_vector": True}).encode()
    search = attacks.head("POST /v1/search HTTP/1.1", JSON, f"Content-Length: {len(body)}") + body
    page = attacks.head("GET /v1/detections?limit=1000&with_vector=true HTTP/1.1")
    document = attacks.head("GET /openapi.json HTTP/1.1")
    ahead = attacks.head("GET /livez HTTP/1.1") * 4000
    made = {
        "stalled bodies": held(many, attacks.stalled_body("/v1/search", BODY)),
        "stalled chunks": held(many, chunks),
        "half requests": held(more, attacks.half_request),
        "sent ahead": held(many, lambda: [ahead]),
        "unread pages": held(many, lambda: [page * 2]),
        "unread hits": held(many, lambda: [search * 2]),
        "unread documentation": held(many, lambda: [document * 2]),
        "ten bodies": ten_bodies,
    }
    for name, (begin, repeated) in attacks.ENDLESS.items():
        made[f"endless {name}"] = held(many, attacks.endless(begin, repeated, 4_000_000))
    return made


def server_of(port: int) -> int:
    """Process id of the server, which this process started."""
    (pid,) = (
        int(line)
        for line in subprocess.run(
            ["pgrep", "-f", f"onepass serve .* --port {port}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    )
    return pid


def measured(name: str, make: Attack, index: Path, work: Path) -> dict[str, float]:
    """One attack against a fresh server."""
    with serving("onepass", index, work) as port:
        url = f"http://127.0.0.1:{port}/v1/search"
        httpx.post(url, json={"detection_id": "r-0"}).raise_for_status()
        with attacks.watching(port, server_of(port)) as watched:
            make(port)
    return {
        "MB": watched.grown_mb,
        "livez s": watched.slowest_s,
        "failures": float(len(watched.failures)),
    }


def main() -> None:
    parser = runner.arguments(__doc__, rounds=1)
    parser.add_argument("--only", default="", help="attacks whose name begins so")
    given = runner.parsed(parser)
    report = runner.Report("attacks against one server")
    with runner.folder() as work:
        index = build(work)
        chosen = {
            name: lambda name=name, make=make: measured(name, make, index, work)
            for name, make in all_attacks(0.1 if given.quick else 1.0).items()
            if name.startswith(given.only)
        }
        report.run(chosen, given.rounds)
    report.show()
    report.write(given.json)
    broken = [
        name
        for name in chosen
        if report.median(name, "MB") > MAX_MB
        or report.median(name, "livez s") > MAX_SECONDS
        or report.median(name, "failures")
    ]
    sys.exit(f"over the bounds: {', '.join(broken)}" if broken else 0)


if __name__ == "__main__":
    main()
