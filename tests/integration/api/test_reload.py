"""Another snapshot replaces the one being served, and no request notices."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from api.app import create_app
from api.client import Client, ServiceError
from api.config import ServeConfig
from api.service import watcher
from api.service.served_index import ServedIndex
from common.errors import OnepassError, SnapshotError
from common.refusals import access_error
from index.build.update import delete_rows
from index.build.version import build_index
from index.build.versions import prune
from index.config import IndexConfig
from index.search.filters import Filter
from index.search.snapshot import Hits, Snapshot, current_version
from index.storage.layout import read_manifest
from pipelines.run import Run
from tests.helpers.api.world import World, connected, error_of, process, serving, wait_until_ready
from tests.helpers.runs import write_run
from tracks.association.options import LinkOptions
from tracks.link import link_run

DIM = 8


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Two runs of one model; ids of the second start with ``new``."""
    runs = []
    for number, name in enumerate(("old", "new")):
        vectors = np.random.default_rng(number).normal(size=(40, DIM)).astype(np.float32)
        plan = {
            "image": [f"{row}.jpg" for row in range(40)],
            "detection_id": [f"{name}-{row}" for row in range(40)],
        }
        runs.append(write_run(tmp_path / name, plan, vectors))
    return runs


def build(runs: list[Run], out: Path) -> str:
    return build_index([run.path for run in runs], out).manifest.version


def damage(index: Path, version: str) -> None:
    """Make a version with truncated vectors the current one."""
    segment = f"s{version[1:]}-00"
    shutil.copytree(index / "segments" / "s0001-00", index / "segments" / segment)
    with (index / "segments" / segment / "vectors.faiss").open("r+b") as vectors:
        vectors.truncate(100)
    text = (index / "v0001" / "manifest.json").read_text()
    manifest = json.loads(text.replace("v0001", version).replace("s0001-00", segment))
    del manifest["sha256"]
    (index / version).mkdir()
    (index / version / "manifest.json").write_text(json.dumps(manifest))
    (index / "CURRENT").write_text(f"{version}\n")


def test_a_reload_serves_what_current_names(runs: list[Run], tmp_path: Path) -> None:
    index = tmp_path / "index"
    build(runs[:1], index)
    with connected(index) as (http, client):
        since = client.index().since
        assert build(runs, index) == "v0002"
        done = client.reload()
        assert (done.version, done.before) in (("v0002", "v0001"), ("v0002", "v0002"))
        served = client.index()
        assert (served.version, served.rows, served.versions) == ("v0002", 80, ["v0001", "v0002"])
        assert served.since > since
        assert client.search("new-3", 2).snapshot == "v0002"
        (index / "CURRENT").write_text("v0001\n")  # as rolling back does
        client.reload()
        assert client.search("old-3", 2).snapshot == "v0001"
        text = http.get("/metrics").text
        assert 'onepass_snapshot_info{version="v0001"} 1.0' in text
        assert "onepass_rows 40.0" in text
        assert "onepass_reloads_total 2.0" in text


def test_a_new_version_is_served_without_a_reload(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "WATCH_SECONDS", 0.02)
    index = tmp_path / "index"
    build(runs[:1], index)
    with connected(index) as (_, client):
        build(runs, index)
        while client.index().version != "v0002":
            time.sleep(0.01)
        assert client.detection("new-0").detection_id == "new-0"


