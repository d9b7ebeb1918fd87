"""A sample of ``benchmarks.rot``: damaged files of a run, its tracks and indexes are named."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import rot
from common import compared
from common.errors import OnepassError, SnapshotError, VerifyError
from index.build.update import add_runs, compact
from index.build.version import build_index
from index.build.versions import promote
from index.config import IndexConfig
from index.search.snapshot import Snapshot
from index.storage import check
from pipelines.run import Run
from tests.helpers.commands import here
from tests.helpers.indexes import embeddings, make_run, one_faiss_thread, part_of
from tests.helpers.s3 import Store

__all__ = ["one_faiss_thread"]

FLIPS = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> rot.World:
    return rot.make_world(tmp_path_factory.mktemp("rot") / "world")


@pytest.mark.parametrize("number", range(FLIPS))
def test_a_flipped_bit_is_named_or_changes_nothing(world: rot.World, number: int) -> None:
    random = np.random.default_rng([19, number])
    file = world.files[int(random.integers(len(world.files)))]
    how, what = rot.judge(world, file, "bit", random)
    assert how != rot.WRONG, what


@pytest.mark.parametrize("kind", rot.KINDS)
def test_other_damage_is_named(world: rot.World, kind: str) -> None:
    random = np.random.default_rng(19)
    for at in random.choice(len(world.files), 6, replace=False):
        how, what = rot.judge(world, world.files[at], kind, random)
        assert how != rot.WRONG, what


def test_every_file_is_read_by_something(world: rot.World) -> None:
    assert not [file for file in world.files if not world.readers(file)]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "run", embeddings(300))
    build_index([run], tmp_path / "index", IndexConfig(factory="HNSW16"))
    return tmp_path / "index"


def flip(file: Path) -> None:
    """Flip the last bit of a file, and leave its time of change as it was."""
    stat = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-1, 2)
        (last,) = stream.read()
        stream.seek(-1, 2)
        stream.write(bytes([last ^ 1]))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


NAMES = ["vectors.faiss", "search.faiss", "nodes.arrow", "rows.arrow", "ids.npy"]


@pytest.mark.parametrize("name", NAMES)
def test_no_command_answers_from_a_damaged_index(tmp_path: Path, index: Path, name: str) -> None:
    more = make_run(tmp_path / "more", embeddings(20, seed=1), prefix="more")
    np.save(tmp_path / "query.npy", embeddings(1)[0])
    file = part_of(Snapshot.open(index)) / name
    flip(file)
    for command in (
        ("query", index, "--vector", tmp_path / "query.npy"),
        ("query", index, "--facets", "label"),
        ("inspect", index),
        ("inspect", index, "--verify"),
        ("index", "add", index, more),
        ("index", "delete", index, "--where", "row_id = 3"),
        ("index", "compact", index),
        ("index", "promote", index, "v0001"),
    ):
        ended = here(*command)
        assert ended.returncode == VerifyError.exit_code, (command, ended.stderr)
        assert f"{name} does not match its sha256" in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
    assert [entry.name for entry in index.glob("v*")] == ["v0001"]


def test_faiss_reads_no_header_that_was_not_compared(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "LATER_BYTES", 0)
    vectors = part_of(Snapshot.open(index)) / "vectors.faiss"
    assert list(Snapshot.open(index, check="later").uncompared) == [vectors]
    whole = vectors.read_bytes()
    for place in range(8 * 45):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        vectors.write_bytes(changed)
        with pytest.raises(VerifyError, match=r"vectors\.faiss does not match"):
            Snapshot.open(index, check="later")


def test_segments_that_were_swapped_are_named(tmp_path: Path, index: Path) -> None:
    more = make_run(tmp_path / "more", embeddings(300, seed=1), prefix="more")
    build_index([tmp_path / "run", more], index, IndexConfig(factory="HNSW16", shards=2))
    first, second = (index / "segments" / f"s0002-0{number}" for number in (0, 1))
    first.rename(tmp_path / "kept")
    second.rename(first)
    (tmp_path / "kept").rename(second)
    with pytest.raises(VerifyError, match="s0002-00"):
        Snapshot.open(index)


def test_a_manifest_of_another_version_is_named(tmp_path: Path, index: Path) -> None:
    add_runs(index, [make_run(tmp_path / "more", embeddings(20, seed=1), prefix="more")])
    manifest = (index / "v0001" / "manifest.json").read_bytes()
    (index / "v0002" / "manifest.json").write_bytes(manifest)
    for version in (None, "v0002"):
        with pytest.raises(
            SnapshotError, match=r"CURRENT was damaged|manifest\.json is that of v0001"
        ):
            Snapshot.open(index, version)


@pytest.mark.parametrize("damage", [b"v0001", b"v0002\n" + b"0" * 64, b"v0009\n", b"", b"v0001\n9"])
def test_current_that_names_another_version(tmp_path: Path, index: Path, damage: bytes) -> None:
    add_runs(index, [make_run(tmp_path / "more", embeddings(20, seed=1), prefix="more")])
    current = index / "CURRENT"
    whole = current.read_bytes()
    assert whole.startswith(b"v0002\n")
    current.write_bytes(whole.replace(b"v0002", damage) if damage == b"v0001" else damage)
    with pytest.raises(SnapshotError, match="CURRENT"):
        Snapshot.open(index)
    promote(index, "v0002")
    assert current.read_bytes() == whole
    current.write_text("v0001\n")  # by hand, or by an earlier version
    assert Snapshot.open(index).manifest.version == "v0001"


def test_what_is_known_of_large_files_is_known_for_a_day(
    index: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setattr(compared, "KNOWN_BYTES", 0)
    read: list[Path] = []
    sha256_file = compared.sha256_file
    monkeypatch.setattr(
        compared, "sha256_file", lambda file: read.append(file) or sha256_file(file)
    )

    def opened(*, check: check.Check = "known") -> int:
        monkeypatch.setattr(compared, "_compared", {})  # as in another process
        read.clear()
        Snapshot.open(index, check=check)
        return len(read)

    files = len(Snapshot.open(index).manifest.segments[0].files)
    assert opened() == opened() == files, "just written: its times may not change with it"
    now = time.time_ns()
    later = now + 2 * compared._CLOCK_NS
    monkeypatch.setattr(compared.time, "time_ns", lambda: later)
    assert [opened(), opened(), opened(check="all")] == [files, 0, files]
    flip(part_of(Snapshot.open(index)) / "vectors.faiss")
    with pytest.raises(VerifyError, match=r"vectors\.faiss does not match"):
        opened()
    for record in (own_cache / "onepass" / "compared").iterdir():
        record.write_bytes(b"not a record")
    with pytest.raises(VerifyError, match=r"vectors\.faiss does not match"):
        opened()
    flip(part_of_index(index) / "vectors.faiss")
    assert opened() == 1, "the others were compared before that one failed"
    day = time.time() + compared.KNOWN_SECONDS
    monkeypatch.setattr(compared.time, "time", lambda: day)
    assert opened() == files


def part_of_index(index: Path) -> Path:
    return index / "segments" / "s0001-00"


def test_damage_that_one_command_finds_is_known_to_others(
    index: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    """A disk may turn a bit and change no time; then a comparison of before it would still count."""
    monkeypatch.setattr(compared, "KNOWN_BYTES", 0)
    monkeypatch.setattr(compared, "_CLOCK_NS", -1)
    states: dict[Path, object] = {}
    state_of = compared._state
    monkeypatch.setattr(compared, "_state", lambda file: states.setdefault(file, state_of(file)))
    snapshot = Snapshot.open(index)
    flip(part_of_index(index) / "vectors.faiss")
    Snapshot.open(index)  # as was said
    with pytest.raises(VerifyError, match=r"vectors\.faiss does not match"):
        snapshot.verify()
    for known in (compared._compared, {}):  # in this process, and in another
        monkeypatch.setattr(compared, "_compared", known)
        with pytest.raises(VerifyError, match=r"vectors\.faiss does not match"):
            Snapshot.open(index)


def test_compact_compares_what_it_copies_itself(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that another process has compared today is compared again before it gets a new hash."""
    monkeypatch.setattr(compared, "_is_known", lambda *_: True)
    flip(part_of_index(index) / "vectors.faiss")
    with pytest.raises(VerifyError, match=r"vectors\.faiss does not match"):
        compact(index)


