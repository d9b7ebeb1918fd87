"""The process: it logs, stops on signals, and refuses what it cannot serve."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.config import ServeConfig
from api.server import serve
from common.errors import InputError, SnapshotError
from tests.helpers.api.world import World, error_of, free_port, process

# A search with exact=true takes two seconds, long enough to get a signal meanwhile.
SLOW = """
import sys, time
from api.config import ServeConfig
from api.server import serve
from index.search.snapshot import Snapshot
search = Snapshot.search
def slowly(self, vectors, k, **options):
    time.sleep(2 * options.get("exact", False))
    return search(self, vectors, k, **options)
Snapshot.search = slowly
serve(ServeConfig(index=sys.argv[1], port=int(sys.argv[2])))
"""


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """``serve`` configures the logging of its process, which here is that of the tests."""
    names = (None, "onepass", "uvicorn")
    before = [(logger := logging.getLogger(name), logger.level, logger.handlers) for name in names]
    yield
    logging.captureWarnings(False)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


def test_sigterm_finishes_requests_under_way(world: World) -> None:
    with process("-c", SLOW, str(world.index)) as (child, http):
        answers: list[httpx.Response] = []
        body = {"detection_id": "a-0", "exact": True}

        def search() -> None:
            # The last one is sent shortly before the listener closes, and answered after that.
            with httpx.Client(base_url=http.base_url, timeout=60) as client:
                answers.append(client.post("/v1/search", json=body))

        first, last = threading.Thread(target=search), threading.Thread(target=search)
        first.start()
        time.sleep(0.3)
        os.kill(child.pid, signal.SIGTERM)
        stopped_at = time.monotonic()
        while http.get("/readyz").status_code == 200:  # not ready first ...
            assert time.monotonic() - stopped_at < 1
        assert error_of(http.get("/readyz"), 503)[0] == "stopping"
        assert http.get("/v1/detections/a-0").status_code == 200  # ... but still answering
        time.sleep(max(0.0, stopped_at + 1.5 - time.monotonic()))
        last.start()
        first.join()
        last.join()
        _, log = child.communicate(timeout=30)
        assert [answer.status_code for answer in answers] == [200, 200]
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{http.base_url}/livez")
    assert child.returncode in (0, -signal.SIGTERM)
    # Every line is JSON, also those of uvicorn; the access log has every request once.
    lines = [json.loads(line) for line in log.splitlines()]
    assert "Application shutdown complete." in [line["message"] for line in lines]
    assert [line for line in lines if "traceback" in line] == []
    searches = [line for line in lines if line.get("route") == "/v1/search"]
    assert [(line["status"], line["ms"] > 1900) for line in searches] == [(200, True)] * 2


def test_the_command_serves_with_keys(world: World, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-secret\n")
    names = ("--allowed-host", "moths.example.org", "--allowed-host", "moths")
    command = ("-m", "onepass", "serve", str(world.index), "--api-key-file", str(keys), *names)
    with process(*command, "--port") as (child, http):
        for name, status in (("moths", 200), ("moths.example.org:443", 200), ("other", 400)):
            assert http.get("/livez", headers={"host": name}).status_code == status
        port = http.base_url.port
        assert error_of(http.get("/v1/index"), 401)[0] == "unauthorised"
        assert http.get("/v1/index", headers={"x-api-key": "a-secret"}).status_code == 200
        with pytest.raises(InputError, match=f"127.0.0.1:{port}"):
            serve(ServeConfig(index=world.index, port=port))
        child.send_signal(signal.SIGINT)  # Ctrl-C does not wait
        _, log = child.communicate(timeout=30)
    assert "a-secret" not in log
    assert "chmod 600" in log
    assert "Traceback" not in log


def test_serving_no_index_ends_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="nothing-here"):
        serve(ServeConfig(index=tmp_path / "nothing-here", port=free_port()))
