"""The process: it logs, it is told to stop, it refuses what it cannot serve."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api.server import serve
from common.errors import InputError, SnapshotError
from tests.integration.api.world import World, error_of, wait_until_ready

# A search with exact=true takes two seconds, long enough to be told to stop meanwhile.
SLOW = """
import sys, time
from pathlib import Path
from api.server import serve
from index.search.snapshot import Snapshot
really = Snapshot.search
def slowly(self, vectors, k, **wishes):
    time.sleep(2 * wishes.get("exact", False))
    return really(self, vectors, k, **wishes)
Snapshot.search = slowly
serve(Path(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """``serve`` sets up the logging of its process, which here is the tests'."""
    names = (None, "onepass", "uvicorn")
    before = [(logger := logging.getLogger(name), logger.level, logger.handlers) for name in names]
    yield
    logging.captureWarnings(False)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


@contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A server of its own; the last word of its command is left for the port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, "-W", "error", *command, str(port)], stderr=subprocess.PIPE, text=True
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            wait_until_ready(http)
            yield child, http
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate(timeout=30)


def test_told_to_stop_it_ends_what_is_under_way(world: World) -> None:
    with process("-c", SLOW, str(world.index)) as (child, http):
        answers: list[httpx.Response] = []
        body = {"detection_id": "a-0", "exact": True}

        def ask() -> None:
            # Sent shortly before the end, so that it is answered after the listener has closed.
            with httpx.Client(base_url=http.base_url, timeout=60) as own:
                answers.append(own.post("/v1/search", json=body))

        first, last = threading.Thread(target=ask), threading.Thread(target=ask)
        first.start()
        time.sleep(0.3)
        os.kill(child.pid, signal.SIGTERM)
        told_at = time.monotonic()
        while http.get("/readyz").status_code == 200:  # not ready first ...
            assert time.monotonic() - told_at < 1
        assert error_of(http.get("/readyz"), 503)[0] == "stopping"
        assert http.get("/v1/detections/a-0").status_code == 200  # ... but still answering
        time.sleep(max(0.0, told_at + 1.5 - time.monotonic()))
        last.start()
        first.join()
        last.join()
        _, log = child.communicate(timeout=30)
        assert [answer.status_code for answer in answers] == [200, 200]
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{http.base_url}/livez")
    assert child.returncode in (0, -signal.SIGTERM)
    # Every line is JSON, uvicorn's as well; the access log has every request once.
    lines = [json.loads(line) for line in log.splitlines()]
    assert "Application shutdown complete." in [line["message"] for line in lines]
    assert [line for line in lines if "traceback" in line] == []
    searches = [line for line in lines if line.get("route") == "/v1/search"]
    assert [(line["status"], line["ms"] > 1900) for line in searches] == [(200, True)] * 2


def test_the_command_serves_with_keys(world: World, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-secret\n")
    command = ("-m", "onepass", "serve", str(world.index), "--api-key-file", str(keys), "--port")
    with process(*command) as (child, http):
        port = http.base_url.port
        assert error_of(http.get("/v1/index"), 401)[0] == "unauthorised"
        assert http.get("/v1/index", headers={"x-api-key": "a-secret"}).status_code == 200
        with pytest.raises(InputError, match=f"127.0.0.1:{port}.*--port"):
            serve(world.index, host="127.0.0.1", port=port or 0)
        child.send_signal(signal.SIGINT)  # Ctrl-C does not wait
        _, log = child.communicate(timeout=30)
    assert "a-secret" not in log
    assert "chmod 600" in log
    assert "Traceback" not in log


def test_serving_no_index_ends_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="nothing-here"):
        serve(tmp_path / "nothing-here", host="127.0.0.1", port=0)
