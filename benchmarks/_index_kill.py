"""``index.py --kill``: SIGKILL at random moments of the commands that change an index.

Each kill gets a fresh copy of an index and runs one command on it, in a process group that dies
at once, whatever it had started. Half of the moments are drawn from the time in which the
command was seen to work (after its imports), half are the n-th change of the index folder, which
hits commands that write for milliseconds. What stands afterwards is the stage it was hit at.

After each kill the served snapshot must be the one before or the one after, with the rows of
that one, must verify (sha256 of every file), and must answer queries as brute force over those
rows does. Then the next command must succeed: the same again, or, where it was already through,
a delete; and all of it must hold once more.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _contenders import row_ids
from _processes import ONEPASS
from _truth import Rows
from _vectors import DIM, embeddings, made_queries, made_run, nearest, unit
from kill_and_resume import finish, group, kill_all

from index.search.snapshot import Snapshot
from index.storage.layout import CURRENT, current_version
from pipelines.run import Run

K = 10
QUERIES = 20
DELETED = "frame % 1000 < 50"  # what the index to compact has lost
NEXT = "frame % 1000 = 999"
POLL_SECONDS = 0.001
LIMIT_SECONDS = 300
_MANIFEST = re.compile(r"v\d{4,}/manifest\.json")
STAGES = ("nothing written", "in the middle", "version stands, not served", "served")
Told = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Case:
    """A command, the index it is run on, and the rows that are right before and after it."""

    name: str
    start: Path
    command: Told
    before: Rows
    after: Rows


@dataclass(frozen=True)
class Pace:
    """One undisturbed run: seconds to its first change of the folder, and to its end; changes."""

    first: float
    end: float
    changes: int


def kills(given: argparse.Namespace, real: Run) -> dict[str, Any]:
    """All commands, ``--kills`` times each."""
    bench = Bench(given, real)
    print(
        f"\nkill -9, {given.kills} times each, index of {given.kill_rows} x {DIM}, seed {given.seed}; the "
        "served version is verified and asked after each kill, and after the next command"
    )
    result = {}
    for case in bench.cases():
        pace = bench.pace(case)
        ended = Counter(bench.once(case, pace, number) for number in range(given.kills))
        hit = given.kills - ended["not hit"]
        print(
            f"  {case.name:<9}{pace.end:5.1f} s alone, {pace.changes} changes; {hit} of "
            f"{given.kills} hit while it ran: "
            + ", ".join(f"{ended[stage]} {stage}" for stage in STAGES)
            + "; served, verified and right every time",
            flush=True,
        )
        result[case.name] = {"pace": vars(pace), "hit": hit, "ended": dict(ended)}
    return result


class Bench:
    """The indexes to begin with, and the truth about each."""

    def __init__(self, given: argparse.Namespace, real: Run) -> None:
        self.folder: Path = given.work / "kill"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.log = self.folder / "log"
        self.dice = random.Random(given.seed)
        self.runs = [
            made_run(real, given.work / f"made-{rows}-from-{first}", rows, seed=7, first=first)
            for first, rows in ((0, given.kill_rows), (given.kill_rows, given.kill_rows // 10))
        ]
        self.queries = made_queries(real, given.work, given.queries)[:QUERIES]
        table = pa.concat_tables([run.table(["frame", "embedding"]) for run in self.runs])
        self.frames, self.vectors = table["frame"].to_numpy(), unit(embeddings(table))

    def cases(self) -> list[Case]:
        base, more = (str(run.path) for run in self.runs)
        both = np.arange(len(self.vectors))
        first = both[: self.runs[0].manifest.rows.written]
        left = both[self.frames[both] % 1000 >= 50]
        one, three = self.folder / "one", self.folder / "three"
        self.run(onepass("build", base, "--out", str(one)))
        build = Case(
            "build", one, lambda at: onepass("build", base, more, "--out", str(at)), first, both
        )
        shutil.copytree(one, three)
        self.run(onepass("add", str(three), more))
        self.run(onepass("delete", str(three), "--where", DELETED))
        version = current_version(one)
        assert version is not None
        return [
            build,
            Case("add", one, lambda at: onepass("add", str(at), more), first, both),
            Case("compact", three, lambda at: onepass("compact", str(at)), left, left),
            Case("promote", three, lambda at: onepass("promote", str(at), version), left, first),
        ]

    def run(self, command: list[str]) -> None:
        finish(command, self.log, seconds=LIMIT_SECONDS)

    def copy(self, case: Case) -> Path:
        index = self.folder / "index"
        shutil.rmtree(index, ignore_errors=True)
        return Path(shutil.copytree(case.start, index))

    def pace(self, case: Case) -> Pace:
        index = self.copy(case)
        changes: list[float] = []
        began = time.monotonic()
        with group(case.command(index), self.log) as process:
            seen = look(index)
            while process.poll() is None:
                if (now := look(index)) != seen:
                    seen = now
                    changes.append(time.monotonic() - began)
                time.sleep(POLL_SECONDS)
        end = time.monotonic() - began
        if process.returncode != 0:
            raise RuntimeError(f"{case.name} failed undisturbed: {self.said()}")
        self.check(index, case, case.after)
        return Pace(changes[0] if changes else end, end, len(changes))

    def once(self, case: Case, pace: Pace, number: int) -> str:
        """Kill one; returns the stage it was hit at, or "not hit" where it had ended."""
        index = self.copy(case)
        before, served = look(index), current_version(index)
        moment = self.dice.uniform(0.6 * pace.first, pace.end)
        wanted = self.dice.randint(1, max(1, pace.changes))
        began = time.monotonic()
        with group(case.command(index), self.log) as process:
            seen, changes = before, 0
            while process.poll() is None:
                if number % 2 and (now := look(index)) != seen:
                    seen, changes = now, changes + 1
                due = changes >= wanted if number % 2 else time.monotonic() - began > moment
                if due:
                    break
                time.sleep(0 if number % 2 else POLL_SECONDS)
            hit = process.poll() is None
            kill_all(process)
        through = current_version(index) != served
        stage = stage_of(before, look(index), through=through)
        rows = case.after if through else case.before
        self.check(index, case, rows)
        if through:
            rows = self.next_command(case, index, rows)
            self.check(index, case, rows)
        else:
            self.run(case.command(index))
            self.check(index, case, case.after)
        return stage if hit else "not hit"

    def next_command(self, case: Case, index: Path, rows: Rows) -> Rows:
        """What somebody does next, and the rows that it leaves."""
        if case.name == "build":
            self.run(case.command(index))
            return rows
        self.run(onepass("delete", str(index), "--where", NEXT))
        return rows[self.frames[rows] % 1000 != 999]

    def check(self, index: Path, case: Case, rows: Rows) -> None:
        """The served snapshot is whole, holds ``rows`` and nothing else, and answers right."""
        snapshot = Snapshot.open(index)
        snapshot.verify()
        stored = row_ids(snapshot, snapshot.matching(None))
        if sorted(stored.tolist()) != rows.tolist():
            raise AssertionError(f"{case.name}: {len(stored)} rows served, {len(rows)} are right")
        truth = rows[nearest(unit(self.queries), self.vectors[rows], K)[0]]
        found = row_ids(snapshot, snapshot.search(self.queries, K, exact=True).rows)
        if not (np.sort(found, axis=1) == np.sort(truth, axis=1)).all():
            raise AssertionError(f"{case.name}: {snapshot.manifest.version} answers wrongly")

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-1000:]


def onepass(*words: str) -> list[str]:
    """``onepass index …`` as a command."""
    return [*ONEPASS, "index", *words]


def look(index: Path) -> frozenset[str]:
    """Every name in the folder, and what CURRENT says."""
    names: set[str] = set()
    for folder, folders, files in os.walk(index):
        names.update(str(Path(folder, name).relative_to(index)) for name in (*folders, *files))
    with contextlib.suppress(OSError):  # it is being replaced, or there is none yet
        names.add(f"CURRENT says {(index / CURRENT).read_text().strip()}")
    return frozenset(names)


def stage_of(before: frozenset[str], after: frozenset[str], *, through: bool) -> str:
    """Which of STAGES a command was killed at, by what it left."""
    new = after - before
    if through:
        return STAGES[3]
    if any(_MANIFEST.fullmatch(name) for name in new):
        return STAGES[2]
    return STAGES[1] if after != before else STAGES[0]
