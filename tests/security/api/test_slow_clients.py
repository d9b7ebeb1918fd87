"""Clients that send or read slowly, or never: what they may hold, and for how long."""

from __future__ import annotations

import base64
import json
import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import httpx
import numpy as np
import pytest

from api.config import Limits
from api.http import connections
from common.errors import InputError
from common.json_models import configure
from tests.helpers.api import attacks
from tests.helpers.api.attacks import answer_of, connect, head
from tests.helpers.api.world import JSON, World, error_of, serving

SEARCH = json.dumps({"detection_id": "a-0"}).encode()
POST = ("POST /v1/search HTTP/1.1", "Content-Type: application/json")
Parts = Callable[[], Iterable[bytes]]


@pytest.fixture(autouse=True)
def _frequent_sweeps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(connections, "_SWEEP_SECONDS", 0.05)
    yield
    attacks.close_all()


@contextmanager
def limited(world: World, **limits: float) -> Iterator[tuple[httpx.Client, int]]:
    """A server with these limits, a client of it, and its port."""
    with serving(world.index, limits=Limits.model_validate(limits)) as http:
        assert http.base_url.port is not None
        yield http, http.base_url.port


def ends(act: Callable[[], object]) -> bool:
    """Whether the server closes a connection that is used every 50 ms, within 10 s."""
    for _ in range(200):
        try:
            act()
        except (BrokenPipeError, ConnectionResetError):
            return True
        time.sleep(0.05)
    return False


def sent(port: int, *parts: bytes, receive_bytes: int | None = None) -> socket.socket:
    client = connect(port, receive_bytes=receive_bytes)
    for part in parts:
        client.sendall(part)
    return client


def post(body: bytes, *, declared: int | None = None) -> bytes:
    return head(*POST, f"Content-Length: {len(body) if declared is None else declared}") + body


def error_code(answer: bytes | None, status: int) -> str:
    """The code of an error, read from the wire; the connection was closed after it."""
    assert answer is not None, "the connection is open"
    begin, _, body = answer.partition(b"\r\n\r\n")
    assert begin.startswith(f"HTTP/1.1 {status} ".encode()), begin
    assert b"connection: close" in begin.lower()
    assert b"nosniff" in begin
    code: str = json.loads(body)["error"]["code"]
    return code


def rejected(http: httpx.Client, reason: str) -> float:
    name = f'onepass_rejected_requests_total{{reason="{reason}"}}'
    (line,) = (line for line in http.get("/metrics").text.splitlines() if line.startswith(name))
    return float(line.split()[1])


HALF: dict[str, Parts] = {
    "nothing": list,
    "half a head": attacks.half_request,
    "half a line": lambda: [b"GET /li"],
    "empty lines": lambda: [b"\r\n" * 20],
    "half of a second request": lambda: [head("GET /livez HTTP/1.1"), b"GET /livez"],
    "rest of a body that was refused": lambda: [post(b"x" * 1000, declared=10**9)],
    "rest of a body that nobody reads": lambda: [
        head("GET /livez HTTP/1.1", "Content-Length: 100000")
    ],
}


@pytest.mark.parametrize("kind", HALF)
def test_half_requests_are_closed(world: World, kind: str) -> None:
    with limited(world, head_seconds=0.3) as (http, port):
        client = sent(port, *HALF[kind]())
        assert answer_of(client, 10) is not None
        assert http.get("/livez").status_code == 200


def test_a_head_that_trickles_is_closed(world: World) -> None:
    with limited(world, head_seconds=0.5) as (_, port), connect(port) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\n")
        assert ends(lambda: client.sendall(b"X-A: b\r\n"))


@pytest.mark.parametrize("path", ["/v1/search", "/v1/link", "/v1/search/batch", "/v1/detections"])
@pytest.mark.parametrize("size", [2, 100_000])
def test_stalled_bodies_are_answered_with_408(world: World, path: str, size: int) -> None:
    with limited(world, stalled_seconds=0.3) as (http, port):
        client = sent(port, *attacks.stalled_body(path, size)())
        assert error_code(answer_of(client, 10), 408) == "body_timeout"
        assert rejected(http, "slow_body") == 1


