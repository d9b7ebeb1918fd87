"""Commands on an index, and a migration, as targets of ``tests.helpers.kills``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index.build.update import delete_rows
from index.build.version import build_index
from index.config import IndexConfig
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from index.storage.layout import SEGMENTS, current_version, list_versions, read_manifest
from migration.report import MigrationReport
from pipelines.run import Run
from tests.helpers.fork_server import Ended, ForkServer
from tests.helpers.indexes import embeddings, make_run, tree
from tests.helpers.kills import HANG_SECONDS, Findings, Moment, check_half, compare_runs

LEFT_ALONE = {"CURRENT", ".lock", SEGMENTS}
COMMANDS = ("build", "add", "compact", "promote")
DARKER = ("--model", "tiny", "--mean", "0.4,0.4,0.4", "--precision", "fp32", "--engine", "eager")


@dataclass
class IndexWorld:
    """Two runs, and an index of the first whose served version, v0002, lacks some rows."""

    folder: Path
    rows: int

    def make(self) -> IndexWorld:
        first, second = embeddings(self.rows), embeddings(self.rows // 3, seed=1)
        make_run(self.folder / "first", first, prefix="a")
        make_run(self.folder / "second", second, prefix="b")
        config = IndexConfig(factory="IVF16,Flat", shards=2)
        build_index([self.folder / "first"], self.folder / "index", config)
        delete_rows(self.folder / "index", Filter(f"row_id >= {self.rows * 5 // 6}"))
        return self

    def command(self, name: str) -> tuple[str, ...]:
        """Arguments of a command, after the index."""
        return {
            "build": ("--factory", "IVF16,Flat", "--shards", "2"),
            "add": (str(self.folder / "second"),),
            "compact": (),
            "promote": ("v0001",),
        }[name]


class IndexCommand:
    """``onepass index build``, ``add``, ``compact`` or ``promote`` on a copy of the index."""

    def __init__(self, forks: ForkServer, world: IndexWorld, name: str) -> None:
        self.forks, self.world, self.name = forks, world, name
        self.before = contents(world.folder / "index")
        self.after: dict[str, bytes] = {}  # known once it has run undisturbed

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self.world.folder / "index", folder / "index")

    def run(self, folder: Path, log: Path, moment: Moment) -> Ended:
        words, index = self.world.command(self.name), folder / "index"
        if self.name == "build":
            arguments = ["build", self.world.folder / "first", "--out", index, *words]
        else:
            arguments = [self.name, index, *words]
        ended = self.forks.onepass("index", *arguments, log=log, limit=HANG_SECONDS, **moment)
        if not self.after:
            self.after = contents(index)
        return ended

    def check_killed(self, folder: Path, found: Findings) -> None:
        check_versions(folder / "index")
        served = contents(folder / "index")
        assert served in (self.before, self.after), "what is served is neither old nor new"

    def check(self, folder: Path, undisturbed: Path, found: Findings) -> None:
        index = folder / "index"
        snapshot = Snapshot.open(index)
        names = snapshot.columns(snapshot.matching(), ["detection_id"])["detection_id"]
        found.compare(names, list(self.after))
        assert contents(index) == self.after, "rows differ from those of the undisturbed command"
        check_versions(index)
        check_leftovers(index)


def contents(index: Path) -> dict[str, bytes]:
    """The vector of every row that is served, by its id; of an id that is there twice, ``twice``."""
    snapshot = Snapshot.open(index)
    rows = snapshot.matching()
    names = snapshot.columns(rows, ["detection_id"])["detection_id"]
    vectors = np.asarray(snapshot.vectors(rows), np.float32)
    return {name: vector.tobytes() for name, vector in zip(names, vectors, strict=True)}


def check_versions(index: Path) -> None:
    """Check the files of every version, by their sha256, and that the served one answers."""
    for version in list_versions(index):
        Snapshot.open(index, version).verify()
    if current_version(index) is not None:
        snapshot = Snapshot.open(index)
        rows = snapshot.matching()
        query = snapshot.vectors(rows[:1])
        assert snapshot.search(query, 3, exact=True).rows[0][0] == rows[0]


def check_leftovers(index: Path) -> None:
    """Check that nothing is in the folder but versions, and the segments that these name."""
    versions = list_versions(index)
    named = {part.name for version in versions for part in read_manifest(index, version).segments}
    assert {folder.name for folder in (index / SEGMENTS).iterdir()} == named
    strange = {entry.name for entry in index.iterdir()} ^ (LEFT_ALONE | set(versions))
    assert not strange, f"left: {strange}"


class Migrate:
    """``onepass migrate --index``: a run by another model, and the index of it, then served."""

    def __init__(self, forks: ForkServer, old: Path, folder: Path) -> None:
        self.forks, self.old, self.folder = forks, old, folder
        build_index([old], folder / "index", IndexConfig(factory="Flat"))
        self.fingerprint = Run.open(old).manifest.fingerprint

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self.folder / "index", folder / "index")

    def run(self, folder: Path, log: Path, moment: Moment) -> Ended:
        words = ["migrate", self.old, "--out", folder / "run", "--index", folder / "index", *DARKER]
        return self.forks.onepass(*words, log=log, limit=HANG_SECONDS, **moment)

    def check_killed(self, folder: Path, found: Findings) -> None:
        check_half(folder / "run", len(Run.open(self.old)))
        check_versions(folder / "index")

    def check(self, folder: Path, undisturbed: Path, found: Findings) -> None:
        compare_runs(folder / "run", undisturbed / "run", found)
        index = folder / "index"
        assert contents(index) == contents(undisturbed / "index")
        check_versions(index)
        check_leftovers(index)
        assert read_manifest(index).fingerprint == Run.open(folder / "run").manifest.fingerprint
        reports = [
            MigrationReport.model_validate_json((at / "run/migration/report.json").read_bytes())
            for at in (folder, undisturbed)
        ]
        assert reports[0].verdict == reports[1].verdict
        assert reports[0].counts == reports[1].counts
        assert tree(folder / "run") == tree(undisturbed / "run")
