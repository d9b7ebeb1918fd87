"""A small request that would take the server's time or memory: long lists, many fields, long texts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from api.http import bodies
from tests.helpers.api.attacks import peak_mb
from tests.helpers.api.world import JSON, World, error_of, process

MEGABYTE = 1_000_000
IDLE_MB = 300  # what ten such requests together may take over an idle server


def repeat(value: bytes, size: int) -> bytes:
    return b",".join([value] * (size // (len(value) + 1)))


def fields(size: int) -> bytes:
    return b",".join(b'"%07d":1' % number for number in range(size // 12))


FRAME = b'{"request_id":"1","sequence":"s","image_width":9,"image_height":9,'
SEARCH, BATCH, FETCH, LINK = "/v1/search", "/v1/search/batch", "/v1/detections", "/v1/link"
# Each a route, and its body with %s where what is repeated goes.
LISTS = {
    "vector": (SEARCH, b'{"vector":[%s]}'),
    "positive": (SEARCH, b'{"positive":[%s]}'),
    "vector in positive": (SEARCH, b'{"positive":[[%s]]}'),
    "negative": (SEARCH, b'{"positive":["a-0"],"negative":[%s]}'),
    "vector in negative": (SEARCH, b'{"positive":["a-0"],"negative":[[%s]]}'),
    "ids": (SEARCH, b'{"detection_id":"a-0","ids":[%s]}'),
    "names": (SEARCH, b'{"detection_id":"a-0","with_payload":[%s]}'),
    "queries": (BATCH, b'{"queries":[%s]}'),
    "vector in queries": (BATCH, b'{"queries":[{"vector":[%s]}]}'),
    "ids of a batch": (BATCH, b'{"vectors":"","ids":[%s]}'),
    "ids to fetch": (FETCH, b'{"ids":[%s]}'),
    "names to fetch": (FETCH, b'{"ids":["a-0"],"with_payload":[%s]}'),
    "detections": (LINK, FRAME + b'"detections":[%s]}'),
    "box": (LINK, FRAME + b'"detections":[{"box":[%s]}]}'),
    "vector of a detection": (LINK, FRAME + b'"detections":[{"box":[1,2,3,4],"vector":[%s]}]}'),
}
OBJECTS = {
    "search": (SEARCH, b'{"detection_id":"a-0",%s}'),
    "batch": (BATCH, b'{"vectors":"",%s}'),
    "query of a batch": (BATCH, b'{"queries":[{%s}]}'),
    "fetch": (FETCH, b'{"ids":[],%s}'),
    "frame": (LINK, FRAME + b'"detections":[],%s}'),
    "detection": (LINK, FRAME + b'"detections":[{%s}]}'),
}


def refused(http: httpx.Client, url: str, body: bytes) -> str:
    """The message of the refusal, in which there are few errors."""
    response = http.post(url, content=body, headers=JSON)
    assert response.status_code in (413, 422)
    code, message = error_of(response, response.status_code)
    assert code in ("invalid_request", "too_large", "over_limit", "invalid_vector")
    assert len(response.content) < 2000
    counted = message.rpartition(" and ")[2].removesuffix(" more")
    assert not (message.endswith(" more") and int(counted) > 3), message
    return message


@pytest.mark.parametrize("where", LISTS)
@pytest.mark.parametrize("value", [b'"a"', b"1", b"null", b"[]", b"{}"])
def test_a_list_stops_at_its_first_wrong_element(
    http: httpx.Client, where: str, value: bytes
) -> None:
    url, body = LISTS[where]
    refused(http, url, body % repeat(value, MEGABYTE))


@pytest.mark.parametrize("where", OBJECTS)
def test_one_unknown_field_of_many_is_named(http: httpx.Client, where: str) -> None:
    url, body = OBJECTS[where]
    message = refused(http, url, body % fields(MEGABYTE))
    assert "'0000000'" in message
    assert "'0000001'" not in message


@pytest.mark.parametrize("name", ["timestamp", "request_id", "sequence"])
def test_a_long_text_of_a_frame_is_not_read(http: httpx.Client, name: str) -> None:
    body = b'{"image_width":9,"image_height":9,"detections":[],"%s":"%s"}'
    message = refused(http, LINK, body % (name.encode(), b"1" * MEGABYTE))
    assert name in message


@pytest.mark.parametrize("name", ["where", "group_by", "vector", "detection_id"])
def test_a_long_text_of_a_search_is_not_sent_back(http: httpx.Client, name: str) -> None:
    query = b"" if name in ("vector", "detection_id") else b'"detection_id":"a-0",'
    body = b'{%s"%s":"%s"}' % (query, name.encode(), b"x" * MEGABYTE)
    response = http.post(SEARCH, content=body, headers=JSON)
    assert 400 <= response.status_code < 500
    assert len(response.content) < 2000


@pytest.mark.parametrize(("value", "times"), [(b"1", 1), (b"[]", 1), (b'{"a":1}', 3)])
def test_more_values_than_any_request_needs_are_not_read(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, value: bytes, times: int
) -> None:
    def read(_: bytes) -> object:
        raise AssertionError("the body was read")

    monkeypatch.setattr(bodies, "from_json", read)
    body = b'{"vector":[%s]}' % repeat(value, 5 * MEGABYTE * times)
    assert error_of(http.post(SEARCH, content=body, headers=JSON), 413)[0] == "too_large"


def test_a_large_body_is_read_in_a_thread(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[bool, set[str]] = {True: set(), False: set()}
    parse: Callable[[bytes], object] = bodies.from_json

    def recorded(body: bytes) -> object:
        threads[len(body) > MEGABYTE].add(threading.current_thread().name)
        return parse(body)

    monkeypatch.setattr(bodies, "from_json", recorded)
    large = b'{"vector":[%s]}' % repeat(b"1.5", 2 * MEGABYTE)
    refused(http, SEARCH, large)
    assert http.post(SEARCH, json={"detection_id": "a-0"}).status_code == 200
    assert len(threads[True]) == len(threads[False]) == 1
    assert threads[True].isdisjoint(threads[False])


LARGE: dict[str, tuple[str, bytes]] = {
    "texts": (SEARCH, b'{"vector":[%s]}' % repeat(b'"a"', 20 * MEGABYTE - 20)),
    "numbers": (SEARCH, b'{"vector":[%s]}' % repeat(b"1.5", 20 * MEGABYTE - 20)),
    "lists": (SEARCH, b'{"vector":[%s]}' % repeat(b"[]", 20 * MEGABYTE - 20)),
    "base64": (BATCH, b'{"vectors":"%s"}' % (b"AACAPwAAgD8A" * (20 * MEGABYTE // 12 - 2))),
    "crops": (
        LINK,
        FRAME
        + b'"detections":[%s]}'
        % repeat(b'{"box":[1,2,3,4],"image":"%s"}' % (b"AAAA" * 5000), 19 * MEGABYTE),
    ),
}


@pytest.mark.parametrize("kind", LARGE)
def test_ten_large_bodies_at_once_take_bounded_memory(world: World, kind: str) -> None:
    path, body = LARGE[kind]
    command = ("-m", "onepass", "serve", str(world.index), "--port")
    with process(*command) as (child, http), ThreadPoolExecutor(10) as pool:
        image = (world.images / world.names[0]).read_bytes()
        assert (
            http.post("/v1/search/image", files={"image": image}).status_code == 200
        )  # loads torch
        idle = peak_mb(child.pid)

        def send(_: int) -> int:
            return http.post(path, content=body, headers=JSON).status_code

        assert set(pool.map(send, range(10))) <= {413, 422, 503}
        assert peak_mb(child.pid) - idle < IDLE_MB