def test_a_stalled_form_and_a_stalled_chunk_are_answered_with_408(world: World) -> None:
    form = "Content-Type: multipart/form-data; boundary=b"
    begin = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    upload = head("POST /v1/search/image HTTP/1.1", form, "Content-Length: 9000") + begin
    chunk = head(*POST, "Transfer-Encoding: chunked") + b"5\r\n{"
    with limited(world, stalled_seconds=0.3) as (_, port):
        for data in (upload, chunk):
            assert error_code(answer_of(sent(port, data), 10), 408) == "body_timeout"


def test_a_body_that_trickles_has_an_end(world: World) -> None:
    with limited(world, stalled_seconds=5, body_seconds=0.5) as (_, port):
        client = sent(port, post(b"", declared=1000))
        client.settimeout(0.05)
        answer = b""
        for _ in range(100):
            try:
                client.sendall(b" ")
                answer += client.recv(65536)
                break
            except TimeoutError:
                continue
        assert error_code(answer, 408) == "body_timeout"


def test_a_slow_body_within_the_limits_is_read(world: World) -> None:
    with limited(world, stalled_seconds=2, body_seconds=20, head_seconds=2) as (http, _):

        def slowly() -> Iterator[bytes]:
            for part in (SEARCH[:5], SEARCH[5:9], SEARCH[9:]):
                time.sleep(0.5)
                yield part

        answer = http.post("/v1/search", content=slowly(), headers=JSON)
        assert answer.status_code == 200
        small = (SEARCH[at : at + 8] for at in range(0, len(SEARCH), 8))
        assert http.post("/v1/search", content=small, headers=JSON).status_code == 200
        spaced = (b" " * 20 for _ in range(5000))
        answer = http.post("/v1/search", content=chain(spaced, [SEARCH]), headers=JSON)
        assert answer.status_code == 200
        for _ in range(50):  # of a connection that is kept
            assert http.post("/v1/search", content=SEARCH, headers=JSON).status_code == 200


@pytest.mark.parametrize("kind", attacks.ENDLESS)
def test_what_is_no_body_has_an_end(world: World, kind: str) -> None:
    begin, repeated = attacks.ENDLESS[kind]
    with limited(world, head_seconds=2) as (http, port):
        (client,) = attacks.attack(port, 1, attacks.endless(begin, repeated, 500_000))
        answer = answer_of(client, 10)
        assert answer is not None, "the connection is open"
        if answer:
            assert answer.split()[1] in (b"400", b"431")
        assert http.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "lines", [["x: y"] * 100, [f"x: {'y' * 70_000}"], [f"{'x' * 40_000}: {'y' * 30_000}"]]
)
def test_a_large_head_is_answered_with_431(world: World, lines: list[str]) -> None:
    with limited(world) as (_, port):
        answer = answer_of(sent(port, head("GET /v1/index HTTP/1.1", *lines)), 10)
        assert error_code(answer, 431) == "head_too_large"


def test_a_head_within_the_limits_is_read(world: World) -> None:
    with limited(world) as (http, port):
        many = sent(port, head("GET /v1/index HTTP/1.1", *["x: y"] * 98, "Connection: close"))
        assert (answer_of(many, 10) or b"").startswith(b"HTTP/1.1 200 ")
        ids = "".join(f"&ids=id-{number:05d}" for number in range(4000))
        assert len(http.get(f"/v1/detections?limit=1{ids}").json()["unknown_ids"]) == 4000


