"""Log lines, request ids and metrics: what an operator sees of a request."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from api.http.logs import JsonLines, PlainLines
from api.service.served_index import ServedIndex
from tests.helpers.api.world import ODD_ID, World, detection_url, error_of, serving


def lines(caplog: pytest.LogCaptureFixture, logger: str) -> list[dict[str, object]]:
    """Records of one logger as the JSON they are written as."""
    form = JsonLines()
    return [json.loads(form.format(record)) for record in caplog.records if record.name == logger]


def test_every_request_is_one_line(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "onepass.api.access"), serving(world.index) as http:
        caplog.clear()
        name = {"x-request-id": "job-1"}
        http.get(detection_url(ODD_ID) + "/neighbours?k=3", headers=name)
        http.post("/v1/search", json={"detection_id": "nobody"}, headers=name)
        http.get("/wp-login.php", headers=name)
        http.get("/livez")
    # A line is written once its answer is out, so those of the probe before may come late.
    written = lines(caplog, "onepass.api.access")
    requests = [line for line in written if line["route"] != "/readyz"]
    assert [
        tuple(line[name] for name in ("method", "route", "status", "snapshot")) for line in requests
    ] == [
        ("GET", "/v1/detections/{detection_id}/neighbours", 200, "v0001"),
        ("POST", "/v1/search", 404, "v0001"),
        ("GET", "-", 404, None),
        ("GET", "/livez", 200, None),
    ]
    for line in requests:
        assert set(line) == {
            *("time", "level", "logger", "message"),
            *("request_id", "method", "route", "status", "ms", "snapshot"),
        }
        assert line["level"] == "info"
        assert isinstance(line["ms"], float)
        assert 0 < line["ms"] < 60_000
    assert [line["request_id"] for line in requests[:3]] == ["job-1"] * 3


def test_an_unexpected_error_is_logged_and_not_shown(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/folder")

    with caplog.at_level(logging.ERROR), serving(world.index) as http:
        monkeypatch.setattr(ServedIndex, "row_of", broken)
        response = http.get("/v1/detections/a-0")
    assert error_of(response, 500)[0] == "internal"
    assert "secret" not in response.text
    (line,) = lines(caplog, "onepass.api")
    assert (line["level"], line["request_id"]) == ("error", response.headers["x-request-id"])
    assert "RuntimeError: /secret/folder" in str(line["traceback"])
    # A probe while the index was being opened was a 503, which is logged as an error as well.
    written = lines(caplog, "onepass.api.access")
    (access,) = [line for line in written if line["route"] != "/readyz"]
    assert (access["level"], access["status"]) == ("error", 500)


def test_metrics_count_by_route_and_not_by_id(world: World) -> None:
    with serving(world.index) as http, serving(world.index) as other:
        for row in range(6, 10):
            http.get(f"/v1/detections/a-{row}")
        http.get("/v1/detections/nobody")
        http.get("/wp-login.php")
        http.request("BREW", "/v1/index")
        text = http.get("/metrics").text
        route = 'method="GET",route="/v1/detections/{detection_id}"'
        assert f'onepass_request_seconds_count{{{route},status="200"}} 4.0' in text
        assert f'onepass_request_seconds_count{{{route},status="404"}} 1.0' in text
        assert "wp-login" not in text
        assert "BREW" not in text
        assert 'onepass_snapshot_info{version="v0001"} 1.0' in text
        assert f"onepass_rows {float(len(world.all_ids))}" in text
        assert "onepass_queue_depth 0.0" in text
        assert "process_resident_memory_bytes" in text
        assert http.get("/metrics").headers["content-type"].startswith("text/plain")
        # Each application counts for itself.
        assert "/v1/detections/{detection_id}" not in other.get("/metrics").text


def test_plain_lines_have_the_fields() -> None:
    record = logging.LogRecord("onepass.api", logging.INFO, __file__, 1, "a %s", ("word",), None)
    record.fields = {"status": 200, "snapshot": None}
    assert PlainLines().format(record) == "INFO: a word status=200"
    try:
        raise ValueError("line one\nline two")
    except ValueError:
        record.exc_info = sys.exc_info()
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "line one\nline two" in json.loads(line)["traceback"]
