"""Many clients that mean harm at once: the server's memory, and whether it answers meanwhile.

``benchmarks/attacks.py`` makes the same attacks at full size.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator

import httpx
import pytest

from tests.helpers.api import attacks
from tests.helpers.api.world import World, process

GROWN_MB = 300  # over an idle server
CONNECTIONS, HALF = 100, 1000
BODY = 14_000_000


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[tuple[int, int]]:
    """Port and process id of a server."""
    command = ("-m", "onepass", "serve", str(world.index), "--port")
    with process(*command, log=subprocess.DEVNULL) as (child, http):
        assert http.post("/v1/search", json={"detection_id": "a-0"}).status_code == 200
        assert http.base_url.port is not None
        yield http.base_url.port, child.pid


def chunks() -> Iterator[bytes]:
    """A body in chunks, without a length, that does not end."""
    yield attacks.head(
        "POST /v1/search HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked"
    )
    for _ in range(BODY // 65536):
        yield b"10000\r\n" + b" " * 65536 + b"\r\n"


ATTACKS: dict[str, tuple[int, Callable[[], Iterable[bytes]]]] = {
    "stalled bodies": (CONNECTIONS, attacks.stalled_body("/v1/search", BODY)),
    "stalled chunks": (CONNECTIONS, chunks),
    "half requests": (HALF, attacks.half_request),
    "requests sent ahead": (
        CONNECTIONS,
        attacks.pipelined(attacks.head("GET /livez HTTP/1.1") * 6000, 1),
    ),
    "answers that are not read": (
        CONNECTIONS,
        attacks.pipelined(attacks.head("GET /openapi.json HTTP/1.1") * 2, 1),
    ),
    **{
        f"endless {name}": (CONNECTIONS, attacks.endless(*parts, 4_000_000))
        for name, parts in attacks.ENDLESS.items()
    },
}


@pytest.mark.parametrize("name", ATTACKS)
def test_memory_is_bounded_and_probes_are_answered(server: tuple[int, int], name: str) -> None:
    port, process_id = server
    count, parts = ATTACKS[name]
    with attacks.watching(port, process_id) as watched:
        attacks.attack(port, count, parts, receive_bytes=4096)
        time.sleep(0.3)
        attacks.close_all()
    assert watched.failures == []
    assert watched.grown_mb < GROWN_MB
    assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
