"""Clients of a server in one process, as light as Python gets: bytes out, bytes in, no library.

    _client.py < JOB      one line of JSON; ends with one line of JSON

The job: ``port``, ``connections`` (kept alive, one request under way on each), ``requests`` (a
file of JSON, [[method, path, body or null], …], sent in turn), ``seconds`` to measure after
``warm`` seconds, and maybe ``keep``: a file to which every answer is written, as JSON lines of
[request number, status, body], and ``least``: so many answers, then on until stdin closes.

An answer needs ``Content-Length``. uvloop is used where it is installed (``make bench`` does).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np


def encode(method: str, path: str, body: Any) -> bytes:
    """A request of HTTP/1.1 as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    data = json.dumps(body).encode()
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


class Load:
    """What all connections share: what is sent next, and what came back."""

    def __init__(self, job: dict[str, Any]) -> None:
        asked = json.loads(Path(job["requests"]).read_text())
        self.wire = [encode(*one) for one in asked]
        self.next = 0
        self.stopped = asyncio.Event()
        self.stop = False
        self.measuring = False
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.problems: Counter[str] = Counter()
        self.keep: list[tuple[int, int, bytes]] | None = [] if job.get("keep") else None
        self.open = 0

    def take(self) -> int | None:
        """The number of the next request; None once it is over."""
        if self.stop:
            return None
        number = self.next
        self.next += 1
        return number % len(self.wire)


class Connection(asyncio.Protocol):
    """One client: sends, waits for the whole answer, sends again."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._need = -1  # bytes of head and body together; -1: the head is not whole yet
        self._number: int | None = None
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._load.open += 1
        self._send()

    def _send(self) -> None:
        self._number = self._load.take()
        if self._number is None:
            self._transport.close()
            return
        self._began = time.perf_counter()
        self._transport.write(self._load.wire[self._number])

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if self._need < 0:
            head = self._buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            self._need = head + 4 + self._length(self._buffer[:head].lower())
            self._head = head
        if len(self._buffer) < self._need:
            return
        load, number = self._load, self._number
        assert number is not None
        status = int(self._buffer[9:12])
        if load.measuring:
            load.latencies.append(time.perf_counter() - self._began)
            load.statuses[status] += 1
        if load.keep is not None:
            load.keep.append((number, status, self._buffer[self._head + 4 : self._need]))
        self._buffer, self._need, self._number = b"", -1, None
        self._send()

    def _length(self, head: bytes) -> int:
        at = head.find(b"content-length:")
        if at < 0:
            self._load.problems["an answer without Content-Length"] += 1
            self._transport.abort()
            return 0
        end = head.find(b"\r\n", at)
        return int(head[at + 15 : end if end > 0 else len(head)])

    def connection_lost(self, error: Exception | None) -> None:
        load = self._load
        load.open -= 1
        if self._number is not None:
            load.problems[f"lost with a request under way: {error or 'closed'}"] += 1
        elif not load.stop:
            load.problems["closed between two requests"] += 1
        if not load.open:
            load.stopped.set()


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Do the job; returns what is printed."""
    loop, load = asyncio.get_running_loop(), Load(job)
    for _ in range(job["connections"]):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", job["port"])
    await asyncio.sleep(job.get("warm", 0))
    load.measuring = True
    began, cpu = time.perf_counter(), time.process_time()
    if "seconds" in job:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(load.stopped.wait(), job["seconds"])
    else:
        over = loop.run_in_executor(None, sys.stdin.read)
        while load.open and (len(load.latencies) < job["least"] or not over.done()):
            await asyncio.sleep(0.01)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    load.stop, load.measuring = True, False
    if load.open:
        await asyncio.wait_for(load.stopped.wait(), 60)
    if load.keep is not None:
        with Path(job["keep"]).open("w") as file:
            for number, status, body in load.keep:
                file.write(json.dumps([number, status, body.decode()]) + "\n")
    middle, high = np.percentile(load.latencies, [50, 99]) if load.latencies else (0, 0)
    return {
        "requests": len(load.latencies),
        "rate": len(load.latencies) / wall,
        "p50": 1e3 * float(middle),
        "p99": 1e3 * float(high),
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "problems": dict(load.problems),
        "client cores": cpu / wall,
    }


def main() -> None:
    job = json.loads(sys.stdin.readline())
    try:
        from uvloop import run as run_loop
    except ImportError:
        run_loop = asyncio.run
    print(json.dumps(run_loop(run(job))))


if __name__ == "__main__":
    main()
