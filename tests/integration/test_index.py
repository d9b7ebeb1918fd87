"""Snapshots on disk: numbers against numpy and scipy, refusals, interruptions, damage."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from cluster.errors import RunError, SnapshotError, VerifyError, WorkError
from index.accelerator import Accelerator, Effort
from index.build import build_index
from index.factory import make_index, train
from index.layout import SEGMENTS
from index.metrics import prepare
from index.recall import recall_at
from index.snapshot import Hits, Snapshot, current_version, list_versions
from tests.runs import TINY_FACTS, write_run

DIM = 32


def embeddings(rows: int, *, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Embeddings in twenty loose groups, of very different lengths."""
    centres = np.random.default_rng(99).normal(size=(20, dim))
    random = np.random.default_rng(seed)
    raw = centres[random.integers(20, size=rows)] + 0.6 * random.normal(size=(rows, dim))
    return (raw * random.uniform(0.1, 10, size=(rows, 1))).astype(np.float32)


def make_run(path: Path, vectors: np.ndarray, *, prefix: str = "d", **more: Any) -> Path:
    ids = [f"{prefix}{row}" for row in range(len(vectors))]
    images = [f"cam/{prefix}{row}.jpg" for row in range(len(vectors))]
    write_run(path, {"image": images, "detection_id": ids}, vectors, **more)
    return path


def order_of(snapshot: Snapshot, prefix: str = "d") -> np.ndarray:
    """Row of the snapshot -> number of the embedding it was made from."""
    ids = snapshot.rows["detection_id"].to_pylist()
    return np.array([int(name.removeprefix(prefix)) for name in ids])


def part_of(snapshot: Snapshot) -> Path:
    """The folder of its only segment."""
    (entry,) = snapshot.manifest.segments
    return snapshot.path.parent / SEGMENTS / entry.name


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def l1(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.abs(vectors.astype(float)).sum(axis=1, keepdims=True))


def true_scores(metric: str, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    if metric == "l1":
        return np.asarray(cdist(l1(queries), l1(vectors), "cityblock"))
    return np.asarray(1 - cdist(queries.astype(float), vectors.astype(float), "cosine"))


def true_hits(metric: str, queries: np.ndarray, vectors: np.ndarray, k: int) -> Hits:
    scores = true_scores(metric, queries, vectors)
    order = np.argsort(-scores if metric == "cosine" else scores, axis=1)[:, :k]
    return Hits(order, np.take_along_axis(scores, order, 1))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Work on a few rows is ten times slower when its threads wait for each other."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return embeddings(700)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", vectors)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Snapshot:
    return build_index([run], tmp_path_factory.mktemp("served") / "index")


# --- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "l1"])
@pytest.mark.parametrize("factory", ["auto", "HNSW32", "IVF8,Flat"])
@pytest.mark.parametrize("exact", [False, True])
def test_search_equals_the_definition(
    tmp_path: Path, run: Path, vectors: np.ndarray, metric: Any, factory: str, exact: bool
) -> None:
    snapshot = build_index([run], tmp_path / "index", metric=metric, factory=factory, recall=1.0)
    assert snapshot.manifest.recall.measured == 1.0
    stored = vectors[order_of(snapshot)]
    queries = embeddings(25, seed=9)
    hits = snapshot.search(queries, 10, exact=exact)
    true = true_hits(metric, queries, stored, 10)
    if exact or factory == "auto":
        np.testing.assert_array_equal(hits.rows, true.rows)
    np.testing.assert_allclose(
        hits.scores,
        np.take_along_axis(true_scores(metric, queries, stored), hits.rows, 1),
        atol=1e-5,
    )
    assert recall_at(true, hits) >= 0.98
    assert hits.rows.dtype == np.int64
    assert hits.scores.dtype == np.float32


