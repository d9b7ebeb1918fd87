"""Keys: what each may do, how they change, how often one may be guessed, and where none is a fault."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter

from api.app import create_app
from api.client import Client, ServiceError
from api.config import Limits, ServeConfig
from api.http import keys
from api.http.keys import KeyFile, read_keys
from api.http.rights import RIGHTS, SCHEME
from api.http.routing import DirectRoute, StrictRoute
from common.errors import InputError
from common.json_models import configure
from tests.helpers.api import attacks
from tests.helpers.api.attacks import connect
from tests.helpers.api.world import World, error_of, frame_body, serving

ALL = frozenset(RIGHTS)
SEARCH, LINK, ADMIN, OLD = (f"{name}-0123456789abcdef" for name in ("search", "link", "admin", "o"))
# Every other route needs "search".
NEEDED = {
    ("post", "/v1/link"): "link",
    ("get", "/v1/link/{sequence}"): "link",
    ("delete", "/v1/link/{sequence}"): "link",
    ("post", "/v1/index/reload"): "admin",
}


@pytest.fixture(autouse=True)
def _frequent_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(keys, "CHECK_SECONDS", 0.05)
    yield
    attacks.close_all()


def write(file: Path, text: str | bytes) -> Path:
    """A file of keys, which takes the place of another as a whole."""
    draft = file.with_suffix(".new")
    draft.write_bytes(text if isinstance(text, bytes) else text.encode())
    draft.chmod(0o600)
    draft.replace(file)
    return file


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return write(
        tmp_path / "keys", f"# a comment\n{SEARCH} search\n{LINK}  link\n{ADMIN}\tadmin\n{OLD}\n"
    )


@pytest.fixture
def http(world: World, key_file: Path) -> Iterator[httpx.Client]:
    with serving(world.index, api_key_file=key_file) as http:
        yield http


def operations() -> list[tuple[str, str, dict[str, object]]]:
    paths = create_app(ServeConfig(index="index")).openapi()["paths"]
    return [
        (method, path, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if path.startswith("/v1/")
    ]


@pytest.mark.parametrize(("method", "path", "operation"), operations())
def test_every_route_has_a_right_and_asks_for_it(
    http: httpx.Client, method: str, path: str, operation: dict[str, object]
) -> None:
    right = NEEDED.get((method, path), "search")
    assert operation["security"] == [{SCHEME: [right]}]
    responses = operation["responses"]
    assert isinstance(responses, dict)
    assert {"401", "403", "429", "431", "503"} <= set(responses)
    url = (
        path.replace("{detection_id}", "a-0").replace("{track_id}", "x").replace("{sequence}", "x")
    )
    for key, rights in ((SEARCH, {"search"}), (LINK, {"link"}), (ADMIN, {"admin"}), (OLD, ALL)):
        answer = http.request(method, url, headers={"x-api-key": key})
        assert (answer.status_code == 403) is (right not in rights), answer.text
        if right not in rights:
            code, message = error_of(answer, 403)
            assert code == "forbidden"
            assert right in message
            assert key not in message


@pytest.mark.parametrize("route_class", [StrictRoute, DirectRoute])
def test_a_route_without_a_right_is_not_made(route_class: type[StrictRoute]) -> None:
    router = APIRouter(prefix="/v1/new", route_class=route_class)
    with pytest.raises(TypeError, match="right"):
        router.get("")(lambda: None)


def test_a_right_is_checked_before_the_body_is_read(http: httpx.Client) -> None:
    assert http.base_url.port is not None
    client = connect(http.base_url.port)
    parts = attacks.stalled_body("/v1/link", 1000, f"X-API-Key: {SEARCH}")()
    client.sendall(b"".join(parts))
    assert client.recv(100).startswith(b"HTTP/1.1 403 ")


def test_the_client_says_what_is_missing(http: httpx.Client) -> None:
    with Client(str(http.base_url), api_key=SEARCH) as client:
        assert client.search("a-0").hits
        with pytest.raises(ServiceError) as refused:
            client.reload()
    assert (refused.value.status, refused.value.code) == (403, "forbidden")
    with Client(str(http.base_url), api_key=LINK) as client, pytest.raises(ServiceError) as refused:
        client.search("a-0")
    assert (refused.value.status, refused.value.code) == (403, "forbidden")
    body = frame_body()
    assert http.post("/v1/link", json=body, headers={"x-api-key": LINK}).status_code == 200
    assert http.post("/v1/link", json=body, headers={"x-api-key": SEARCH}).status_code == 403


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"key-1\nkey-2\n", {b"key-1": ALL, b"key-2": ALL}),
        (b"\xef\xbb\xbfkey-1\r\nkey-2 search\r\n", {b"key-1": ALL, b"key-2": {"search"}}),
        (b"\xef\xbb\xbf# made by Notepad\r\nkey-1", {b"key-1": ALL}),
        (
            b"key-1 search link\nkey-2\tadmin \n",
            {b"key-1": {"search", "link"}, b"key-2": {"admin"}},
        ),
        (b"key-1\n\n  key-1\n", {b"key-1": ALL}),
    ],
)
def test_files_of_keys_are_read(tmp_path: Path, text: bytes, expected: dict[bytes, set]) -> None:
    assert read_keys(write(tmp_path / "keys", text)) == expected


@pytest.mark.parametrize(
    "text",
    [b"key read", b"key search,link", b"key Search", b"key admin\nkey search", b"# only\n", b"",
     "\ufeffkey".encode("utf-16-le"), b"\xffkey", b"\xef\xbb\xbf"],
)  # fmt: skip
def test_files_that_are_not_clear_are_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(InputError):
        read_keys(write(tmp_path / "keys", text))


def test_a_short_key_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "onepass.api")
    read_keys(write(tmp_path / "keys", f"{SEARCH}\nsecret search\n"))
    (record,) = caplog.records
    assert "line 2" in record.getMessage()
    assert "secret" not in record.getMessage()


def status(http: httpx.Client, key: str) -> int:
    return http.get("/v1/index", headers={"x-api-key": key}).status_code


def becomes(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def test_keys_change_while_the_server_runs(http: httpx.Client, key_file: Path) -> None:
    assert status(http, OLD) == 200
    write(key_file, f"{SEARCH} search\nnew-0123456789abcdef\n")
    becomes(lambda: status(http, "new-0123456789abcdef") == 200)
    assert status(http, OLD) == 401
    write(key_file, f"{SEARCH} link\n")  # a right that is taken away
    becomes(lambda: status(http, SEARCH) == 403)
    key_file.write_text(f"{OLD}\n")  # in place
    becomes(lambda: status(http, OLD) == 200)
    assert status(http, SEARCH) == 401


def test_keys_in_a_mounted_secret_change(world: World, tmp_path: Path) -> None:
    """As Kubernetes does it: a link to a folder is exchanged."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "keys", f"{name}-0123456789abcdef\n")
    (tmp_path / "data").symlink_to("one")
    with serving(world.index, api_key_file=tmp_path / "data" / "keys") as http:
        assert status(http, "one-0123456789abcdef") == 200
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").replace(tmp_path / "data")
        becomes(lambda: status(http, "two-0123456789abcdef") == 200)
        assert status(http, "one-0123456789abcdef") == 401


