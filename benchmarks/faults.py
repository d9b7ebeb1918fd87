"""What is lost when an extraction is killed, or its cluster is hit by faults: rows, and time.

    python -m benchmarks.faults kills  [--executor local|ray] [--kills 100] [--rows 2000]
    python -m benchmarks.faults chaos  [--faults 100] [--rows 5000] [--only KIND ...]

* **kills**: every session is killed with SIGKILL, all of its processes at once, and the same command
  goes on; two in five moments are drawn from the whole time that an undisturbed run takes, the others
  are the n-th change of what the run writes, because most of a small run is start-up.
* **chaos**: random faults (``tests/helpers/faults.py``), several a run, on a Ray cluster of three nodes; where
  the command ends with an error, the same is given again. A command that does not end in time hangs.

In each run that has ended every planned row must stand exactly once, every file be whole, and class
and embedding of every row be bit for bit those of an undisturbed run. Exit code 1 where not.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work): 3 kills of 500 rows, all after a
commit: nothing lost, twice or different.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runner
from pipelines.execution.checkpoints import committed_rows
from pipelines.run import Run
from tests.helpers.chaos import BLOCK_ROWS, NODES, SLOTS, SLOW_SECONDS, Chaos, Outcome, differing
from tests.helpers.faults import KINDS, environment
from tests.helpers.killed_runs import (
    check,
    events_before_kill,
    extract_command,
    finish,
    kill_after,
    kill_once,
    make_source,
)
from tests.helpers.ray_cluster import cluster

COLUMNS = ["row_id", "label", "score", "embedding", "error"]
STORE_BYTES = 90 * 2**20
START_SECONDS = 15.0  # in which one in five faults of chaos falls


def kills(given: Any, work: Path, dice: random.Random) -> dict[str, float]:
    """Runs of killed sessions; what is wrong with the runs, added up."""
    source, log = make_source(work / "images", given.rows), work / "log"
    finish(extract_command(source, work / "first", given.executor), log)  # from a cold disk
    quiet = work / "undisturbed"
    length = finish(extract_command(source, quiet, given.executor), log)
    exact = Run.open(quiet).to_arrow(COLUMNS).sort_by("row_id")
    found: Counter[str] = Counter()
    while found["kills"] < given.kills:
        out = work / f"run-{found['runs']}"
        command, committed = extract_command(source, out, given.executor), 0
        while found["kills"] < given.kills:
            if dice.random() < 0.4:
                killed = kill_after(command, log, dice.uniform(0, length))
            else:
                try:
                    kill_once(command, out, events_before_kill(dice, 3), log)
                    killed = True
                except RuntimeError:  # it ended before there were so many events
                    killed = False
            if not killed:
                break
            before, committed = committed, committed_rows(out)
            found["kills"] += 1
            found["kills after a commit"] += committed > 0
            found["rows lost"] += max(0, before - committed)
        finish(command, log)  # what has ended stays
        found["runs"] += 1
        table = Run.open(out).to_arrow(COLUMNS).sort_by("row_id")
        distinct = len(set(table["row_id"].to_pylist()))
        found["rows lost"] += given.rows - distinct
        found["rows twice"] += table.num_rows - distinct
        if distinct == table.num_rows == given.rows:
            check(out, given.rows)
            found["rows that differ"] += differing(exact, table)
        print(f"run {found['runs']}: {dict(found)}", file=sys.stderr, flush=True)
        shutil.rmtree(out)
    return {"undisturbed s": length, **found}


def fill(address: str) -> None:
    """Another job of a cluster: for each line of stdin, fill the object stores so many seconds."""
    import ray

    size = 8 * 2**20

    def piece() -> np.ndarray:
        return np.ones(size, np.uint8)

    task = ray.remote(num_cpus=0, scheduling_strategy="SPREAD", max_retries=0)(piece)

    ray.init(address, log_to_driver=False, logging_level="error")
    for line in sys.stdin:
        stores = ray.cluster_resources().get("object_store_memory", 0)
        held = [task.remote() for _ in range(int(1.5 * stores / size))]
        ray.wait(held, num_returns=len(held), timeout=float(line))
        time.sleep(float(line) / 2)
        del held


def moment(dice: random.Random, blocks: int, kind: str) -> tuple[int, float, str]:
    """When a fault is due: one in five while the run starts, the others by what is written."""
    if dice.random() < 0.2:
        return 0, dice.uniform(0, START_SECONDS), kind
    return dice.randint(0, int(0.8 * blocks)), 0.0, kind


def chaos(given: Any, work: Path, dice: random.Random) -> dict[str, float]:
    """Runs with faults; what is wrong with them, added up, and the faults by kind."""
    (work / "faults").mkdir()
    (work / "faults" / "slow").write_text(str(SLOW_SECONDS))
    runs: list[Outcome] = []
    env = environment(work / "faults")
    with cluster(*[SLOTS] * NODES, env=env, store_bytes=STORE_BYTES) as nodes:
        world = Chaos(nodes, work, given.rows, dice, given.hang)
        filler = runner.child_command(fill, {"address": nodes.address})
        with world.faults.filler(filler, {**os.environ, **nodes.env}, work / "filler.log"):
            world.run()  # the first imports everything from a cold disk
            quiet = world.run().seconds
            deck: list[str] = []
            while (done := sum(len(run.happened) for run in runs)) < given.faults:
                each = min(5, given.faults - done)
                while len(deck) < each:
                    deck += dice.sample(given.only, len(given.only))
                kinds, deck = deck[:each], deck[each:]
                ran = world.run([moment(dice, given.rows // BLOCK_ROWS, kind) for kind in kinds])
                runs.append(ran)
                what = f"{ran.commands} commands, {', '.join(ran.happened)} {ran.errors}"
                print(f"run {len(runs)}: {ran.seconds:.0f} s, {what}", file=sys.stderr, flush=True)
    happened, again = Counter[str](), Counter[str]()
    for run in runs:
        happened.update(run.happened)
        again.update(run.again)
    found = {"undisturbed s": quiet, "runs": len(runs), "faults": happened.total()}
    found |= {f"{kind}, the same command again": again[kind] for kind in again}
    found |= {f"{kind}, in all": happened[kind] for kind in happened}
    for name, attribute in (("lost", "lost"), ("twice", "twice"), ("that differ", "other")):
        found[f"rows {name}"] = sum(getattr(run, attribute) for run in runs)
    found["hangs"] = sum(run.hangs for run in runs)
    found["processes left"] = sum(len(run.left) for run in runs)
    return found


def main() -> None:
    parser = runner.arguments(__doc__, rounds=1)
    parser.add_argument("what", choices=["kills", "chaos"])
    parser.add_argument("--executor", choices=["local", "ray"], default="local", help="of kills")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--faults", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="faults of chaos")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--hang", type=float, default=300, help="seconds that no command may take")
    parser.add_argument("--seed", type=int, default=0)
    given = runner.parsed(parser, kills=3, faults=1, rows=500)
    report = runner.Report(f"{given.what}, {given.rows} rows, seed {given.seed}")
    with runner.folder() as work:
        run = kills if given.what == "kills" else chaos
        report.rounds[given.what] = [run(given, work, random.Random(given.seed))]
    report.show()
    report.write(given.json)
    bad = ("rows lost", "rows twice", "rows that differ", "hangs", "processes left")
    if any(report.rounds[given.what][0].get(name, 0) for name in bad):
        sys.exit(1)


if __name__ == "__main__":
    main()