@pytest.mark.parametrize("factory", ["HNSW4", "IVF32,Flat", "IVF16,PQ8x4fs,RFlat"])
def test_recall_in_the_manifest_is_the_recall_there_is(
    tmp_path: Path, vectors: np.ndarray, factory: str
) -> None:
    run = make_run(tmp_path / "run", vectors, files=1)
    snapshot = build_index([run], tmp_path / "index", factory=factory, recall=0.9)
    facts = snapshot.manifest.recall
    assert (facts.queries, facts.k, facts.target) == (140, 10, 0.9)
    # The same index again without the held-out rows, which stand at the end.
    stored, base = vectors[order_of(snapshot)], 700 - 140
    normal = prepare(stored, [""] * 700, "cosine")
    index = make_index(factory, DIM, "cosine")
    train(index, normal[:base], factory, "cosine")
    index.add(normal[:base])
    exactly = faiss.IndexFlatIP(DIM)
    exactly.add(normal)
    effort = Effort(snapshot.manifest.largest.search_params)
    _, found = Accelerator(index, exactly, "cosine").search(normal[base:], 10, effort)
    true = true_hits("cosine", stored[base:], stored[:base], 10).rows
    again = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, true, strict=True)])
    assert facts.measured == pytest.approx(again, abs=2 / 1400)  # a tie for the tenth place
    assert facts.measured is not None
    assert facts.measured >= 0.9
    assert snapshot.manifest.warning is None


def test_missed_target_is_built_and_said(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(size=(3000, DIM)).astype(np.float32)
    run = make_run(tmp_path / "run", noise)
    snapshot = build_index([run], tmp_path / "index", factory="PQ1x4", recall=1.0)
    assert snapshot.manifest.recall.measured is not None
    assert snapshot.manifest.recall.measured < 1.0
    assert "below the 1 asked for" in str(snapshot.manifest.warning)


def test_copies_of_one_picture_do_not_look_like_bad_recall(tmp_path: Path) -> None:
    vectors = np.repeat(embeddings(3), 100, axis=0)
    snapshot = build_index([make_run(tmp_path / "run", vectors)], tmp_path / "index")
    assert snapshot.manifest.recall.measured == 1.0


def test_vectors_read_back_are_normalised_for_the_metric(
    tmp_path: Path, run: Path, vectors: np.ndarray, served: Snapshot
) -> None:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(served.vector(3), unit[order_of(served)[3]], atol=1e-6)
    other = build_index([run], tmp_path / "index", metric="l1", factory="IVF8,Flat")
    np.testing.assert_allclose(
        other.vectors([5, 699, 0]), l1(vectors)[order_of(other)[[5, 699, 0]]], atol=1e-6
    )
    assert other.vectors([]).shape == (0, DIM)
    with pytest.raises(SnapshotError, match=r"row 700 is outside .* rows 0 to 699"):
        other.vectors([1, 700])
    with pytest.raises(SnapshotError, match="row -1 is outside"):
        other.vector(-1)


def test_neighbours_leave_the_detection_itself_out(served: Snapshot, vectors: np.ndarray) -> None:
    hits = served.neighbours("d17", 5)
    row = served.row_of("d17")
    stored = vectors[order_of(served)]
    true = true_hits("cosine", stored[row][None], stored, 6)
    assert true.rows[0, 0] == row
    np.testing.assert_array_equal(hits.rows, true.rows[:, 1:])
    assert served.neighbours("d17", 10_000).rows.shape == (1, 699)


@pytest.mark.parametrize("factory", ["HNSW4", "IVF64,Flat"])
def test_minus_one_is_never_returned(tmp_path: Path, run: Path, factory: str) -> None:
    snapshot = build_index([run], tmp_path / "index", factory=factory, recall=0.01)
    for k in (10, 700, 5000):
        hits = snapshot.search(embeddings(20, seed=4), k)
        assert hits.rows.shape == (20, min(k, 700))
        assert hits.rows.min() >= 0
        assert all(len(set(rows)) == len(rows) for rows in hits.rows.tolist())
        assert np.all(np.diff(hits.scores, axis=1) <= 1e-6)


def test_threads_search_one_snapshot(tmp_path: Path, run: Path) -> None:
    snapshot = build_index([run], tmp_path / "index", factory="HNSW32")
    queries = embeddings(40, seed=5)
    expected = snapshot.search(queries, 5)
    wrong: list[int] = []

    def ask() -> None:
        for query in range(40):
            got = snapshot.search(queries[query : query + 1], 5)
            if not np.array_equal(got.rows, expected.of(query).rows):
                wrong.append(query)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- rows ------------------------------------------------------------------------------------


def test_rows_say_what_was_extracted(tmp_path: Path) -> None:
    plan: dict[str, list[Any]] = {
        "image": ["a/20240501223000.jpg", "a/20240501223000.jpg", "/data/b.jpg"],
        "x1": [1.5, None, None],
        "y1": [2.0, None, None],
        "x2": [30.0, None, None],
        "y2": [40.0, None, None],
        "detection_id": ["boxed", "whole", "far"],
    }
    write_run(tmp_path / "run", plan, np.eye(3, dtype=np.float32) + 0.1, root=tmp_path / "photos")
    snapshot = build_index([tmp_path / "run"], tmp_path / "index")
    hits = snapshot.search(np.array([[1.1, 0.1, 0.1]]), 1)
    (described,) = snapshot.describe(hits)
    assert described == {
        "rank": 1,
        "detection_id": "boxed",
        "score": pytest.approx(1.0),
        "label": "class 0",
        "label_index": 0,
        "label_score": 0.5,
        "image": "a/20240501223000.jpg",
        "box": [1.5, 2.0, 30.0, 40.0],
        "sequence": "a",
        "frame": 0,
        "timestamp": "2024-05-01T22:30:00",
    }
    assert json.loads(json.dumps(described)) == described
    (far,) = snapshot.describe(snapshot.search(np.array([[0.1, 0.1, 1.1]]), 1))
    assert (far["box"], far["timestamp"]) == (None, None)
    assert snapshot.image_path(snapshot.row_of("boxed")) == tmp_path / "photos" / plan["image"][0]
    assert snapshot.image_path(snapshot.row_of("far")) == Path("/data/b.jpg")
    with pytest.raises(ValueError, match="one query"):
        snapshot.describe(snapshot.search(np.eye(3), 1))


def test_every_id_is_found_and_no_other(served: Snapshot) -> None:
    ids = served.rows["detection_id"].to_pylist()
    assert [served.row_of(name) for name in ids] == list(range(700))
    for missing in ("", "d", "d7000", "zzz"):
        with pytest.raises(SnapshotError, match="no detection"):
            served.row_of(missing)


def test_failed_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", embeddings(12), errors={2: "torn file", 11: "gone"})
    snapshot = build_index([run], tmp_path / "index")
    assert (snapshot.manifest.rows, snapshot.manifest.skipped) == (10, 2)
    assert sorted(order_of(snapshot)) == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]
    with pytest.raises(SnapshotError, match="rows that have an error are not indexed"):
        snapshot.row_of("d2")