@pytest.mark.parametrize("text", [b"", b"key read\n", None])
def test_a_file_that_is_not_valid_leaves_the_keys(
    http: httpx.Client, key_file: Path, text: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    if text is None:
        key_file.unlink()
    else:
        write(key_file, text)
    becomes(lambda: status(http, OLD) == 200 and "stay valid" in caplog.text)
    write(key_file, f"{SEARCH}\n")
    becomes(lambda: status(http, OLD) == 401)
    assert status(http, SEARCH) == 200


def test_a_file_that_is_being_written_is_not_taken(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", f"{OLD}\n")
    held = KeyFile(file)
    for number in range(5):
        file.write_text(OLD[: number + 3])
        os.utime(file, ns=(number, number))
        time.sleep(0.06)
        assert held.rights_of(OLD.encode()) == ALL
        assert held.rights_of(OLD[: number + 3].encode()) is None


def test_a_process_that_does_not_see_the_file_keeps_its_keys(tmp_path: Path) -> None:
    held = KeyFile(tmp_path / "of another node", {OLD.encode(): ALL})
    time.sleep(0.06)
    assert held.rights_of(OLD.encode()) == ALL


def test_wrong_keys_are_bounded_and_right_ones_are_not(world: World, key_file: Path) -> None:
    limits = Limits(wrong_keys=5)
    with serving(world.index, api_key_file=key_file, limits=limits) as http:
        statuses = [status(http, f"wrong-{number}") for number in range(12)]
        assert statuses == [401] * 5 + [429] * 7
        refused = http.get("/v1/index", headers={"x-api-key": "wrong"})
        assert error_of(refused, 429)[0] == "too_many_wrong_keys"
        assert 0 < int(refused.headers["retry-after"]) <= 61
        assert http.get("/v1/index").status_code == 401  # no key is no guess
        assert status(http, OLD) == 200
        assert 'rejected_requests_total{reason="keys"} 8.0' in http.get("/metrics").text
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(base_url=http.base_url, transport=transport) as neighbour:
            assert status(neighbour, "wrong") == 401


def test_wrong_keys_are_forgotten(
    world: World, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_WINDOW_SECONDS", 1.0)
    limits = Limits(wrong_keys=1)
    with serving(world.index, api_key_file=key_file, limits=limits) as http:
        becomes(lambda: status(http, "wrong") == 429)
        time.sleep(1.1)
        assert status(http, "wrong") == 401


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.168.1.5", "moths.example.org"],  # noqa: S104
)
def test_other_machines_need_a_key(host: str, key_file: Path) -> None:
    with pytest.raises(InputError, match="insecure"):
        configure(ServeConfig, index="index", host=host)
    assert configure(ServeConfig, index="index", host=host, api_key_file=key_file).host == host
    assert configure(ServeConfig, index="index", host=host, insecure=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert not configure(ServeConfig, index="index", host=host).insecure


def test_the_document_names_rights_that_there_are() -> None:
    document = json.dumps(create_app(ServeConfig(index="index")).openapi())
    for right in RIGHTS:
        assert f'"{SCHEME}": ["{right}"]' in document