def held_files(pid: int, folder: Path) -> set[str]:
    """Files below ``folder`` that a process has mapped or open; removed ones end in (deleted)."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    names = {line.split(maxsplit=5)[5] for line in lines if str(folder) in line}
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.add(str(handle.readlink()))
    return {name for name in names if name.startswith(f"{folder}/")}


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF4,SQ8"])
def test_replaced_versions_are_let_go(runs: list[Run], tmp_path: Path, factory: str) -> None:
    index = tmp_path / "index"
    config = IndexConfig(factory=factory)
    paths = [run.path for run in runs]
    build_index(paths, index, config)
    with process("-m", "onepass", "serve", str(index), "--port") as (child, http):
        for turn in range(6):
            build_index(paths, index, config)
            http.post("/v1/index/reload").raise_for_status()
            http.post("/v1/search", json={"detection_id": "new-1"}).raise_for_status()
            delete_rows(index, Filter(f"detection_id = 'old-{turn}'"))
            http.post("/v1/index/reload").raise_for_status()
            use_every_way(http)
        assert http.get("/v1/index").json()["version"] == "v0013"
        prune(index, 1)
        parts = {f"{index}/segments/{entry.name}" for entry in read_manifest(index).segments}
        deadline = time.monotonic() + 30
        while {name.rpartition("/")[0] for name in held_files(child.pid, index)} != parts:
            assert time.monotonic() < deadline, held_files(child.pid, index)
            time.sleep(0.1)
        child.terminate()
        child.communicate(timeout=30)


def use_every_way(http: httpx.Client) -> None:
    """Requests of every kind, answered and refused, each of which uses the snapshot."""
    search: dict[str, Any] = {"detection_id": "new-1", "k": 3}
    for more in (
        {},
        {"filter": "row_id > 3"},
        {"exact": True},
        {"filter": "nonsense("},
        {"detection_id": "nothing"},
    ):
        http.post("/v1/search", json=search | more)
    http.post("/v1/search", json={"vector": [0.0] * DIM})
    http.post("/v1/search/image", files={"image": b"no image"})
    for url in (
        "detections/new-1",
        "detections/nothing",
        "detections/new-1/crop",
        "detections/new-1/track",
        "detections?limit=3&filter=row_id%20%3E%203",
        "detections?filter=nonsense(",
        "index/facets?column=label",
        "tracks",
    ):
        http.get(f"/v1/{url}")


def test_a_replica_starts_with_its_index_open(runs: list[Run], tmp_path: Path) -> None:
    index = tmp_path / "index"
    build(runs[:1], index)

    def slowly(folder: Path, **options: Any) -> Snapshot:
        time.sleep(0.5)
        return Snapshot.open(folder, **options)

    app = create_app(ServeConfig(index=index), open_snapshot=slowly, startup_wait_s=60.0)
    with serving(app, ready=False) as http:
        while True:
            try:
                assert http.get("/readyz").status_code == 200, "answered before it was ready"
                break
            except httpx.ConnectError:
                time.sleep(0.01)


def test_a_request_under_way_keeps_its_snapshot(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    build(runs[:1], index)
    started, proceed = threading.Event(), threading.Event()
    original = Snapshot.search

    def slowly(self: Snapshot, vectors: np.ndarray, k: int, **options: Any) -> Hits:
        if options.get("exact"):
            started.set()
            assert proceed.wait(60)
        return original(self, vectors, k, **options)

    monkeypatch.setattr(Snapshot, "search", slowly)
    with connected(index) as (_, client):
        snapshots: list[str] = []
        thread = threading.Thread(
            target=lambda: snapshots.append(client.search("old-1", exact=True).snapshot)
        )
        thread.start()
        assert started.wait(60)
        build(runs, index)
        client.reload()
        assert client.index().version == "v0002"
        proceed.set()
        thread.join()
        assert snapshots == ["v0001"]
        assert client.search("old-1").snapshot == "v0002"


def test_no_request_fails_while_versions_change(runs: list[Run], tmp_path: Path) -> None:
    index = tmp_path / "index"
    build(runs[:1], index)
    build(runs, index)
    stop = threading.Event()
    served_versions: list[set[str]] = []
    wrong: list[str] = []

    def search(url: str) -> None:
        versions = set()
        with Client(url) as client:
            while not stop.is_set():
                answer = client.search("old-5", 60)
                versions.add(answer.snapshot)
                # 39 others in the first version, 79 in the second: an answer is of one of them.
                if len(answer.hits) != {"v0001": 39, "v0002": 60}[answer.snapshot]:
                    wrong.append(f"{answer.snapshot}: {len(answer.hits)}")
        served_versions.append(versions)

    with connected(index) as (http, client):
        threads = [threading.Thread(target=search, args=(str(http.base_url),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(20):
            (index / "CURRENT").write_text(f"v000{turn % 2 + 1}\n")
            assert client.reload().version == f"v000{turn % 2 + 1}"
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(served_versions) == 4  # no thread ended with an error
    assert set().union(*served_versions) == {"v0001", "v0002"}


@pytest.mark.parametrize("damaged", ["truncated", "missing", "nonsense"])
def test_a_version_that_does_not_open_changes_nothing(
    runs: list[Run], tmp_path: Path, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index"
    build(runs[:1], index)
    with connected(index) as (http, client):
        if damaged == "truncated":
            damage(index, "v0002")
        else:
            (index / "CURRENT").write_text(
                {"missing": "v0007\n", "nonsense": "../../etc\n"}[damaged]
            )
        with pytest.raises(ServiceError) as caught:
            client.reload()
        assert (caught.value.status, caught.value.code) == (503, "reload_failed")
        assert {"truncated": "s0002-00/", "missing": "v0007", "nonsense": "no version"}[
            damaged
        ] in caught.value.message
        assert str(tmp_path) not in caught.value.message
        assert any(str(tmp_path) in record.getMessage() for record in caplog.records)
        assert client.search("old-3").snapshot == "v0001"
        assert http.get("/readyz").status_code == 200
        text = http.get("/metrics").text
        assert "onepass_failed_reloads_total 0.0" not in text
        assert "onepass_reloads_total 0.0" in text
        (index / "CURRENT").write_text("v0001\n")
        assert client.reload().reloaded is False


def test_a_server_that_is_short_of_handles_goes_on_and_tries_again(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(watcher, "RETRY_SECONDS", 0.1)
    refused = {"current": 0, "open": 0}
    too_many = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    index = tmp_path / "index"
    build(runs[:1], index)

    def open_snapshot(folder: Path, **options: Any) -> Snapshot:
        snapshot = Snapshot.open(folder, **options)
        if snapshot.manifest.version == "v0002" and refused["open"] < 2:
            refused["open"] += 1
            raise access_error(folder, errno.EMFILE)
        return snapshot

    def current(folder: Path) -> str | None:
        version = current_version(folder)
        if version == "v0002" and refused["current"] < 2:
            refused["current"] += 1
            raise too_many
        return version

    monkeypatch.setattr(watcher, "current_version", current)
    app = create_app(ServeConfig(index=index), open_snapshot=open_snapshot)
    with connected(app) as (_, client):
        build(runs, index)
        deadline = time.monotonic() + 60
        while client.index().version != "v0002":
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert refused == {"current": 2, "open": 2}


def test_a_version_without_its_first_rows_is_served(runs: list[Run], tmp_path: Path) -> None:
    index = tmp_path / "index"
    build(runs[:1], index)
    with connected(index) as (_, client):
        deleted = [hit.detection_id for hit in client.search("old-7", 39).hits][:38]
        delete_rows(index, Filter(ids=frozenset(deleted)))
        assert client.reload().version == "v0002"
        answer = client.search("old-7", 39)
        assert (answer.snapshot, len(answer.hits)) == ("v0002", 1)
        assert answer.hits[0].detection_id not in deleted
        with pytest.raises(ServiceError) as caught:
            client.search(deleted[0])
        assert caught.value.code == "detection_not_found"


def test_loaded_tracks_are_loaded_for_the_next_snapshot(runs: list[Run], tmp_path: Path) -> None:
    equal = LinkOptions(feature_weight=1, iou_weight=1, area_weight=1, distance_weight=1)
    link_run(runs[0].path, options=equal)
    index = tmp_path / "index"
    build(runs[:1], index)
    before = ServedIndex.open(Snapshot.open(index))
    before.tracks()
    build(runs, index)
    after = ServedIndex.open(Snapshot.open(index), before=before)
    assert after.version == "v0002"
    assert after._tracks is not None
    assert after._tracks is not before._tracks


def test_tracks_of_an_unlinked_run_say_what_to_do(runs: list[Run], tmp_path: Path) -> None:
    build(runs[:1], tmp_path / "index")
    with serving(tmp_path / "index") as http:
        for url in ("/v1/tracks", "/v1/tracks/x"):
            code, message = error_of(http.get(url), 404)
            assert (code, "'onepass link RUN'" in message) == ("no_tracks", True)
        assert error_of(http.get("/v1/detections/old-0/track"), 404)[0] == "no_track"
        link_run(runs[0].path)  # and no restart
        assert http.get("/v1/tracks").status_code == 200
        # The run's weights are invented, so the model that can be built here is another one.
        image = BytesIO()
        Image.new("RGB", (8, 8)).save(image, "PNG")
        answer = http.post("/v1/search/image", files={"image": image.getvalue()})
        assert error_of(answer, 503)[0] == "model_unavailable"


def test_not_ready_before_a_first_search(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    proceed = threading.Event()
    original = ServedIndex.open

    def slowly(snapshot: Snapshot, *, before: ServedIndex | None = None) -> ServedIndex:
        proceed.wait()
        return original(snapshot, before=before)

    monkeypatch.setattr(ServedIndex, "open", slowly)
    with serving(world.index, ready=False) as http:
        try:
            assert http.get("/livez").json() == {"status": "ok"}
            for url in ("/readyz", "/v1/index", "/v1/detections/a-0"):
                assert error_of(http.get(url), 503)[0] == "not_ready"
            response: httpx.Response = http.post("/v1/search", json={"detection_id": "a-0"})
            assert error_of(response, 503)[0] == "not_ready"
        finally:
            proceed.set()
        wait_until_ready(http)
        assert http.get("/v1/index").status_code == 200


def test_an_application_alone_says_why_it_is_not_ready(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "WATCH_SECONDS", 0.02)
    failures: list[OnepassError] = []
    index = tmp_path / "later"
    app = create_app(ServeConfig(index=index), on_failure=failures.append)
    with serving(app, ready=False) as http:
        while not failures:
            time.sleep(0.01)
        assert "cannot be opened" in error_of(http.get("/readyz"), 503)[1]
        build(runs, index)  # the index appears later
        wait_until_ready(http)
    assert isinstance(failures[0], SnapshotError)
