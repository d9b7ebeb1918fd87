"""A server compares the files of an index with their sha256, large vectors while it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.client import ServiceError
from api.service import watcher
from index.build.versions import rollback
from index.storage import check
from pipelines.run import Run
from tests.helpers.api.world import connected, error_of
from tests.integration.api.test_reload import build, runs

__all__ = ["runs"]


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_large_vectors_are_compared_while_they_are_served(
    runs: list[Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(check, "LATER_BYTES", 0)
    monkeypatch.setattr(watcher, "WATCH_SECONDS", 0.02)
    index = tmp_path / "index"
    build(runs[:1], index)
    go_on = threading.Event()
    compare_files = watcher.compare_files

    def when_told(*files: Any, **options: Any) -> None:
        assert go_on.wait(60)
        compare_files(*files, **options)

    monkeypatch.setattr(watcher, "compare_files", when_told)
    vectors = index / "segments" / "s0001-00" / "vectors.faiss"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with connected(index) as (http, client):
        assert client.index().integrity == "verifying"
        assert http.get("/readyz").status_code == 200
        go_on.set()
        wait_until(lambda: http.get("/readyz").status_code == 503)
        assert error_of(http.get("/v1/index"), 503)[0] == "index_damaged"
        lines = [record.getMessage() for record in caplog.records if record.name == "onepass.api"]
        assert f"v0001 is served no longer: {vectors} does not match its sha256" in lines[-1]
        with pytest.raises(ServiceError, match=r"vectors\.faiss does not match"):
            client.reload()
        vectors.write_bytes(whole)
        assert client.reload().reloaded is True
        assert client.index().integrity == "verified"
        build(runs, index)
        wait_until(lambda: client.index().version == "v0002")
        wait_until(lambda: client.index().integrity == "verified")


def test_another_version_replaces_one_that_turns_out_to_be_damaged(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "LATER_BYTES", 0)
    monkeypatch.setattr(watcher, "WATCH_SECONDS", 0.02)
    index = tmp_path / "index"
    build(runs[:1], index)
    build(runs, index)
    vectors = index / "segments" / "s0002-00" / "vectors.faiss"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with connected(index, ready=False) as (http, client):
        wait_until(lambda: "index_damaged" in http.get("/readyz").text)
        rollback(index)
        wait_until(lambda: http.get("/readyz").status_code == 200)
        assert client.index().version == "v0001"
