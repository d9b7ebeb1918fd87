"""Versions of an index: which stand, which is served, what goes."""

from __future__ import annotations

import fcntl
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from common.errors import FolderError, SnapshotError, VerifyError
from index.build.update import add_runs, compact, delete_rows
from index.build.version import build_index
from index.build.versions import history, promote, prune, rollback, version_bytes
from index.config import IndexConfig
from index.search.filters import Filter
from index.search.snapshot import Snapshot, current_version, list_versions
from index.storage import publish
from index.storage.layout import SEGMENTS, SnapshotManifest, read_manifest
from tests.helpers.indexes import embeddings, make_run, tree


def test_second_build_leaves_the_first_open_to_readers(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    first = build_index([run], out)
    before = first.search(embeddings(3, seed=8), 4)
    second = build_index([run], out, IndexConfig(factory="HNSW32"))
    assert (first.path.name, second.path.name) == ("v0001", "v0002")
    assert list_versions(out) == ["v0001", "v0002"]
    assert current_version(out) == "v0002"
    assert Snapshot.open(out).manifest.factory == "HNSW32"
    (out / "v0003").mkdir()  # torn by hand: never served, its number never used again
    assert list_versions(out) == ["v0001", "v0002"]
    assert build_index([run], out).path.name == "v0004"
    again = Snapshot.open(out, "v0001").search(embeddings(3, seed=8), 4)
    np.testing.assert_array_equal(again.rows, before.rows)
    np.testing.assert_array_equal(first.search(embeddings(3, seed=8), 4).rows, before.rows)


@pytest.fixture(scope="module")
def history_of_four(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    """v0001 built, v0002 added to, v0003 deleted from, v0004 compacted."""
    folder = tmp_path_factory.mktemp("history")
    more = make_run(folder / "more", embeddings(60, seed=3), prefix="m")
    build_index([run], folder / "index", IndexConfig(factory="IVF8,Flat"))
    add_runs(folder / "index", [more])
    delete_rows(folder / "index", Filter("row_id >= 650"))
    compact(folder / "index")
    return folder / "index"


@pytest.fixture
def index(history_of_four: Path, tmp_path: Path) -> Path:
    shutil.copytree(history_of_four, tmp_path / "index")
    return tmp_path / "index"


def test_a_change_reads_no_manifests_of_versions_that_are_whole(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the thousandth add reads a thousand."""
    read: list[str | None] = []

    def spied(folder: Path, version: str | None = None) -> SnapshotManifest:
        read.append(version)
        return read_manifest(folder, version)

    monkeypatch.setattr(publish, "read_manifest", spied)
    promote(index, "v0003")
    delete_rows(index, Filter("row_id >= 600"))
    assert read == []
    prune(index, 1)  # v0005, which names segments of versions that are gone
    assert read == ["v0005"]
    assert Snapshot.open(index).verify() == 660


ROWS = {"v0001": 700, "v0002": 760, "v0003": 710, "v0004": 710}


def test_history_lists_every_version(index: Path) -> None:
    entries = history(index)
    manifests = [entry.manifest for entry in entries]
    assert {manifest.version: manifest.rows for manifest in manifests} == ROWS
    assert [manifest.made_by for manifest in manifests] == ["build", "add", "delete", "compact"]
    assert [manifest.parent for manifest in manifests] == [None, "v0001", "v0002", "v0003"]
    assert [entry.current for entry in entries] == [False, False, False, True]
    for manifest in manifests:
        assert Snapshot.open(index, manifest.version).verify() == ROWS[manifest.version]
        files = [index / manifest.version / name for name in ("manifest.json", "deleted.npy")]
        for part in manifest.segments:
            files += [index / SEGMENTS / part.name / name for name in part.files]
        size = sum(file.stat().st_size for file in files if file.exists())
        assert version_bytes(index, manifest) == size
    with pytest.raises(SnapshotError, match="does not exist"):
        history(index / "none")


def test_promote_serves_what_it_is_told(index: Path) -> None:
    assert promote(index, "v0002").manifest.version == "v0002"
    assert (current_version(index), Snapshot.open(index).manifest.rows) == ("v0002", 760)
    assert promote(index, "v0004").manifest.rows == 710
    with pytest.raises(SnapshotError, match=r"has no version 'v0009' \(it has: v0001, v0002"):
        promote(index, "v0009")
    assert current_version(index) == "v0004"


def test_promote_refuses_a_damaged_version(index: Path) -> None:
    file = index / SEGMENTS / "s0001-00" / "vectors.faiss"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    for version in ("v0001", "v0002", "v0003"):
        with pytest.raises(VerifyError, match=r"s0001-00/vectors\.faiss does not match its sha256"):
            promote(index, version)
    assert current_version(index) == "v0004"
    assert Snapshot.open(index).verify() == 710


def test_damaged_tombstones_are_noticed(index: Path) -> None:
    file = index / "v0003" / "deleted.npy"
    bits = np.load(file)
    np.save(file, bits | np.array([1] + [0] * (len(bits) - 1), np.uint8))
    with pytest.raises(VerifyError, match=r"v0003/deleted\.npy does not match"):
        promote(index, "v0003")
    file.unlink()
    with pytest.raises(VerifyError, match=r"v0003/deleted\.npy .* missing"):
        Snapshot.open(index, "v0003")
    assert current_version(index) == "v0004"


def test_rollback_goes_to_the_parent_and_ends_at_the_first(index: Path, run: Path) -> None:
    assert [rollback(index).manifest.version for _ in range(3)] == ["v0003", "v0002", "v0001"]
    with pytest.raises(SnapshotError, match=r"serves v0001 .* promote"):
        rollback(index)
    assert current_version(index) == "v0001"
    changed, _ = delete_rows(index, Filter("row_id < 5"))
    assert (changed.manifest.version, changed.manifest.parent) == ("v0005", "v0001")
    assert rollback(index).manifest.version == "v0001", "what it was made from, not what is older"
    built = build_index([run], index)
    assert (built.manifest.version, built.manifest.parent) == ("v0006", None)
    assert rollback(index).manifest.version == "v0005", "a build has no parent: the one before it"


def test_rollback_where_the_parent_is_gone_goes_to_what_stands(index: Path) -> None:
    promote(index, "v0003")
    shutil.rmtree(index / "v0002")
    assert rollback(index).manifest.version == "v0001"


def test_prune_keeps_segments_that_are_still_named(index: Path) -> None:
    assert prune(index, 3) == ["v0001"]
    assert {part.name for part in (index / SEGMENTS).iterdir()} == {
        "s0001-00",
        "s0002-00",
        "s0004-00",
    }
    for version in ("v0002", "v0003", "v0004"):
        assert Snapshot.open(index, version).verify() == ROWS[version]
    assert prune(index, 1) == ["v0002", "v0003"]
    assert [part.name for part in (index / SEGMENTS).iterdir()] == ["s0004-00"]
    assert not [entry for entry in index.glob(".*") if entry.name != ".lock"]
    assert prune(index, 1) == []


def test_prune_never_removes_what_is_served(index: Path) -> None:
    promote(index, "v0001")
    reader = Snapshot.open(index, "v0003")
    expected = reader.search(embeddings(3, seed=7), 5, exact=True)
    assert prune(index, 1) == ["v0002", "v0003"]
    assert list_versions(index) == ["v0001", "v0004"]
    assert Snapshot.open(index).verify() == 700
    again = reader.search(embeddings(3, seed=7), 5, exact=True)
    np.testing.assert_array_equal(again.rows, expected.rows)
    with pytest.raises(SnapshotError, match="keep=0"):
        prune(index, 0)


def test_damaged_version_keeps_its_segments_and_stops_no_build(index: Path, run: Path) -> None:
    (index / "v0002" / "manifest.json").write_text("{")
    (index / SEGMENTS / "s0005-00").mkdir()
    (index / SEGMENTS / "s0005-00" / "vectors.faiss").touch()  # of a build that was killed
    assert build_index([run], index).verify() == 700
    assert {"s0001-00", "s0002-00", "s0004-00"} < {
        part.name for part in (index / SEGMENTS).iterdir()
    }


def test_two_commands_at_once_are_refused(index: Path, run: Path) -> None:
    before = tree(index)
    with (index / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            lambda: build_index([run], index),
            lambda: add_runs(index, [run]),
            lambda: delete_rows(index, Filter("row_id = 1")),
            lambda: compact(index),
            lambda: promote(index, "v0001"),
            lambda: rollback(index),
            lambda: prune(index, 1),
        ):
            with pytest.raises(FolderError, match=r"another onepass index is at work on it; wait"):
                command()
        assert Snapshot.open(index).manifest.version == "v0004", "readers need no lock"
        assert len(history(index)) == 4
    assert tree(index) == before


def test_threads_search_while_versions_are_published(index: Path) -> None:
    """Who opens the index at any moment gets one whole version and a right answer from it."""
    queries = embeddings(4, seed=6)
    versions: set[str] = set()
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            snapshot = Snapshot.open(index)
            hits = snapshot.search(queries, 5)
            exact = snapshot.search(queries, 5, exact=True)
            assert hits.rows.shape == (4, 5)
            assert np.isin(exact.rows, snapshot.matching()).all()
            assert len(snapshot.columns(hits.rows[0])["detection_id"]) == 5
            versions.add(snapshot.manifest.version)

    with ThreadPoolExecutor(3) as pool:
        searches = [pool.submit(search) for _ in range(3)]
        try:
            for row in range(8):
                delete_rows(index, Filter(ids=frozenset({f"d{row}"})))
                if row % 3 == 2:
                    compact(index)
                    rollback(index)
        finally:
            done.set()
    for each in searches:
        each.result()
    assert len(versions) >= 3