def test_two_runs_share_an_index(tmp_path: Path) -> None:
    a, b = embeddings(30, seed=1), embeddings(20, seed=2)
    runs = [
        make_run(tmp_path / "a", a, prefix="a", root=tmp_path / "photos-a"),
        make_run(tmp_path / "b", b, prefix="b", root=tmp_path / "photos-b"),
    ]
    snapshot = build_index(runs, tmp_path / "index")
    assert [entry.rows for entry in snapshot.manifest.runs] == [30, 20]
    assert snapshot.manifest.runs[1].path == str(runs[1])
    for name, raw in (("a7", a[7]), ("b19", b[19])):
        row = snapshot.row_of(name)
        assert snapshot.search(raw[None], 1).rows.tolist() == [[row]]
        assert snapshot.image_path(row) == tmp_path / f"photos-{name[0]}" / f"cam/{name}.jpg"


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_tiny_runs_work(tmp_path: Path, rows: int) -> None:
    vectors = embeddings(rows)
    snapshot = build_index([make_run(tmp_path / "run", vectors, files=1)], tmp_path / "index")
    assert snapshot.search(vectors[:1], 10).rows.shape == (1, rows)
    assert snapshot.neighbours("d0", 3).rows.shape == (1, rows - 1)
    recall = snapshot.manifest.recall
    if rows == 1:
        assert (recall.measured, recall.queries) == (None, 0)
        assert "not measured" in str(snapshot.manifest.warning)
    else:
        assert (recall.measured, recall.queries) == (1.0, 1)
        assert snapshot.manifest.warning is None


# --- refusals: one line, nothing written -----------------------------------------------------


def refused(out: Path, runs: list[Path], match: str, **more: Any) -> None:
    before = tree(out.parent)
    with pytest.raises(SnapshotError, match=match) as caught:
        build_index(runs, out, **more)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert tree(out.parent) == before


def test_zero_vector_is_refused_by_name(tmp_path: Path) -> None:
    vectors = embeddings(9)
    vectors[4] = 0
    run = make_run(tmp_path / "run", vectors)
    refused(tmp_path / "index", [run], "zero or not finite: 'd4'")


def test_runs_of_two_models_are_refused_with_both_fingerprints(tmp_path: Path) -> None:
    other = TINY_FACTS.model_copy(update={"weights_sha256": "1" * 64})
    a = make_run(tmp_path / "a", embeddings(5), prefix="a")
    b = make_run(tmp_path / "b", embeddings(5), prefix="b", facts=other)
    refused(tmp_path / "index", [a, b], f"{other.fingerprint}, .* has {TINY_FACTS.fingerprint}")


