"""Commands that are killed at random moments and given again, and what must stand afterwards.

A **target** is one command: what stands before it, its arguments, what a reader must see right after
a kill, and what must stand once the same command has come to its end, compared with what an
undisturbed one left.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypedDict

from common.errors import OnepassError, RunError
from pipelines.run import Run
from tests.helpers.fork_server import Ended, ForkServer
from tests.helpers.indexes import tree
from tests.helpers.killed_runs import (
    FILES,
    EndedEarlyError,
    extract_command,
    finish,
    kill_after,
    kill_once,
)
from tests.helpers.killed_runs import check as check_hdf5

COLUMNS = ["row_id", "detection_id", "label", "score", "embedding", "error"]
HANG_SECONDS = 120.0
LOCK = ".lock"
IN_A_ROW = 3  # most sessions of one piece of work that are killed
EVENTS = 3 * FILES  # of a run on Ray: a data file makes three, as events_before_kill says


@dataclass
class Findings:
    """What kills of one command did, added up."""

    kills: int = 0
    at_work: int = 0  # kills of a process that had not come to its end
    lost: int = 0
    twice: int = 0
    hangs: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.twice or self.hangs or self.wrong)

    def compare(self, names: Sequence[str], expected: Sequence[str]) -> None:
        """Count what is missing from ``names``, and what stands there more than once."""
        counted = Counter(names)
        self.lost += len(set(expected) - set(counted))
        self.twice += sum(times - 1 for times in counted.values())
        if strange := set(counted) - set(expected):
            self.wrong.append(f"{len(strange)} rows that nobody asked for: {sorted(strange)[:3]}")


class Moment(TypedDict, total=False):
    """When a command is killed; empty: not at all."""

    after: float  # seconds
    change: int  # to files, right before the nth


COUNT: Moment = {"change": 2**62}  # none, and the changes are counted


class Target(Protocol):
    """One command that is killed."""

    def prepare(self, folder: Path) -> None:
        """Make what stands before the command."""

    def run(self, folder: Path, log: Path, moment: Moment) -> Ended:
        """Run the command, to its end or until it is killed."""

    def check_killed(self, folder: Path, found: Findings) -> None:
        """Check what a reader sees between a kill and the next command."""

    def check(self, folder: Path, undisturbed: Path, found: Findings) -> None:
        """Compare what stands after the last command with what an undisturbed one left."""


def kill_command(target: Target, work: Path, kills: int, dice: random.Random) -> Findings:
    """Kill one command so often, at moments drawn from all of its time and changes.

    Args:
        target: the command.
        work: an empty folder.
        kills: how many.
        dice: draws the moments, and how many sessions of one piece of work are killed.
    """
    found, log = Findings(), work / "log"
    undisturbed = work / "undisturbed"
    target.prepare(undisturbed)
    whole = target.run(undisturbed, log, COUNT)
    assert whole.code == 0, log.read_text()[-2000:]
    number = 0
    while found.kills < kills:
        folder, number = work / f"killed-{number}", number + 1
        target.prepare(folder)
        for _ in range(min(dice.randint(1, IN_A_ROW), kills - found.kills)):
            ended = target.run(folder, log, draw_moment(whole, dice))
            found.kills += 1
            found.at_work += ended.code == -9
            _count_end(ended, found, log, allowed=(0, -9))
            _noted(target.check_killed, folder, found)
        _count_end(target.run(folder, log, {}), found, log, allowed=(0,))
        _noted(lambda at, into: target.check(at, undisturbed, into), folder, found)
        if found.is_clean:  # else it is there to be looked into
            shutil.rmtree(folder)
    return found


def draw_moment(whole: Ended, dice: random.Random) -> Moment:
    """A moment of an undisturbed command: every second one right before a change to files."""
    if whole.changes and dice.random() < 0.5:
        return {"change": dice.randrange(whole.changes)}
    return {"after": dice.uniform(0, whole.seconds)}


def _count_end(ended: Ended, found: Findings, log: Path, *, allowed: tuple[int, ...]) -> None:
    found.hangs += ended.code is None
    if ended.left:
        found.wrong.append(f"{ended.left} processes are left")
    if ended.code is not None and ended.code not in allowed:
        found.wrong.append(f"it ended with {ended.code}: {log.read_text()[-500:]}")


def _noted(check: Callable[[Path, Findings], None], folder: Path, found: Findings) -> None:
    """Make a finding of what a check raises."""
    try:
        check(folder, found)
    except (AssertionError, OnepassError, OSError) as error:
        found.wrong.append(f"{type(error).__name__}: {error}"[:500])


class Extract:
    """``onepass extract`` in this process, forked; with Parquet and HDF5."""

    def __init__(self, forks: ForkServer, source: Path, rows: int) -> None:
        self.forks, self.source, self.rows = forks, source, rows

    def prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True)

    def run(self, folder: Path, log: Path, moment: Moment) -> Ended:
        words = extract_command(self.source, folder / "run", "local")[3:]
        return self.forks.onepass(*words, log=log, limit=HANG_SECONDS, **moment)

    def check_killed(self, folder: Path, found: Findings) -> None:
        check_half(folder / "run", self.rows)

    def check(self, folder: Path, undisturbed: Path, found: Findings) -> None:
        compare_runs(folder / "run", undisturbed / "run", found)
        check_hdf5(folder / "run", self.rows)
        assert tree(folder) == tree(undisturbed), set(tree(folder)) ^ set(tree(undisturbed))


class ExtractOnRay(Extract):
    """The same on a Ray of its own, in whole processes; changes are new files of the run."""

    def run(self, folder: Path, log: Path, moment: Moment) -> Ended:
        out = folder / "run"
        command = extract_command(self.source, out, "ray")
        try:
            if "after" in moment:
                killed = kill_after(command, log, moment["after"])
                return Ended(-9 if killed else 0, moment["after"], 0)
            if moment.get("change", EVENTS) < EVENTS:
                kill_once(command, out, moment["change"] + 1, log, seconds=HANG_SECONDS)
                return Ended(-9, 0, 0)
            return Ended(0, finish(command, log, seconds=HANG_SECONDS), 0, EVENTS)
        except (subprocess.TimeoutExpired, TimeoutError):
            return Ended(None, HANG_SECONDS, 0)
        except EndedEarlyError as error:
            return Ended(error.code, 0, 0)
        except RuntimeError:  # it failed, and its log says how
            return Ended(1, 0, 0)

    def check(self, folder: Path, undisturbed: Path, found: Findings) -> None:
        compare_runs(folder / "run", undisturbed / "run", found)
        check_hdf5(folder / "run", self.rows)
        # Its files have names of their own every time.
        for part in (folder / "run", folder / "run" / "detections"):
            there = {entry.name for entry in part.iterdir() if entry.name.startswith(".")}
            assert there <= {LOCK}, there
        assert not (folder / "run" / "checkpoint").exists()


def check_half(run: Path, rows: int) -> None:
    """Check that a run which is not finished cannot be opened, and that one which is is whole."""
    try:
        opened = Run.open(run)
    except RunError:
        assert not (run / "manifest.json").exists(), f"{run} has a manifest and does not open"
        return
    assert opened.verify() == rows


def compare_runs(run: Path, undisturbed: Path, found: Findings) -> None:
    """Count rows that are lost, there twice, or other than those of an undisturbed run."""
    table, exact = (
        Run.open(path).to_arrow(COLUMNS).sort_by("row_id") for path in (run, undisturbed)
    )
    names = exact["detection_id"].to_pylist()
    found.compare(table["detection_id"].to_pylist(), names)
    if not table.equals(exact):
        found.wrong.append(f"{run}: rows differ from those of the undisturbed run")
    assert Run.open(run).verify() == len(names)
