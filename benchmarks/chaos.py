"""Random faults, several a run, over runs of 5,000 rows on three nodes: what is lost?

    python benchmarks/chaos.py [--faults 100] [--rows 5000] [--seed 0] [--json F] [--only KIND …]

Each run extracts the same images with the tiny model on a cluster of three worker nodes on this
machine. At random moments of it faults happen (``tests/faults.py``). Where the command ends with an
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
from pathlib import Path
from typing import Any

from _common import CORES, HERE

from tests.chaos import BLOCK_ROWS, NODES, SLOTS, SLOW_SECONDS, Chaos, Ran
from tests.faults import KINDS, environment
from tests.nodes import cluster

STORE_BYTES = 90 * 2**20
START_SECONDS = 15.0


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


def moment(dice: random.Random, blocks: int, kind: str) -> tuple[int, float, str]:
    """When a fault is due: one in five while the run starts, the others by what is written."""
    if dice.random() < 0.2:
        return 0, dice.uniform(0, START_SECONDS), kind
    return dice.randint(0, int(0.8 * blocks)), 0.0, kind


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
    began, quiet = time.monotonic(), 0.0
    try:
        with cluster(
            *[SLOTS] * NODES, env=environment(work / "faults"), store_bytes=STORE_BYTES
        ) as nodes:
            chaos = Chaos(nodes, work, given.rows, dice, given.hang)
            filler = [sys.executable, str(HERE / "_filler.py"), nodes.address]
            with chaos.faults.filler(filler, {**os.environ, **nodes.env}, work / "filler.log"):
                chaos.run()  # the first imports everything from a cold disk
                quiet = chaos.run().seconds
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
                    blocks = chaos.rows // BLOCK_ROWS
                    planned = [moment(dice, blocks, kind) for kind in kinds]
                    ran = chaos.run(planned)
                    runs.append(ran)
                    show(ran, len(runs), done)
    except KeyboardInterrupt:  # what has been seen is told
        pass
    finally:
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
