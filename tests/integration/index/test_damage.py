"""Torn files, full disks, interruptions: found, told on one line, nothing half done."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import pyarrow as pa
import pytest

from common.errors import FileAccessError, SnapshotError, VerifyError
from index.build.update import delete_rows
from index.build.version import build_index
from index.config import IndexConfig
from index.search.filters import Filter
from index.search.segment import Segment
from index.search.snapshot import Snapshot, list_versions
from index.storage.layout import SEGMENTS
from pipelines.run import Run
from tests.helpers.indexes import embeddings, make_run, part_of, tree


def test_damage_is_found(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    snapshot = build_index([run], out)
    assert snapshot.verify() == 700
    file = part_of(snapshot) / "vectors.faiss"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(VerifyError, match=r"vectors\.faiss does not match its sha256"):
        snapshot.verify()
    with pytest.raises(VerifyError, match=r"vectors\.faiss does not match its sha256"):
        Snapshot.open(out)
    file.unlink()
    with pytest.raises(VerifyError, match=r"vectors\.faiss is named in the manifest but missing"):
        Snapshot.open(out)
    with pytest.raises(VerifyError, match="missing"):
        snapshot.verify()


@pytest.mark.parametrize(
    "name", ["rows.arrow", "ids.npy", "search.faiss", "vectors.faiss", "manifest.json"]
)
def test_torn_files_are_refused_on_one_line(tmp_path: Path, run: Path, name: str) -> None:
    out = tmp_path / "index"
    snapshot = build_index([run], out, IndexConfig(factory="HNSW32"))
    file = (snapshot.path if name == "manifest.json" else part_of(snapshot)) / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises((SnapshotError, VerifyError), match=name) as caught:
        Snapshot.open(out)
    assert "\n" not in str(caught.value)


@contextlib.contextmanager
def handles_left(count: int) -> Iterator[None]:
    """Let this process open only ``count`` more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF4,SQ8"])
def test_too_many_open_files_are_no_damage(tmp_path: Path, run: Path, factory: str) -> None:
    out = tmp_path / "index"
    build_index([run], out, IndexConfig(factory=factory))
    snapshot, _ = delete_rows(out, Filter("row_id = 3"))
    part = part_of(snapshot)
    for action in (lambda: Snapshot.open(out), lambda: list_versions(out), snapshot.verify):
        with pytest.raises(FileAccessError, match="Too many open files"), handles_left(0):
            action()
    with pytest.raises(FileAccessError), handles_left(0):
        Segment(part, snapshot.manifest.segments[0], 32, "cosine")
    with handles_left(6):  # what it takes while it reads, and threads of other tests
        opened = Snapshot.open(out)
    assert opened.manifest.rows == 699
    handles = [file for file in Path("/proc/self/fd").iterdir() if file.exists()]
    assert not [file for file in handles if str(out) in str(file.resolve())]
    with pytest.raises(FileAccessError), handles_left(0):
        Run.open(run)


@pytest.mark.parametrize("name", ["rows.arrow", "ids.npy", "search.faiss", "vectors.faiss"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.EIO])
def test_no_refusal_of_the_system_is_damage(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    out = tmp_path / "index"
    build_index([run], out, IndexConfig(factory="HNSW16"))
    reason = os.strerror(number)
    memory_map, read_index = pa.memory_map, faiss.read_index

    def refuse_arrow(file: str, *more: Any) -> Any:
        if file.endswith(name):
            raise OSError(number, reason, file)
        return memory_map(file, *more)

    def refuse_faiss(file: str, *more: Any) -> Any:
        if file.endswith(name):
            raise RuntimeError(f"Error: 'f' failed: could not open {file} for reading: {reason}")
        return read_index(file, *more)

    monkeypatch.setattr(pa, "memory_map", refuse_arrow)
    monkeypatch.setattr(faiss, "read_index", refuse_faiss)
    with pytest.raises(FileAccessError, match=reason):
        Snapshot.open(out)


def test_files_of_another_snapshot_are_refused(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    build_index([run], out)
    few = build_index([make_run(tmp_path / "few", embeddings(5))], tmp_path / "few-index")
    rows = (part_of(few) / "rows.arrow").read_bytes()
    (out / SEGMENTS / "s0001-00" / "rows.arrow").write_bytes(rows)
    with pytest.raises(VerifyError, match=r"s0001-00/rows\.arrow does not match"):
        Snapshot.open(out)


def test_interrupted_build_leaves_the_old_snapshot_served(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    build_index([run], out)
    before = tree(out)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index([run], out, IndexConfig(factory="HNSW32"), progress=interrupt)
    assert tree(out) == before
    assert Snapshot.open(out).manifest.version == "v0001"
    assert build_index([run], out).manifest.version == "v0002"


def test_a_draft_of_a_running_process_is_left(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    (out / f".building-{os.getppid()}").mkdir(parents=True)
    (out / ".building-999999999").mkdir()
    assert build_index([run], out).manifest.version == "v0001"
    assert [path.name for path in out.glob(".building-*")] == [f".building-{os.getppid()}"]
