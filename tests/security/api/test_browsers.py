"""What a page of another site can make a browser do with the service."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from tests.helpers.api.world import JSON, World, error_of, frame_body, serving

PROXY = "onepass.example.org"
FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},  # another port is another site
    {"origin": f"https://{PROXY}.evil.example"},
    {"origin": f"https://{PROXY}:1"},
    {"origin": f"https://evil.example/{PROXY}"},
    {"origin": "http://localhost.evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
]


@pytest.fixture(scope="module")
def http(world: World) -> Iterator[httpx.Client]:
    with serving(world.index, allowed_host=(PROXY,)) as http:
        yield http


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("path", ["/v1/link", "/v1/index/reload", "/v1/search", "/v1/detections"])
def test_pages_of_other_sites_cannot_send(
    http: httpx.Client, headers: dict[str, str], path: str
) -> None:
    sequence = uuid4().hex
    response = http.post(path, json=frame_body(sequence=sequence), headers=headers)
    assert error_of(response, 403)[0] == "cross_site"
    assert http.get(f"/v1/link/{sequence}").status_code == 404


def test_the_own_page_and_programs_can_send(http: httpx.Client) -> None:
    own = f"http://127.0.0.1:{http.base_url.port}"
    for headers in (
        {},
        {"origin": own},
        {"origin": own, "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"origin": f"https://{PROXY}", "host": PROXY},
        {"origin": f"https://{PROXY}"},  # the proxy sends another Host
    ):
        assert http.post("/v1/search", json={"detection_id": "a-0"}, headers=headers).is_success


def test_other_sites_may_link_to_the_page(http: httpx.Client) -> None:
    assert http.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["text/plain;x=json", "text/plain; application/json", "json", "application/jsonp", "text/json",
     "multipart/form-data; boundary=json", "application/x-www-form-urlencoded; a=json", ""],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/link", "/v1/search", "/v1/search/batch", "/v1/detections"])
def test_only_json_is_read_as_json(http: httpx.Client, content_type: str, path: str) -> None:
    response = http.post(path, content=b"{}", headers={"content-type": content_type})
    assert "application/json" in error_of(response, 422)[1]


def test_json_is_read_as_json(http: httpx.Client) -> None:
    for name in ("application/json", "Application/JSON; charset=utf-8", "application/x+json"):
        body = b'{"detection_id": "a-0"}'
        response = http.post("/v1/search", content=body, headers={"content-type": name})
        assert response.status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "",
     "127.1", "localhost@evil.example", "[::1].evil.example", "localhost:8000:80", "0x7f000001",
     f"{PROXY}.evil.example"],
)  # fmt: skip
def test_other_names_are_not_answered(http: httpx.Client, host: str) -> None:
    for path in (
        "/",
        "/v1/index",
        "/docs",
        "/openapi.json",
        "/page/main.js",
        "/metrics",
        "/nothing",
    ):
        assert error_of(http.get(path, headers={"host": host}), 400)[0] == "unknown_host"
    response = http.post("/v1/search", json={"detection_id": "a-0"}, headers={"host": host})
    assert error_of(response, 400)[0] == "unknown_host"


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1", "[::1]:8000", "10.1.2.3:80",
     socket.gethostname(), PROXY, f"{PROXY}:443"],
)  # fmt: skip
def test_own_names_are_answered(http: httpx.Client, host: str) -> None:
    assert http.get("/v1/index", headers={"host": host}).status_code == 200


def test_every_answer_has_headers_that_restrict_browsers(http: httpx.Client) -> None:
    answers = [
        http.get(path)
        for path in ("/", "/docs", "/openapi.json", "/page/main.js", "/page/nothing.js", "/livez",
                     "/metrics", "/v1/index", "/v1/detections/a-0", "/v1/detections/a-0/image",
                     "/v1/detections/none", "/nothing")
    ]  # fmt: skip
    answers += [
        http.get("/", headers={"host": "evil.example"}),
        http.post("/v1/search", json={"detection_id": "a-0"}),
        http.post("/v1/search", json={}, headers={"origin": "null"}),
        http.post("/v1/search", content=b"{", headers=JSON),
        http.put("/v1/search"),
        http.options("/v1/search"),
        http.head("/"),
    ]
    assert {answer.status_code for answer in answers} >= {200, 400, 403, 404, 405, 422}
    for answer in answers:
        headers = answer.headers
        assert headers.get_list("x-content-type-options") == ["nosniff"]
        assert headers.get_list("x-frame-options") == ["DENY"]
        assert headers.get_list("cross-origin-resource-policy") == ["same-origin"]
        assert headers.get_list("referrer-policy") == ["no-referrer"]
        (policy,) = headers.get_list("content-security-policy")
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "access-control-allow-origin" not in headers


def test_the_documentation_is_this_servers_own(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert "text/html" in page.headers["content-type"]
    assert "script-src 'self'" in page.headers["content-security-policy"]
    sources = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert "page/docs.js" in sources
    assert not [source for source in sources if "//" in source]
    assert re.search(r"<script(?![^>]* src=)", page.text) is None
    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert http.get(path).status_code == 404
