"""What is lost when the cluster of an extraction is hit by faults: rows, and time.

    python -m benchmarks.faults [--faults 100] [--rows 5000] [--only KIND ...]

Random faults (``tests/helpers/faults.py``), several a run, on a Ray cluster of three nodes; where the
command ends with an error, the same is given again. A command that does not end in time hangs. Whole
sessions are killed in ``kills.py``.

In each run that has ended every planned row must stand exactly once, every file be whole, and class
and embedding of every row be bit for bit those of an undisturbed run. Exit code 1 where not.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runner
from tests.helpers.chaos import BLOCK_ROWS, NODES, SLOTS, SLOW_SECONDS, Chaos, Outcome
from tests.helpers.faults import KINDS, environment
from tests.helpers.ray_cluster import cluster

COLUMNS = ["row_id", "label", "score", "embedding", "error"]
STORE_BYTES = 90 * 2**20
START_SECONDS = 15.0  # in which one in five faults of chaos falls


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
    parser.add_argument("--faults", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="of the faults")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--hang", type=float, default=300, help="seconds that no command may take")
    parser.add_argument("--seed", type=int, default=0)
    given = runner.parsed(parser, faults=1, rows=500)
    report = runner.Report(f"faults, {given.rows} rows, seed {given.seed}")
    with runner.folder() as work:
        report.rounds["chaos"] = [chaos(given, work, random.Random(given.seed))]
    report.show()
    report.write(given.json)
    bad = ("rows lost", "rows twice", "rows that differ", "hangs", "processes left")
    if any(report.rounds["chaos"][0].get(name, 0) for name in bad):
        sys.exit(1)


if __name__ == "__main__":
    main()
