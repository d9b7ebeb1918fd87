"""Indexes in an object store: what a local one answers, through faults, kills and damage."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from api.client import ServiceError
from api.service import watcher
from common import lease
from common.errors import FolderError, SnapshotError, StorageError, VerifyError, WorkError
from common.storage import to_path
from index.build.update import add_runs, compact, delete_rows
from index.build.version import build_index
from index.build.versions import promote, prune, rollback
from index.config import IndexConfig
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from index.storage import remote
from index.storage.layout import current_version, list_versions, read_manifest
from tests.helpers.api.world import connected
from tests.helpers.commands import onepass
from tests.helpers.fork_server import QUICK, ForkServer, run_command
from tests.helpers.indexes import in_threads
from tests.helpers.s3 import Rule, Store
from tests.integration.index.conftest import FIRST, SECOND

FACTORY = "IVF4,Flat"
INDEX = "s3://bucket/photos/moths.index"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "LeaseTimeouts", QUICK)


@pytest.fixture(scope="module")
def runs(world: Path) -> tuple[Path, Path]:
    return world / "first", world / "second"


@pytest.fixture
def there(s3: Store, runs: tuple[Path, Path]) -> Path:
    """An index of the first run in the store."""
    build_index([runs[0]], to_path(INDEX), IndexConfig(factory=FACTORY))
    return to_path(INDEX)


def forget(tmp_path: Path) -> None:
    """Be another machine: one that has fetched nothing."""
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def answers(index: Path) -> tuple[list[str], list[list[str]], np.ndarray]:
    snapshot = Snapshot.open(index)
    hits = snapshot.search(np.vstack([FIRST[:20], SECOND[:20]]), 5)
    ids = [snapshot.columns(rows)["detection_id"] for rows in hits.rows]
    return [current_version(index) or "", *list_versions(index)], ids, hits.scores


def named_only(store: Store, index: Path) -> None:
    """Nothing stands in the store but what a version names."""
    expected = {"CURRENT"}
    for version in list_versions(index):
        manifest = read_manifest(index, version)
        expected |= {f"{version}/{name}" for name in ("manifest.json", *manifest.files)}
        for part in manifest.segments:
            expected |= {f"segments/{part.name}/{name}" for name in part.files}
    prefix = INDEX.removeprefix("s3://bucket/")
    assert {key.removeprefix(f"{prefix}/") for key in store.stored(prefix)} == expected


def test_it_is_the_index_that_a_folder_would_be(
    s3: Store, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = runs
    for step in (
        lambda index: build_index([first], index, IndexConfig(factory=FACTORY)),
        lambda index: add_runs(index, [second]),
        lambda index: delete_rows(index, Filter("row_id < 10")),
        lambda index: compact(index),
        lambda index: rollback(index),
        lambda index: promote(index, "v0004"),
        lambda index: prune(index, 2),
    ):
        for index in (here := tmp_path / "index", far := to_path(INDEX)):
            step(index)
        expected = answers(here)
        assert answers(far)[:2] == expected[:2]
        np.testing.assert_array_equal(answers(far)[2], expected[2])
        named_only(s3, far)
    s3.faults(Rule("error", key="segments", status=403))
    assert answers(far)[1] == expected[1]  # what was fetched once is not asked for again
    s3.faults()
    forget(tmp_path)
    assert answers(far)[1] == expected[1]
    for version in list_versions(far):
        assert Snapshot.open(far, version).verify() == read_manifest(here, version).rows


@pytest.mark.parametrize("often", [False, pytest.param(True, marks=pytest.mark.long)])
def test_through_faults_it_is_whole(
    s3: Store, there: Path, runs: tuple[Path, Path], tmp_path: Path, often: bool
) -> None:
    if often:
        kinds = ("error", "lost", "cut")
        rules = [Rule(kind, share=0.1, status=500) for kind in kinds]  # type: ignore[arg-type]
    else:
        rules = [
            Rule("stall", method="GET", key="vectors", times=1, seconds=1),
            Rule("error", key="ids", times=2, status=500),
            Rule("lost", key="manifest", method="PUT|POST", times=2),
            Rule("cut", key="search|CURRENT", times=2),
        ]
    s3.faults(*rules, seed=1)
    add_runs(there, [runs[1]])
    forget(tmp_path)
    after = answers(there)
    assert all(s3.counts()[rule.kind] for rule in rules)
    s3.faults()
    build_index([*runs], tmp_path / "index", IndexConfig(factory="Flat"))
    assert after[1] == answers(tmp_path / "index")[1]
    assert Snapshot.open(there).verify() == 160
    named_only(s3, there)


def test_damage_is_refused(s3: Store, there: Path, tmp_path: Path) -> None:
    part = "photos/moths.index/segments/s0001-00"
    good = s3.read(f"{part}/vectors.faiss")
    s3.write(f"{part}/vectors.faiss", good[:-1] + bytes([good[-1] ^ 1]))
    Snapshot.open(there)  # from what this machine holds
    with pytest.raises(VerifyError, match=r"s3://.*/vectors.faiss does not match its sha256"):
        Snapshot.open(there).verify()
    forget(tmp_path)
    ended = onepass("query", INDEX, "--id", "a1")
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "vectors.faiss does not match its sha256" in ended.stderr
    assert not [*(tmp_path / "cache").rglob("vectors*")]
    with pytest.raises(VerifyError, match="does not match"):
        promote(there, "v0001")
    s3.fs.delete_file(f"bucket/{part}/vectors.faiss")
    with pytest.raises(SnapshotError, match=r"vectors.faiss is named in the manifest but missing"):
        Snapshot.open(there)
    manifest = s3.read("photos/moths.index/v0001/manifest.json")
    forged = json.loads(manifest.replace(b'"ids.npy"', b'"../../ids.npy"'))
    del forged["sha256"]  # who forges a manifest can hash it as well
    s3.write("photos/moths.index/v0001/manifest.json", json.dumps(forged).encode())
    with pytest.raises(SnapshotError, match=r"names a file '../../ids.npy', which does not lie in"):
        Snapshot.open(there, "v0001")
    s3.write("photos/moths.index/v0001/manifest.json", manifest)
    s3.write(f"{part}/vectors.faiss", good)
    assert Snapshot.open(there).verify() == 120


def test_refusals_are_one_line(
    s3: Store, there: Path, runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SnapshotError, match=r"s3://bucket/none does not exist"):
        Snapshot.open("s3://bucket/none")
    with pytest.raises(SnapshotError, match=r"has no version 'v0009' \(it has: v0001\)"):
        promote(there, "v0009")
    with pytest.raises(StorageError, match=r"^s3://nowhere/index cannot be reached: .*NO_SUCH_BUC"):
        build_index([runs[0]], to_path("s3://nowhere/index"))
    with (
        lease.hold_lease(there, "index", timeouts=lease.LeaseTimeouts(renew_interval=0.05)),
        pytest.raises(FolderError, match=r"index on .*, process \d+ is at work on it"),
    ):
        delete_rows(there, Filter("row_id = 0"))
    s3.faults(Rule("error", status=403))
    with pytest.raises(StorageError, match=r"CURRENT cannot be reached: .*ACCESS_DENIED"):
        Snapshot.open(there)
    s3.faults()
    forget(tmp_path)
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(WorkError, match=r"cannot hold .*; make room there, or set XDG_CACHE_HOME"):
        Snapshot.open(there)
    named_only(s3, there)


def test_an_upload_that_fails_changes_nothing(s3: Store, there: Path) -> None:
    before = answers(there)
    s3.faults(Rule("error", method="PUT|POST", key="v0002/manifest", status=403))
    with pytest.raises(WorkError, match=r"v0002/manifest.json cannot be written"):
        delete_rows(there, Filter("row_id < 5"))
    s3.faults()
    assert answers(there)[:2] == before[:2]
    s3.faults(Rule("error", method="PUT|POST", key="CURRENT", status=403))
    with pytest.raises(WorkError, match=r"'onepass index promote s3://"):
        delete_rows(there, Filter("row_id < 5"))
    s3.faults()
    assert answers(there)[0] == ["v0001", "v0001", "v0002"]
    assert promote(there, "v0002").manifest.rows == 115
    named_only(s3, there)


def test_a_part_is_fetched_once_and_kept_for_a_day(
    s3: Store, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(tmp_path)
    downloads: Counter[str] = Counter()
    read_chunks = remote._read_chunks

    def counted(file: Path) -> Iterator[bytes]:
        downloads[file.name] += 1
        return read_chunks(file)

    monkeypatch.setattr(remote, "_read_chunks", counted)
    in_threads(lambda: Snapshot.open(there))
    names = ["ids.npy", "nodes.arrow", "rows.arrow", "search.faiss", "vectors.faiss"]
    assert downloads == dict.fromkeys(names, 1)
    cache = remote.cache_folder(there)
    (old,) = (entry for entry in cache.iterdir() if entry.is_dir())
    delete_rows(there, Filter("row_id = 0"))
    compact(there)
    (part,) = read_manifest(there).segments
    (now,) = remote.fetch(there, [(there / "segments" / part.name, part.files)])
    shutil.rmtree(now)
    Snapshot.open(there)
    assert old.is_dir()
    monkeypatch.setattr(remote, "UNUSED_SECONDS", -1.0)
    shutil.rmtree(now)
    Snapshot.open(there)
    assert [entry for entry in cache.iterdir() if entry.is_dir()] == [now]


def test_a_service_follows_it_and_outlives_the_store(
    s3: Store, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "REMOTE_WATCH_SECONDS", 0.05)
    with connected(there) as (http, client):
        assert client.search("a3", 2).snapshot == "v0001"
        delete_rows(there, Filter("row_id < 3"))
        while client.index().version != "v0002":
            time.sleep(0.02)
        s3.faults(Rule("error", status=403))
        while "onepass_reloads_failed_total 0.0" in http.get("/metrics").text:
            time.sleep(0.02)
        assert client.search("a3", 2).snapshot == "v0002"
        assert http.get("/readyz").status_code == 200
        with pytest.raises(ServiceError, match="object store of the index does not answer"):
            client.index()
        with pytest.raises(ServiceError) as refused:
            client.reload()
        assert "moths.index" not in str(refused.value)
        s3.faults()
        rollback(there)
        while client.search("a3", 2).snapshot != "v0001":
            time.sleep(0.02)


COMMANDS = {
    "build": (["{first}", FACTORY], {120}),
    "add": (["{second}"], {120, 160}),
    "delete": (["row_id < 20"], {120, 100}),
    "compact": ([], {120}),
    "prune": (["1"], {120}),
}


def kill_and_check(
    server: ForkServer,
    store: Store,
    command: str,
    runs: tuple[Path, Path],
    tmp: Path,
    **when: float,
) -> bool:
    """Kill ``command`` on an index of two versions; whether it was through before that."""
    for key in store.stored():
        store.fs.delete_file(f"bucket/{key}")
    index = to_path(INDEX)
    build_index([runs[0]], index, IndexConfig(factory=FACTORY))
    compact(index)
    templates, allowed = COMMANDS[command]
    arguments = [text.format(first=runs[0], second=runs[1]) for text in templates]
    through = server.run(command, index, *arguments, **when) is not None  # type: ignore[arg-type]
    forget(tmp)  # it is looked at from another machine
    snapshot = Snapshot.open(index)
    rows = snapshot.verify()
    assert rows in allowed
    for version in list_versions(index):
        Snapshot.open(index, version).verify()
    hits = snapshot.search(FIRST[60:61], 1, exact=True)
    assert snapshot.columns(hits.rows[0])["detection_id"] == ["a60"]
    if not (command == "add" and rows == 160):  # its ids would be refused now
        run_command(command, index, *arguments)
    delete_rows(index, Filter(ids=frozenset({"a50"})))
    named_only(store, index)
    return through


def test_a_kill_leaves_what_was_served(s3: Store, runs: tuple[Path, Path], tmp_path: Path) -> None:
    with ForkServer() as server:
        for change in (1, 3, 4):  # within the part, before the manifest, before CURRENT
            assert not kill_and_check(server, s3, "add", runs, tmp_path, change=change)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_at_any_change(
    s3: Store, command: str, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    with ForkServer() as server:
        change = 0
        while not kill_and_check(server, s3, command, runs, tmp_path, change=change):
            change += 1
        assert change >= 2
        chance = np.random.default_rng(len(command))
        for _ in range(3):
            kill_and_check(server, s3, command, runs, tmp_path, after=chance.uniform(0, 2))
