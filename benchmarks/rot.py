"""Damaged files of a run, its tracks and indexes: each is named, or no answer depends on the damage.

    python -m benchmarks.rot [--flips 1000] [--seed 1] [--folder DIR]

A small run (rows, plan, HDF5, request, events), its tracks and two indexes (a graph of two segments with deleted
rows and a version before it; lists that stay on the disk, in two shards) are made. Then single bits are flipped, of
files in turn, each at a random place, and every reader that uses the file is called: the Python API of
``extract``, ``index build``, ``link``, ``query``, ``inspect`` and others. After each the file is what it was.
Besides, each file is cut short, emptied, missing, has a page of zeros, and is replaced by another of the same name.

- *named*: every reader that uses the file raises one line that names it
- *no change*: the readers answer as before, since the file holds the same values: its JSON, or its one word
- *WRONG*: another answer, another error, or damage that nobody noticed

Exit code 1 where one is WRONG. Printed last on 2026-11-30, 2 cores (AMD EPYC), for --seed 1 and for --seed 2:

    bit            1000 named
    cut short      39 named
    empty          39 named
    missing        39 named
    page of zeros  39 named
    another file   39 named
    39 files, 20 readers; 0 WRONG
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import PIL.Image

import index.build.version
import onepass
from benchmarks import runner
from common.errors import OnepassError, first_line
from index.build.update import add_runs, delete_rows
from index.build.version import build_index
from index.config import IndexConfig
from index.search.filters import Filter
from index.search.snapshot import Snapshot, list_versions
from migration.align import Rows
from pipelines.outputs.hdf5_info import read_h5, verify_h5
from pipelines.progress.profile import sessions_of
from pipelines.run import Run
from pipelines.sources.read import read_source
from tests.helpers.indexes import embeddings, make_run
from tracks.link import link_run
from tracks.linked_run import LinkedRun
from tracks.store import read_tracks, verify_tracks

Read = Callable[[], Any]
NAMED, SAME, WRONG = "named", "no change", "WRONG"
KINDS = ("cut short", "empty", "missing", "page of zeros", "another file")
_PAGE = 4096
_FRAMES = 6  # of each of two sequences


class World:
    """Folders of files, and what reads them.

    Args:
        readers: of each folder, by name: functions that return all that they read, as values that can
            be compared.

    Attributes:
        files: all files that are damaged.
        answers: of the readers, while all files are whole.
    """

    def __init__(self, readers: dict[Path, dict[str, Read]]) -> None:
        self._readers = readers
        self.files = [
            file
            for folder in readers
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != ".lock"  # of no bytes
        ]
        self.answers = {name: read() for own in readers.values() for name, read in own.items()}
        self._values = {file: _values(file) for file in self.files}
        self._used: dict[Path, dict[str, Read]] = {}

    def readers(self, file: Path) -> dict[str, Read]:
        """What uses a file: without it, or where it is empty, a reader fails or answers otherwise."""
        if file not in self._used:
            (own,) = (own for folder, own in self._readers.items() if folder in file.parents)
            self._used[file] = {}
            for kind in ("missing", "empty"):
                with damaged(file, kind, np.random.default_rng(0), self.files):
                    self._used[file] |= {
                        name: read
                        for name, read in own.items()
                        if _outcome(read)[1] != self.answers[name]
                    }
        return self._used[file]

    def is_same(self, file: Path) -> bool:
        """Whether a file holds the values that it held when it was whole; of JSON only."""
        values = _values(file)
        return values is not None and bool(values == self._values[file])


def make_world(folder: Path) -> World:
    """Make files of each kind, and what reads them."""
    run, scratch = folder / "run", folder / "scratch"
    scratch.mkdir(parents=True)
    arguments = _photos(folder / "photos")
    _extract(arguments, run)
    link_run(run)
    indexes = {index: _index_readers(index) for index in _indexes(folder)}
    return World({run: _run_readers(run, arguments, scratch), **indexes})


def _photos(folder: Path) -> Path:
    """Photos of two boxes each, in two sequences; returns their manifest."""
    random = np.random.default_rng(0)
    lines = ["image,x1,y1,x2,y2,sequence,frame"]
    for sequence in ("a", "b"):
        (folder / sequence).mkdir(parents=True)
        for frame in range(_FRAMES):
            name = f"{sequence}/{frame}.png"
            pixels = random.integers(0, 256, (48, 64, 3), np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name)
            lines += [f"{name},{x},4,{x + 20},40,{sequence},{frame}" for x in (2, 36)]
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    return folder / "boxes.csv"


def _extract(source: Path, out: Path) -> Run:
    return onepass.extract(
        source,
        model="tiny",
        out=out,
        hdf5=True,
        precision="fp32",
        engine="eager",
        executor="local",
        progress=False,
    )


def _indexes(folder: Path) -> list[Path]:
    first = make_run(folder / "first", embeddings(300), prefix="a")
    second = make_run(folder / "second", embeddings(80, seed=1), prefix="b")
    graph, lists = folder / "graph.index", folder / "lists.index"
    build_index([first], graph, IndexConfig(factory="HNSW16"))
    with patch("index.build.merge.MAX_MERGED_VALUES", 0):  # so that two segments stay
        add_runs(graph, [second])
    delete_rows(graph, Filter("row_id >= 290"))
    with patch.object(index.build.version, "MIN_MEMORY", 1):  # so that the lists stay on the disk
        config = IndexConfig(factory="IVF4,SQ8", shards=2)
        build_index([first, second], lists, config, memory_bytes=10_000)
    return [graph, lists]


def _run_readers(run: Path, source: Path, scratch: Path) -> dict[str, Read]:
    def build(what: Path) -> Any:
        shutil.rmtree(scratch / "index", ignore_errors=True)
        snapshot = build_index([what], scratch / "index")
        rows = snapshot.rows.drop_columns(["run"]).to_pydict()
        return rows, snapshot.vectors(range(len(rows["row_id"]))).tobytes()

    def link() -> Any:
        shutil.rmtree(scratch / "tracks", ignore_errors=True)
        link_run(run, out=scratch / "tracks")
        return sorted((file.name, file.read_bytes()) for file in (scratch / "tracks").glob("*.p*"))

    def again() -> Any:  # in a copy: it would finish what looks unfinished
        shutil.rmtree(scratch / "run", ignore_errors=True)
        shutil.copytree(run, scratch / "run")
        return _extract(source, scratch / "run").to_arrow().to_pydict()

    def verify_hdf5() -> Any:
        info = read_h5(run / "features.h5")
        verify_h5(info)
        return info

    return {
        "rows": lambda: Run.open(run).to_arrow().to_pydict(),
        "a few columns": lambda: Run.open(run).to_arrow(["image", "label"]).to_pydict(),
        "embeddings": lambda: Run.open(run).embeddings().tobytes(),
        "extract": again,
        "plan": lambda: read_source(str(run), from_run=True).table.to_pydict(),
        "classes": lambda: Rows.read(Run.open(run)).class_names(),
        "profile": lambda: [session.profile.model_dump() for session in sessions_of(run)],
        "index build": lambda: build(run),
        "index build of HDF5": lambda: build(run / "features.h5"),
        "inspect --verify of HDF5": verify_hdf5,
        "inspect --verify": lambda: (Run.open(run).verify(), verify_tracks(run)),
        "link": link,
        "tracks": lambda: read_tracks(run).to_pydict(),
        "linked run": lambda: LinkedRun.open(run).rows.to_pydict(),
    }


def _answers(index: Path, version: str | None = None) -> Any:
    """All that can be asked of a version, in a few searches."""
    snapshot = Snapshot.open(index, version)
    queries = embeddings(5, seed=2)
    hits = [
        snapshot.search(queries, k, filter=filter, exact=exact)
        for k in (3, 100)
        for filter in (None, Filter("label = 'class 1'"))
        for exact in (False, True)
    ]
    ids = snapshot.rows["detection_id"].to_pylist()
    return (
        [(each.rows.tobytes(), each.scores.tobytes()) for each in hits],
        snapshot.rows.to_pydict(),
        snapshot.rows_of(ids).tobytes(),
        snapshot.vectors(range(len(ids))).tobytes(),
        snapshot.manifest.model_dump(),
    )


def _index_readers(index: Path) -> dict[str, Read]:
    versions = list_versions(index)
    return {
        f"query {index.name}": lambda: _answers(index),
        f"versions of {index.name}": lambda: [_answers(index, version) for version in versions],
        f"inspect --verify {index.name}": Snapshot.open(index).verify,
    }


@contextmanager
def damaged(file: Path, kind: str, random: np.random.Generator, files: list[Path]) -> Iterator[Any]:
    """Damage a file while the block runs; other processes of this user may have it mapped.

    Args:
        file: which.
        kind: one of ``KINDS``, or ``bit``.
        random: chooses the place.
        files: of the world, to replace it by.
    """
    whole = file.read_bytes()
    if kind == "bit":
        place = int(random.integers(8 * len(whole)))
        at, value = place // 8, whole[place // 8] ^ 1 << place % 8
        _write_at(file, at, bytes([value]))
        try:
            yield f"bit {place}"
        finally:
            _write_at(file, at, whole[at : at + 1])
        return
    kept = file.with_name(f".{file.name}.whole")
    file.rename(kept)
    try:
        if kind != "missing":
            file.write_bytes(_replaced(file, whole, kind, random, files))
        yield kind
    finally:
        file.unlink(missing_ok=True)
        kept.rename(file)


def _write_at(file: Path, at: int, data: bytes) -> None:
    handle = os.open(file, os.O_WRONLY)
    os.pwrite(handle, data, at)
    os.close(handle)


def _replaced(
    file: Path, whole: bytes, kind: str, random: np.random.Generator, files: list[Path]
) -> bytes:
    if kind == "cut short":
        return whole[: int(random.integers(1, len(whole)))]
    if kind == "page of zeros":
        used = np.flatnonzero(
            np.frombuffer(whole, np.uint8)
        )  # most pages of a small HDF5 are zeros
        at = int(random.choice(used) // _PAGE * _PAGE)
        return whole[:at] + bytes(len(whole[at : at + _PAGE])) + whole[at + _PAGE :]
    if kind == "another file":
        others = [other for other in files if other.name == file.name and other != file]
        others += [other for other in files if other.suffix == file.suffix and other != file]
        different = [data for other in others if (data := other.read_bytes()) != whole]
        return different[0] if different else b""
    return b""


def _outcome(read: Read) -> tuple[str, Any]:
    """Whether a reader answered, failed as onepass does, or otherwise; and its answer or error."""
    try:
        return "answer", read()
    except OnepassError as error:
        return "error", str(error)
    except Exception as error:
        return "other", f"{type(error).__name__}: {first_line(error)}"


def judge(world: World, file: Path, kind: str, random: np.random.Generator) -> tuple[str, str]:
    """Damage a file and call what reads it.

    Returns:
        ``NAMED``, ``SAME`` or ``WRONG``, and which reader said what.
    """
    readers = world.readers(file)
    with damaged(file, kind, random, world.files) as place:
        same = kind != "missing" and world.is_same(file)
        told = {name: _outcome(read) for name, read in readers.items()}
    where = f"{file.parent.name}/{file.name}, {place}"
    kinds = set()
    for name, (how, what) in told.items():
        line = f"{where}: {name}: "
        if how == "answer" and what == world.answers[name]:
            kinds.add(SAME)
        elif how == "answer":
            return WRONG, line + "another answer"
        elif how == "other" or "\n" in what:
            return WRONG, line + what
        elif kind != "missing" and file.name not in what:
            return WRONG, line + f"does not name it: {what}"
        else:
            kinds.add(NAMED)
    if kinds == {NAMED}:
        return NAMED, where
    if kinds == {NAMED, SAME} and kind == "missing":  # whole files are read without a manifest
        return NAMED, where
    if kinds == {SAME} and same:
        return SAME, where
    return (
        WRONG,
        f"{where}: unnoticed by {[name for name, (how, _) in told.items() if how == 'answer']}",
    )


def _values(file: Path) -> Any:
    """The values of a file that people can read; None where it has none."""
    try:
        text = file.read_text()
        if file.name == "CURRENT":
            return text.split()
        if file.suffix == ".jsonl":
            lines = [json.loads(line) for line in text.splitlines()]
            return [{name: line[name] for name in line if name != "check"} for line in lines]
        return json.loads(text) if file.suffix == ".json" else None
    except (ValueError, TypeError, UnicodeDecodeError):
        return None


def main() -> int:
    """Damage files and count what became of it."""
    parser = runner.arguments(__doc__)
    parser.add_argument("--flips", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    given = runner.parsed(parser, flips=50)
    random = np.random.default_rng(given.seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        wrong += [f"{file}: nothing reads it" for file in world.files if not world.readers(file)]
        flips = [world.files[at % len(world.files)] for at in range(given.flips)]
        work = [("bit", file) for file in flips]
        work += [(kind, file) for kind in KINDS for file in world.files]
        counts: dict[str, Counter[str]] = {kind: Counter() for kind in ("bit", *KINDS)}
        for kind, file in work:
            how, what = judge(world, file, kind, random)
            counts[kind][how] += 1
            if how == WRONG:
                wrong.append(what)
                print(what, flush=True)
        for kind, count in counts.items():
            print(f"{kind:<14}", ", ".join(f"{n} {how}" for how, n in sorted(count.items())))
    print(f"{len(world.files)} files, {len(world.answers)} readers; {len(wrong)} {WRONG}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
