"""Random faults, several a run, over runs of 5,000 rows on three nodes: what is lost?

    python benchmarks/chaos.py [--faults 100] [--rows 5000] [--seed 0] [--json F] [--only KIND …]

Each run extracts the same images with the tiny model on a cluster of three worker nodes on this
machine. At random moments of it faults happen (``_faults.py``). Where the command ends with an
error or is killed, the same command is given again, as a user would. At the end every planned
row must stand exactly once, every file be whole, no process of the run be left, and class and
embedding of every row be bit for bit those of an undisturbed run. A command that does not end
within --hang seconds is a hang.

A fault *recovered by itself* if the command that it hit went on to its end; otherwise by giving
the same command again. Of the faults that hit one command, the last before its end is taken
for the cause. The seconds a run lost over the undisturbed one are shared by its faults.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _common import CORES, HERE
from _faults import INSIDE, KINDS, Faults, environment
from kill_and_resume import group, make_source

from pipelines.run import Run
from tests.nodes import Cluster, cluster

NODES, SLOTS = 3, 2
BLOCK_ROWS = 128
SLOW_SECONDS = 0.25  # every block takes longer, so that there is a middle for faults to hit
STORE_BYTES = 90 * 2**20
MOST_COMMANDS = 8  # for one run
LEFT_SECONDS = 20.0  # for workers of a run to be gone after it


@dataclass
class Ran:
    """One run, from its first command to its end."""

    seconds: float
    commands: int = 1
    happened: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)  # faults after which the command was given again
    hangs: int = 0
    lost: int = 0
    twice: int = 0
    other: int = 0  # rows that differ from the undisturbed run's
    left: list[str] = field(default_factory=list)  # processes
    said: list[str] = field(default_factory=list)  # by commands that ended with an error


class Chaos:
    """The cluster, the images, and what an undisturbed run makes of them."""

    def __init__(
        self, nodes: Cluster, work: Path, rows: int, dice: random.Random, hang_seconds: float
    ) -> None:
        self.nodes, self.work, self.rows, self.dice = nodes, work, rows, dice
        self.hang_seconds = hang_seconds
        self.faults = Faults(nodes, work / "faults", dice)
        self.source = make_source(work / "images", rows)
        self.log = work / "log"
        self._runs = 0
        self.truth: pa.Table | None = None

    def run(self, planned: list[tuple[float, str]]) -> Ran:
        """One run with faults at moments (seconds after its start); what came of it."""
        self._runs += 1
        out = self.work / f"run-{self._runs}"
        command = [
            *(sys.executable, str(HERE / "_few_actors.py"), str(NODES), str(BLOCK_ROWS)),
            *("extract", str(self.source), "--model", "tiny", "--out", str(out)),
            *("--stall-seconds", "60"),
        ]
        began = time.monotonic()
        ran = Ran(0.0, commands=0)
        waiting = sorted(planned)
        while ran.commands < MOST_COMMANDS:
            ran.commands += 1
            code, last = self._command(command, began, waiting, ran)
            if code == 0:
                break
            ran.again.append(last or "start")
        ran.seconds = time.monotonic() - began
        self.faults.clear()
        self._judge(out, ran)
        shutil.rmtree(out, ignore_errors=True)
        return ran

    def _command(
        self, command: list[str], began: float, waiting: list[tuple[float, str]], ran: Ran
    ) -> tuple[int, str | None]:
        """Give the command once; its exit code, and the last fault that it met."""
        last = None
        deadline = time.monotonic() + self.hang_seconds
        at = self.log.stat().st_size if self.log.exists() else 0
        with group(command, self.log, env=self.nodes.env) as driver:
            while driver.poll() is None:
                if time.monotonic() > deadline:
                    ran.hangs += 1
                    break
                while waiting and waiting[0][0] < time.monotonic() - began:
                    _, kind = waiting.pop(0)
                    done = driver.poll() is None and self.faults.do(kind, driver)
                    if done and kind not in INSIDE:
                        ran.happened.append(kind)
                        last = kind
                for kind in self.faults.happened():
                    ran.happened.append(kind)
                    last = kind
                time.sleep(0.02)
        for kind in self.faults.happened():
            ran.happened.append(kind)
            last = kind
        code = driver.returncode
        if code:
            said = self.log.read_text(errors="replace")[at:].strip().splitlines()
            ran.said.append(f"{code}: {said[-1] if said else ''}")
        return code, last

    def _judge(self, out: Path, ran: Ran) -> None:
        try:
            run = Run.open(out)
            found = run.table(["row_id", "label", "score", "embedding", "error"])
            run.verify()
        except Exception as error:
            ran.said.append(f"not verified: {error}")
            ran.lost = self.rows
            return
        ids = Counter(found["row_id"].to_pylist())
        ran.lost = sum(row not in ids for row in range(self.rows))
        ran.twice = sum(count > 1 for count in ids.values())
        if self.truth is None:
            self.truth = found
        elif not ran.lost and not ran.twice:
            ran.other = differing(self.truth, found)
        deadline = time.monotonic() + LEFT_SECONDS
        while titles := self._left():
            if time.monotonic() > deadline:
                ran.left = titles
                break
            time.sleep(0.2)

    def _left(self) -> list[str]:
        """Processes on the cluster that belong to a run."""
        return ["actor" for _ in self.nodes.pids("ray::MapWorker(")] + [
            "board" for _ in self.nodes.pids("ray::Board")
        ]


def differing(a: pa.Table, b: pa.Table) -> int:
    """Rows whose answers are not the same, bit for bit."""
    rows = np.zeros(a.num_rows, bool)
    for name in ("label", "score", "error"):
        one, two = a[name].to_pylist(), b[name].to_pylist()
        rows |= np.array([x != y for x, y in zip(one, two, strict=True)])
    one, two = (
        t["embedding"].combine_chunks().flatten().to_numpy().reshape(t.num_rows, -1) for t in (a, b)
    )
    return int((rows | (one.view(np.uint32) != two.view(np.uint32)).any(1)).sum())


def table(runs: list[Ran], quiet: float) -> list[dict[str, Any]]:
    """One line a kind of fault."""
    lines = []
    for kind in (*KINDS, "start"):
        hit = [run for run in runs if kind in run.happened or kind in run.again]
        injected = sum(run.happened.count(kind) for run in hit)
        again = sum(run.again.count(kind) for run in hit)
        if not injected and not again:
            continue
        lost = [(run.seconds - quiet) / len(run.happened) for run in hit if run.happened]
        lines.append(
            {
                "fault": kind,
                "injected": injected,
                "by itself": injected - again,
                "same command": again,
                "seconds lost": statistics.median(lost) if lost else 0.0,
            }
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=5, help="faults a run")
    parser.add_argument("--hang", type=float, default=300, help="seconds")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    dice = random.Random(given.seed)
    work = Path(tempfile.mkdtemp(prefix="onepass-chaos-"))
    (work / "faults").mkdir()
    (work / "faults" / "slow").write_text(str(SLOW_SECONDS))
    runs: list[Ran] = []
    began = time.monotonic()
    try:
        with cluster(
            *[SLOTS] * NODES, env=environment(work / "faults"), store_bytes=STORE_BYTES
        ) as nodes:
            chaos = Chaos(nodes, work, given.rows, dice, given.hang)
            filler = [sys.executable, str(HERE / "_filler.py"), nodes.address]
            with chaos.faults.filler(filler, {**os.environ, **nodes.env}, work / "filler.log"):
                chaos.run([])  # the first imports everything from a cold disk
                quiet = chaos.run([]).seconds
                print(
                    f"{given.rows} rows, {NODES} nodes, {CORES} cores, seed {given.seed}; "
                    f"undisturbed {quiet:.0f} s",
                    flush=True,
                )
                deck: list[str] = []
                while (done := sum(len(run.happened) for run in runs)) < given.faults:
                    each = min(given.each, given.faults - done)
                    while len(deck) < each:
                        deck += dice.sample(given.only, len(given.only))
                    kinds, deck = deck[:each], deck[each:]
                    planned = [(dice.uniform(0.1, 0.9) * quiet, kind) for kind in kinds]
                    ran = chaos.run(planned)
                    runs.append(ran)
                    show(ran, len(runs), done)
                    while len(nodes.nodes) < NODES:
                        nodes.add(SLOTS)
                    nodes.wait_for(NODES)
    finally:
        if "KEEP" not in os.environ:
            shutil.rmtree(work, ignore_errors=True)
    report(runs, quiet, time.monotonic() - began, given)


def show(ran: Ran, number: int, before: int) -> None:
    bad = {
        name: value
        for name in ("lost", "twice", "other", "hangs", "left")
        if (value := getattr(ran, name))
    }
    print(
        f"run {number}, faults {before + 1} to {before + len(ran.happened)}: {ran.seconds:.0f} s, "
        f"{ran.commands} commands; {', '.join(ran.happened)}" + (f"  BAD {bad}" if bad else ""),
        flush=True,
    )
    for text in ran.said:
        print(f"    {text}", flush=True)


def report(runs: list[Ran], quiet: float, seconds: float, given: argparse.Namespace) -> None:
    lines = table(runs, quiet)
    print(f"{'fault':<36} {'injected':>8} {'by itself':>9} {'same command':>12} {'s lost':>7}")
    for line in lines:
        print(
            f"{line['fault']:<36} {line['injected']:>8} {line['by itself']:>9} "
            f"{line['same command']:>12} {line['seconds lost']:>7.1f}"
        )
    totals = {
        "faults": sum(len(run.happened) for run in runs),
        "runs": len(runs),
        "rows planned": len(runs) * given.rows,
        "rows lost": sum(run.lost for run in runs),
        "rows twice": sum(run.twice for run in runs),
        "rows that differ": sum(run.other for run in runs),
        "hangs": sum(run.hangs for run in runs),
        "processes left": sum(len(run.left) for run in runs),
        "minutes": round(seconds / 60, 1),
    }
    print(", ".join(f"{name} {value}" for name, value in totals.items()))
    if given.json:
        told = {"seed": given.seed, "undisturbed seconds": quiet, "kinds": lines, **totals}
        given.json.write_text(json.dumps(told, indent=2))
    if any(totals[name] for name in ("rows lost", "rows twice", "rows that differ", "hangs")):
        sys.exit(1)


if __name__ == "__main__":
    main()