def test_what_is_not_http_is_an_error_in_the_one_shape(world: World) -> None:
    with limited(world) as (_, port):
        assert error_code(answer_of(sent(port, b"\x16\x03\x01hello\r\n\r\n"), 10), 400) == (
            "bad_request"
        )


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_have_room_or_are_refused(world: World, chunked: bool) -> None:
    body = b" " * 400_000 + SEARCH

    def content() -> bytes | Iterator[bytes]:
        return iter([body]) if chunked else body

    with limited(world, bodies_bytes=500_000) as (http, port):
        waiting = sent(port, post(body[:-1], declared=len(body)))
        wait_until_read(http, 1)
        refused = http.post("/v1/search", content=content(), headers=JSON)
        assert error_of(refused, 503)[0] == "too_busy"
        assert refused.headers["retry-after"] == "1"
        assert rejected(http, "bodies") >= 1
        # Small ones are read meanwhile.
        assert http.post("/v1/search", content=SEARCH, headers=JSON).status_code == 200
        waiting.sendall(body[-1:])
        assert waiting.recv(100).startswith(b"HTTP/1.1 200 ")
        assert http.post("/v1/search", content=content(), headers=JSON).status_code == 200


def wait_until_read(http: httpx.Client, others: int) -> None:
    """Wait until the requests of other connections are under way."""
    wait_for(lambda: open_connections(http) == others + 1)
    time.sleep(0.2)


def test_one_body_may_be_larger_than_the_room_for_many(world: World) -> None:
    body = b" " * 400_000 + SEARCH
    with limited(world, bodies_bytes=100_000) as (http, _):
        assert http.post("/v1/search", content=body, headers=JSON).status_code == 200


def test_requests_at_once_are_limited_and_probes_are_answered(world: World) -> None:
    with limited(world, requests=2) as (http, port):
        waiting = [sent(port, post(SEARCH[:-1], declared=len(SEARCH))) for _ in range(2)]
        wait_until_read(http, 2)
        assert error_of(http.get("/v1/index"), 503)[0] == "too_busy"
        assert rejected(http, "requests") >= 1
        for path in ("/livez", "/readyz", "/metrics"):
            assert http.get(path).status_code == 200
        for client in waiting:
            client.sendall(SEARCH[-1:])
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert http.post("/v1/search", content=SEARCH, headers=JSON).status_code == 200


def test_the_oldest_connection_that_waits_gives_way(world: World) -> None:
    limits = {"connections": 5, "requests": 2, "head_seconds": 60.0}
    with limited(world, **limits) as (http, port):
        neighbour = socket.create_connection(("127.0.0.1", port), 5, ("127.0.0.2", 0))
        attacks.OPENED.append(neighbour)
        neighbour.sendall(b"GET /livez HTTP/1.1\r\n")
        oldest = sent(port, *attacks.half_request())
        time.sleep(0.2)
        half = [sent(port, *attacks.half_request()) for _ in range(10)]
        for _ in range(5):
            assert httpx.get(f"{http.base_url}/livez").status_code == 200
        assert answer_of(oldest, 5) == b""
        assert sum(answer_of(client, 0.1) == b"" for client in half) >= 6
        # Another address has one connection only, which is the oldest of all.
        neighbour.sendall(b"Host: localhost\r\n\r\n")
        assert neighbour.recv(100).startswith(b"HTTP/1.1 200 ")
        assert rejected(http, "connections") >= 6


def big_batch(world: World) -> bytes:
    """A request whose answer has some megabytes."""
    vectors = np.random.default_rng(0).normal(size=(250, world.model.feature_dim))
    text = base64.b64encode(vectors.astype("<f4").tobytes()).decode()
    body = json.dumps({"vectors": text, "k": 100, "with_vector": True}).encode()
    line = "POST /v1/search/batch HTTP/1.1"
    return head(line, "Content-Type: application/json", f"Content-Length: {len(body)}") + body


def read_all(client: socket.socket, pause_s: float) -> int:
    """Bytes that were sent, read slowly."""
    client.settimeout(10)
    size = 0
    while part := client.recv(400_000):
        size += len(part)
        time.sleep(pause_s)
    return size


def read_begin(client: socket.socket) -> int:
    """Bytes that are read until there are a million."""
    size = 0
    while size <= 1_000_000 and (part := client.recv(65536)):
        size += len(part)
    return size