def test_a_damaged_plan_of_an_unfinished_run_is_named(tmp_path: Path) -> None:
    photos = rot._photos(tmp_path / "photos")
    out = tmp_path / "run"
    whole = rot._extract(photos, out).to_arrow(["image", "embedding"]).to_pydict()
    (plan,) = out.glob("plan/part-00000.parquet")
    for folder in ("detections/part-00000.parquet", "manifest.json"):  # as a kill leaves it
        (out / folder).unlink()
    flip(plan)
    with pytest.raises(VerifyError, match=r"plan/part-00000\.parquet does not match"):
        rot._extract(photos, out)
    flip(plan)
    assert rot._extract(photos, out).to_arrow(["image", "embedding"]).to_pydict() == whole


def test_a_request_carries_its_own_hash(world: rot.World) -> None:
    (file,) = (file for file in world.files if file.name == "request.json")
    assert '"sha256"' in file.read_text().splitlines()[-2]


RUN_READERS: list[Callable[[Run], object]] = [
    lambda run: run.to_arrow(["label"]).to_pydict(),
    lambda run: run.embeddings().tobytes(),
    lambda run: [batch.to_pydict() for batch in run.iter_batches(columns=["row_id"])],
]


def test_files_of_a_run_in_an_object_store_are_compared_where_they_are_read(
    tmp_path: Path, s3: Store
) -> None:
    s3.upload(make_run(tmp_path / "run", embeddings(40)), "run")
    name = "bucket/run/detections/part-0001.parquet"
    with s3.fs.open_input_file(name) as stream:
        whole = stream.read()
    run = Run.open("s3://bucket/run")
    answers = [read(run) for read in RUN_READERS]
    random = np.random.default_rng(19)
    places = [len(whole) - 9 - int(random.integers(1000)) for _ in range(10)]  # the footer
    places += random.integers(len(whole), size=10).tolist()
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        with s3.fs.open_output_stream(name) as sink:
            sink.write(bytes(damaged))
        for read in RUN_READERS:
            with pytest.raises(OnepassError, match=r"part-0001\.parquet"):
                read(run)
    with s3.fs.open_output_stream(name) as sink:
        sink.write(whole)
    assert [read(run) for read in RUN_READERS] == answers
