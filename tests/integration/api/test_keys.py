"""API keys: required under /v1 and nowhere else, never shown."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from api.client import Client, ServiceError
from api.http.keys import read_keys
from common.errors import InputError
from tests.helpers.api.world import World, error_of, serving


def test_v1_requires_a_valid_key(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the web page\nfirst-key\n\n  second-key  \n")
    file.chmod(0o600)
    with caplog.at_level(logging.DEBUG), serving(world.index, api_key_file=file) as http:
        url = str(http.base_url)
        for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert http.get(path).status_code == 200
        for path in ("/v1/index", "/v1/detections/a-0", "/v1/tracks", "/v1/nothing"):
            for headers in ({}, {"x-api-key": "guess"}, {"x-api-key": ""}, {"x-api-key": "é"}):
                sent = {name: value.encode("latin-1") for name, value in headers.items()}
                refused = http.get(path, headers=sent)
                assert error_of(refused, 401)[0] == "unauthorised"
                assert "X-API-Key" in refused.headers["www-authenticate"]
                assert "guess" not in refused.text
        assert error_of(http.post("/v1/index/reload"), 401)[0] == "unauthorised"
        for key in ("first-key", "second-key"):
            with Client(url, api_key=key) as client:
                assert client.search("a-0").hits
        for key in ("first-ke", "first-key2", "# of the web page"):
            with Client(url, api_key=key) as client, pytest.raises(ServiceError) as caught:
                client.search("a-0")
            assert (caught.value.status, caught.value.code) == (401, "unauthorised")
        assert 'onepass_rejected_requests_total{reason="key"} 20.0' in http.get("/metrics").text
    assert "first-key" not in caplog.text
    assert "guess" not in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "holds no key"), ("# none\n\n", "holds no key"), ("a\nb c\n", "line 2"), ("é", "line 1")],
)
def test_a_file_without_valid_keys_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(InputError, match=reason):
        read_keys(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "missing")


def test_a_file_readable_by_others_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("secret-0123456789abcdef\n")
    caplog.set_level(logging.WARNING, "onepass.api")  # whatever level other tests set
    for mode, warnings in ((0o600, 0), (0o644, 1)):
        caplog.clear()
        file.chmod(mode)
        assert list(read_keys(file)) == [b"secret-0123456789abcdef"]
        assert len(caplog.records) == warnings
    assert "chmod 600" in caplog.text
    assert "secret" not in caplog.text
