"""Clients that mean harm, over real sockets, and what a server does meanwhile."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

SEND_SECONDS = 5.0  # for one client; a server that does not read is not waited for longer
CLIENTS = 8  # that send at once
OPENED: list[socket.socket] = []  # the test closes them
_PIECE = b"x" * 65536


@dataclass
class Watched:
    """What a server did during an attack.

    Attributes:
        slowest_s: the longest that ``/livez`` took, a failure included.
        failures: why it did not answer.
        grown_mb: what the server's memory has grown by at most.
    """

    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)
    grown_mb: float = 0.0


def peak_mb(process_id: int) -> float:
    """The most memory that a process has had."""
    return _memory(process_id, "VmHWM")


def _memory(process_id: int, name: str) -> float:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(name))
    return int(value) / 1024


@contextmanager
def watching(port: int, process_id: int) -> Iterator[Watched]:
    """Ask ``/livez`` over a new connection every 50 ms until the block ends."""
    watched, over = Watched(), threading.Event()
    idle = _memory(process_id, "VmRSS")

    def ask() -> None:
        while not over.wait(0.05):
            began = time.monotonic()
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/livez", timeout=10)
                if answer.status_code != 200:
                    watched.failures.append(str(answer.status_code))
            except httpx.HTTPError as error:
                watched.failures.append(repr(error))
            watched.slowest_s = max(watched.slowest_s, time.monotonic() - began)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield watched
    finally:
        over.set()
        thread.join()
        watched.grown_mb = peak_mb(process_id) - idle


def connect(port: int, *, receive_bytes: int | None = None) -> socket.socket:
    """A connection; with a small receive buffer, the server keeps what is not read."""
    client = _socket(receive_bytes)
    client.connect(("127.0.0.1", port))
    return client


def _socket(receive_bytes: int | None) -> socket.socket:
    client = socket.socket()
    OPENED.append(client)
    if receive_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(SEND_SECONDS)
    return client


def attack(
    port: int, count: int, parts: Callable[[], Iterable[bytes]], *, receive_bytes: int | None = None
) -> list[socket.socket]:
    """Send the same from ``count`` connections, and leave them open.

    Args:
        port: of the server.
        count: connections.
        parts: what each sends, part by part, until the server does not take it.
        receive_bytes: of each connection's receive buffer.
    """

    def send(_: int) -> socket.socket:
        client = _socket(receive_bytes)
        with suppress(OSError):  # it was closed, or refused
            client.connect(("127.0.0.1", port))
            for part in parts():
                client.sendall(part)
        return client

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(send, range(count)))


def close_all() -> None:
    """Reset all connections of ``OPENED``."""
    while OPENED:
        client = OPENED.pop()
        with suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


def answer_of(client: socket.socket, seconds: float) -> bytes | None:
    """What the server sent before it closed the connection; None: it has not closed it."""
    client.settimeout(seconds)
    received = b""
    try:
        while part := client.recv(65536):
            received += part
    except TimeoutError:
        return None
    except OSError:  # a reset closes as well
        pass
    return received


def head(line: str, *headers: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([line, "Host: localhost", *headers, "", ""]).encode()


def stalled_body(path: str, size: int, *headers: str) -> Callable[[], Iterator[bytes]]:
    """A body that stops one byte before its end."""

    def parts() -> Iterator[bytes]:
        yield head(
            f"POST {path} HTTP/1.1",
            "Content-Type: application/json",
            f"Content-Length: {size}",
            *headers,
        )
        left = size - 1
        while left > 0:
            yield _PIECE[:left]
            left -= len(_PIECE)

    return parts


def half_request() -> Iterator[bytes]:
    """A head that does not end."""
    yield b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


def endless(begin: bytes, repeated: bytes, size: int) -> Callable[[], Iterator[bytes]]:
    """What begins and then repeats itself up to ``size`` bytes."""
    piece = repeated * (65536 // len(repeated))

    def parts() -> Iterator[bytes]:
        yield begin
        for _ in range(size // len(piece)):
            yield piece

    return parts


_CHUNKED = head(
    "POST /v1/search HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked"
)
_BEGIN = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
# Everything of a request that is no body, without an end.
ENDLESS = {
    "value": (_BEGIN + b"X-Long: ", b"x"),
    "name": (_BEGIN, b"x"),
    "headers": (_BEGIN, b"a:\r\n"),
    "large headers": (_BEGIN, b"x-long: %s\r\n" % (b"x" * 8000)),
    "folded header": (_BEGIN + b"X-Long: x\r\n", b" x\r\n"),
    "url": (b"GET /", b"x"),
    "query": (b"GET /livez?", b"x"),
    "method": (b"", b"X"),
    "empty lines": (b"", b"\r\n"),
    "chunk extension": (_CHUNKED + b"1;", b"x"),
    "chunk size": (_CHUNKED, b"0"),
    "tiny chunks": (_CHUNKED, b"1\r\n \r\n"),
    "trailers": (_CHUNKED + b"0\r\n", b"a:\r\n"),
    "trailer": (_CHUNKED + b"0\r\na: ", b"x"),
}


def pipelined(requests: bytes, times: int) -> Callable[[], Iterator[bytes]]:
    """Requests one after the other, whose answers are not read."""
    return lambda: iter([requests] * times)
