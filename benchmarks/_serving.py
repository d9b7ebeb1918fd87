"""Servers and clients as processes of their own, and what a client's job gives."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import ENVIRONMENT, HERE
from _processes import ONEPASS, cpu_seconds

START_SECONDS = 120
JOB_SECONDS = 900
Request = tuple[str, str, Any]  # method, path, body


class Server:
    """A server that answers ``/readyz``; ``kind`` is onepass, or one of ``_server.py``."""

    def __init__(self, kind: str, index: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        command = [sys.executable, str(HERE / "_server.py"), kind, str(index), str(self.port)]
        if kind == "onepass":
            command = [*ONEPASS, "serve", str(index), "--port", str(self.port)]
        self.kind, self.log = kind, log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, cwd=HERE.parent, env=ENVIRONMENT, stdout=stream, stderr=stream
            )

    def wait(self) -> None:
        """Until it is ready."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace")[-1000:]
                raise RuntimeError(f"server {self.kind} does not get ready: {said}")
            try:
                if self.get("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)

    def get(self, method: str, path: str) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(kind: str, index: Path, work: Path) -> Iterator[Server]:
    """A server that is ready, and gone afterwards."""
    server = Server(kind, index, work / f"server-{kind}.log")
    try:
        server.wait()
        yield server
    finally:
        server.close()


def write_requests(file: Path, requests: list[Request]) -> Path:
    file.write_text(json.dumps(requests))
    return file


def start_client(server: Server, requests: Path, **job: Any) -> subprocess.Popen[str]:
    """A client process with its job; closing its stdin ends a job without ``seconds``."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "_client.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdin
    process.stdin.write(json.dumps({"port": server.port, "requests": str(requests), **job}) + "\n")
    process.stdin.flush()
    return process


def load(server: Server, requests: Path, *, connections: int, seconds: float) -> dict[str, Any]:
    """What ``connections`` clients saw in ``seconds``, after one second that does not count.

    Raises:
        RuntimeError: an answer other than 200, or a connection that broke.
    """
    began, cpu = time.monotonic(), cpu_seconds(server.process.pid)
    client = start_client(server, requests, connections=connections, seconds=seconds, warm=1)
    try:
        out = client.communicate(timeout=JOB_SECONDS)[0]
    finally:
        client.kill()
        client.wait()
    if client.returncode != 0:
        raise RuntimeError(f"the client of server {server.kind} ended with {client.returncode}")
    told: dict[str, Any] = json.loads(out)
    if set(told["statuses"]) != {"200"} or told["problems"]:
        raise RuntimeError(
            f"server {server.kind} answered {told['statuses']}, {told['problems'] or 'in order'}"
        )
    # Over the client's start too, so a little less than while it was asked.
    told["server cores"] = (cpu_seconds(server.process.pid) - cpu) / (time.monotonic() - began)
    return told