def test_an_answer_that_is_not_read_is_dropped(world: World) -> None:
    with limited(world, stalled_seconds=0.3) as (http, port):
        client = sent(port, big_batch(world), receive_bytes=4096)
        wait_for(lambda: rejected(http, "unread") == 1)
        wait_for(lambda: open_connections(http) == 1)
        client.close()


def test_an_answer_that_is_read_too_slowly_is_dropped(world: World) -> None:
    with limited(world, stalled_seconds=5, answer_seconds=0.5) as (http, port):
        client = sent(port, big_batch(world), receive_bytes=4096)
        client.settimeout(5)
        assert ends(lambda: client.recv(1000))
        assert rejected(http, "unread") == 1


def test_an_answer_that_is_read_slowly_arrives_whole(world: World) -> None:
    with limited(world, stalled_seconds=1.5) as (_, port):
        request = big_batch(world).replace(b"Host:", b"Connection: close\r\nHost:")
        size = read_all(sent(port, request), 0)
        assert size > 3_000_000
        assert read_all(sent(port, request, receive_bytes=65536), 0.02) == size


def test_the_oldest_of_too_many_unread_answers_is_dropped(world: World) -> None:
    with limited(world, unread_bytes=6_000_000, stalled_seconds=3) as (http, port):
        clients = []
        for _ in range(4):
            clients.append(sent(port, big_batch(world), receive_bytes=4096))
            assert clients[-1].recv(9) == b"HTTP/1.1 "  # it has begun
        wait_for(lambda: rejected(http, "unread") >= 2)
        assert http.post("/v1/search", content=SEARCH, headers=JSON).status_code == 200
        with pytest.raises(ConnectionResetError):
            read_all(clients[0], 0)
        assert read_begin(clients[-1]) > 1_000_000


def test_one_answer_may_be_larger_than_all_unread_ones(world: World) -> None:
    with limited(world, unread_bytes=1000) as (http, port):
        request = big_batch(world).replace(b"Host:", b"Connection: close\r\nHost:")
        assert read_all(sent(port, request, receive_bytes=65536), 0.01) > 3_000_000
        assert rejected(http, "unread") == 0


def test_the_next_answer_waits_until_the_one_before_is_read(world: World) -> None:
    route = 'route="/v1/search/batch",status="200"} '
    with limited(world) as (http, port):

        def answered() -> int:
            lines = http.get("/metrics").text.splitlines()
            counts = [line for line in lines if "seconds_count" in line and route in line]
            return int(float(counts[0].split()[1])) if counts else 0

        client = sent(port, big_batch(world) * 2, receive_bytes=4096)
        wait_for(lambda: answered() == 1)
        time.sleep(0.3)
        assert answered() == 1
        client.settimeout(10)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 2:
            received = received[-20:] + client.recv(1_000_000)
            if b"HTTP/1.1 200 " in received and answered() == 2:
                break
        assert answered() == 2
        client.close()


def test_requests_sent_ahead_are_answered_in_order_and_bounded(world: World) -> None:
    with limited(world) as (http, port):
        two = head("GET /livez HTTP/1.1") + head("GET /v1/nothing HTTP/1.1", "Connection: close")
        answer = answer_of(sent(port, two), 10) or b""
        assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404"]
        assert answer_of(sent(port, head("GET /livez HTTP/1.1") * 2000), 10) is not None
        assert http.get("/livez").status_code == 200


def test_a_client_that_leaves_is_no_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with limited(world) as (http, port):
        caplog.clear()  # it was not ready first
        client = sent(port, post(SEARCH[:-1], declared=len(SEARCH)))
        time.sleep(0.2)
        client.close()
        wait_for(lambda: 'status="499"' in http.get("/metrics").text)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def open_connections(http: httpx.Client) -> float:
    lines = http.get("/metrics").text.splitlines()
    (line,) = (line for line in lines if line.startswith("onepass_connections "))
    return float(line.split()[1])


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize("values", [{"connections": 400}, {"requests": 500}, {"head_seconds": 0}])
def test_limits_that_do_not_fit_together_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(InputError):
        configure(Limits, **values)