def test_runs_of_two_dimensions_are_refused(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", embeddings(5), prefix="a")
    b = make_run(tmp_path / "b", embeddings(5, dim=8), prefix="b")
    refused(tmp_path / "index", [a, b], "dimension 8, .* of 32")


def test_ids_that_stand_twice_are_refused(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", embeddings(5))
    b = make_run(tmp_path / "b", embeddings(3, seed=1))
    refused(tmp_path / "index", [a, b], r"'d0' stands 2 times \(in .*/a, .*/b; 3 ids")
    refused(tmp_path / "index", [a, a], r"'d0' stands 2 times \(in .*/a, .*/a; 5 ids")


def test_run_without_a_good_row_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", embeddings(2), errors={0: "torn", 1: "torn"})
    refused(tmp_path / "index", [run], r"no row with an embedding \(2 rows have an error\)")


def test_bad_arguments_are_refused(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    refused(out, [], "no run was given")
    refused(out, [run], "metric 'l3' is unknown; give one of cosine, ip, l1, l2", metric="l3")
    refused(out, [run], "recall is 1.5", recall=1.5)
    refused(out, [run], "factory 'Nope' does not work for metric 'cosine'", factory="Nope")
    refused(out, [run], "factory 'PQ4x4' .* 'l1' .* something else", factory="PQ4x4", metric="l1")
    refused(out, [run], "refining index is not needed", factory="IVF8,PQ4x4,Refine(SQ8)")
    refused(out, [run], "shards is 0", shards=0)
    refused(out, [run], "memory is 1000 bytes; give 64 MB or more", memory_bytes=1000)
    refused(out, [run], "training on 560 rows", factory="IVF4096,Flat")
    with pytest.raises(RunError, match="no such run"):
        build_index([tmp_path / "nothing"], out)
    assert not out.exists()


def test_index_of_other_vectors_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "index"
    build_index([make_run(tmp_path / "a", embeddings(5))], out)
    b = make_run(tmp_path / "b", embeddings(5, dim=8))
    refused(out, [b], "serves v0001 of dimension 32, this build has 8")
    refused(out, [tmp_path / "a"], "of metric cosine, this build has l1", metric="l1")
    other = TINY_FACTS.model_copy(update={"weights_sha256": "1" * 64})
    c = make_run(tmp_path / "c", embeddings(5), facts=other)
    refused(out, [c], f"fingerprint {TINY_FACTS.fingerprint}, this build has {other.fingerprint}")


def test_folder_of_something_else_is_refused(tmp_path: Path, run: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "moth.jpg").touch()
    refused(tmp_path / "photos", [run], "holds 'moth.jpg' and is no index")
    refused(tmp_path / "photos" / "moth.jpg", [run], "is a file")


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path, run: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "index", [run], "cannot be written")


def test_full_disk_fails_on_one_line_and_leaves_the_old(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"
    build_index([run], out)
    before = tree(out)

    write = faiss.write_index

    def full(index: Any, to: Any, *more: Any) -> None:
        if not isinstance(to, str):  # into memory
            write(index, to, *more)
            return
        raise RuntimeError("Error in write at io.cpp:9: Error: 'ret == 1' failed: disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(faiss, "write_index", full)
        with pytest.raises(WorkError, match=r"disk is full; .* serves what it served before"):
            build_index([run], out, factory="HNSW32")
    assert tree(out) == before

    def short(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", short)
    with pytest.raises(WorkError, match=r"No space left on device; .* served before"):
        build_index([run], out)
    assert tree(out) == before


def test_bad_queries_are_refused(served: Snapshot) -> None:
    with pytest.raises(SnapshotError, match=r"shape \(1, 8\), .* dimension 32"):
        served.search(np.ones((1, 8)), 3)
    with pytest.raises(SnapshotError, match=r"shape \(32,\)"):
        served.search(np.ones(DIM), 3)
    with pytest.raises(SnapshotError, match="k is 0"):
        served.search(np.ones((1, DIM)), 0)
    with pytest.raises(SnapshotError, match="k is 0"):
        served.neighbours("d1", 0)
    with pytest.raises(SnapshotError, match="zero or not finite: 'query 1'"):
        served.search(np.stack([np.ones(DIM), np.zeros(DIM)]), 3)


# --- versions, interruptions, damage ---------------------------------------------------------


def test_second_build_leaves_the_first_open_to_readers(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    first = build_index([run], out)
    before = first.search(embeddings(3, seed=8), 4)
    second = build_index([run], out, factory="HNSW32")
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


def test_same_rows_give_the_same_vectors_file(tmp_path: Path, run: Path) -> None:
    a, b = (build_index([run], tmp_path / "index").manifest.files for _ in range(2))
    assert a == b


def test_progress_counts_to_the_end(tmp_path: Path, run: Path) -> None:
    seen: list[tuple[int, int]] = []
    build_index([run], tmp_path / "index", progress=lambda done, of: seen.append((done, of)))
    assert seen == sorted(seen)
    assert seen[-1] == (700, 700)


def test_interrupted_build_leaves_the_old_snapshot_served(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    build_index([run], out)
    before = tree(out)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index([run], out, factory="HNSW32", progress=interrupt)
    assert tree(out) == before
    assert Snapshot.open(out).manifest.version == "v0001"
    assert build_index([run], out).manifest.version == "v0002"


KILLED = """
import os, signal, sys
from pathlib import Path
from index.build import build_index
build_index([Path(sys.argv[1])], Path(sys.argv[2]),
            progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_killed_build_is_cleaned_up_by_the_next(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    build_index([run], out)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), str(out)],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert killed.returncode == -9
    assert len(list(out.glob(".building-*"))) == 1
    assert Snapshot.open(out).manifest.version == "v0001"
    assert list_versions(out) == ["v0001"]
    (out / f".building-{os.getppid()}").mkdir()  # of a process that lives: not ours to remove
    assert build_index([run], out).manifest.version == "v0002"
    assert [p.name for p in out.glob(".building-*")] == [f".building-{os.getppid()}"]


def test_two_builds_at_once_are_refused(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    build_index([run], out)
    with (out / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(out, [run], "another command is at work on")
    assert build_index([run], out).manifest.version == "v0002"


def test_damage_is_found(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    snapshot = build_index([run], out)
    assert snapshot.verify() == 700
    file = part_of(snapshot) / "vectors.faiss"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(VerifyError, match=r"vectors\.faiss does not match its sha256"):
        Snapshot.open(out).verify()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(SnapshotError, match=r"s0001-00 is damaged"):
        Snapshot.open(out)
    file.unlink()
    with pytest.raises(SnapshotError, match="s0001-00 is damaged"):
        Snapshot.open(out)
    with pytest.raises(VerifyError, match="missing"):
        snapshot.verify()


@pytest.mark.parametrize(
    "name", ["rows.arrow", "ids.npy", "search.faiss", "vectors.faiss", "manifest.json"]
)
def test_torn_files_are_refused_on_one_line(tmp_path: Path, run: Path, name: str) -> None:
    out = tmp_path / "index"
    snapshot = build_index([run], out, factory="HNSW32")
    file = (snapshot.path if name == "manifest.json" else part_of(snapshot)) / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(SnapshotError) as caught:
        Snapshot.open(out)
    assert "\n" not in str(caught.value)


def test_files_of_another_snapshot_are_refused(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    build_index([run], out)
    few = build_index([make_run(tmp_path / "few", embeddings(5))], tmp_path / "few-index")
    rows = (part_of(few) / "rows.arrow").read_bytes()
    (out / SEGMENTS / "s0001-00" / "rows.arrow").write_bytes(rows)
    with pytest.raises(SnapshotError, match=r"s0001-00 is damaged: .* manifest says 700 rows"):
        Snapshot.open(out)


def test_missing_index_says_what_to_do(tmp_path: Path, run: Path) -> None:
    with pytest.raises(SnapshotError, match="does not exist; make one with 'onepass index build'"):
        Snapshot.open(tmp_path / "nothing")
    with pytest.raises(SnapshotError, match="holds no index"):
        Snapshot.open(tmp_path)
    assert (current_version(tmp_path), list_versions(tmp_path / "nothing")) == (None, [])
    out = tmp_path / "index"
    build_index([run], out)
    for version in ("v0007", "../index/v0001"):
        with pytest.raises(SnapshotError, match=r"has no version .* \(it has: v0001\)"):
            Snapshot.open(out, version)
    (out / "CURRENT").write_text("latest\n")
    with pytest.raises(SnapshotError, match="says 'latest', which is no version"):
        Snapshot.open(out)
