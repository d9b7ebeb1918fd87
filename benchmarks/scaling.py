"""How images/s grow with workers, and what holds them back.

    python benchmarks/scaling.py [--workers 1 2 4] [--images FOLDER] [--model SPEC] [--json F]

A worker is a Ray node of its own with one forward actor on one core, decoding included, as
``extract`` lays a CPU cluster out. Each node is held to one core of this machine, in turn, so
that workers up to the number of cores are as alone as machines are; beyond that they share,
and the table says so. The rate is taken between whole files while all actors are at work
(``_extract.py``); efficiency is images/s over those of one worker times the workers.

The limit is named from what was measured: where workers outnumber cores it is the cores; where
actors waited for blocks it is what feeds them (reading, writing, Ray); where they did not, and
their cores were still not theirs, other programs had them; else it is the work of a core
itself, and the larger part of it is named: decode, or the network. Both are timed alone, on one
core, before the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from _common import CORES, ENVIRONMENT, HERE, link_images
from _drawn import draw_images
from _processes import busy_seconds
from _scale import BLOCK_ROWS

from tests.nodes import cluster

SLOTS = 3  # of a node: its actor, tasks beside it, and room for Ray's checkpoint filter
BUSY = 0.85  # of its time; a worker that is less so waits for something


@dataclass(frozen=True)
class Measured:
    """One run on so many workers."""

    workers: int
    rows: int
    rate: float  # images/s
    first_seconds: float  # until the first answer
    waited: float  # share of their time that actors waited for a block
    busy: float  # of the cores that the workers have, 0 to 1
    efficiency: float = 1.0
    limit: str = ""


def one_run(images: Path, model: str, engine: str, workers: int, work: Path) -> Measured:
    """Extract ``images`` on a fresh cluster of ``workers`` nodes."""
    cores = sorted(os.sched_getaffinity(0))
    held = [[cores[number % len(cores)]] for number in range(workers)]
    with cluster(*[SLOTS] * workers, cores=held) as nodes:
        used: list[tuple[float, dict[int, float]]] = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.5):
                pids = [pid for node in nodes.nodes for pid in node.pids()]
                used.append((time.time(), busy_seconds(pids)))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            done = subprocess.run(
                [
                    *(sys.executable, str(HERE / "_scale.py"), str(images), model),
                    *(str(work / f"run-{workers}"), str(workers), engine),
                ],
                env={**ENVIRONMENT, **nodes.env},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=3600,
            )
        finally:
            stop.set()
            watcher.join()
    told = json.loads(done.stdout.splitlines()[-1])
    at_work = [(at, seconds) for at, seconds in used if told["from"] <= at <= told["to"]]
    busy = 1.0
    if len(at_work) > 1:
        (a, before), (b, after) = at_work[0], at_work[-1]
        # Of a process that began in between, all; of one that ended, nothing: they are few.
        grown = sum(after[pid] - before.get(pid, 0.0) for pid in after)
        busy = grown / (b - a) / min(workers, len(cores))
    return Measured(
        workers, told["rows"], told["rate"], told["first"], told["waited"], min(busy, 1.0)
    )


def limit(found: Measured, costs: dict[str, float]) -> str:
    """What keeps ``found`` from being faster."""
    if found.workers > CORES:
        return f"cores: {found.workers} workers share {CORES}"
    if found.waited > 1 - BUSY:
        return f"feeding: actors wait for blocks {100 * found.waited:.0f} % of the time"
    if found.busy < BUSY:
        return f"cores: others have {100 * (1 - found.busy):.0f} % of the workers'"
    name = max(costs, key=costs.__getitem__)
    share = 100 * costs[name] / sum(costs.values())
    return f"{name}: {share:.0f} % of a core's work"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--images", type=Path, help="a folder of JPEG files; drawn if not given")
    parser.add_argument("--model", default="lite0", help="as extract's --model")
    parser.add_argument("--engine", default="eager", choices=["eager", "compile", "openvino"])
    parser.add_argument("--rows", type=int, default=1024, help="images a worker")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    work = Path(tempfile.mkdtemp(prefix="onepass-scaling-"))
    found: list[Measured] = []
    try:
        most = given.rows * max(given.workers)
        source = given.images or draw_images(work / "drawn", 512)
        costs = alone(source, given.model, given.engine)
        print(
            f"{given.model}, {given.engine}, {CORES} cores, {platform.processor() or platform.machine()}"
        )
        print("one core alone, ms an image: " + ", ".join(f"{k} {v:.2f}" for k, v in costs.items()))
        print(f"{'workers':>7} {'images':>7} {'images/s':>9} {'efficiency':>11} {'busy':>5}  limit")
        folder = link_images(source, work / "all", most)
        names = sorted(folder.iterdir())
        for workers in given.workers:
            manifest = work / f"{workers}.csv"
            chosen = names[: given.rows * workers]
            manifest.write_text("\n".join(["image", *map(str, chosen)]) + "\n")
            one = one_run(manifest, given.model, given.engine, workers, work)
            base = found[0].rate / found[0].workers if found else one.rate / workers
            one = Measured(
                **{
                    **asdict(one),
                    "efficiency": one.rate / workers / base,
                    "limit": limit(one, costs),
                }
            )
            found.append(one)
            print(
                f"{one.workers:>7} {one.rows:>7} {one.rate:>9.1f} {one.efficiency:>11.2f} "
                f"{one.busy:>5.2f}  {one.limit}",
                flush=True,
            )
    finally:
        shutil.rmtree(work)
    if given.json:
        told = {
            "model": given.model,
            "engine": given.engine,
            "cores": CORES,
            "machine": platform.platform(),
            "block_rows": BLOCK_ROWS,
            "alone_ms": costs,
            "runs": [asdict(one) for one in found],
        }
        given.json.write_text(json.dumps(told, indent=2))


def alone(images: Path, model: str, engine: str) -> dict[str, float]:
    """Milliseconds an image of decoding and of the network, on one core, in a process."""
    done = subprocess.run(
        [
            *("taskset", "-c", str(min(os.sched_getaffinity(0)))),
            *(sys.executable, str(HERE / "_scale.py"), "--alone", str(images), model, engine),
        ],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=900,
    )
    costs: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return costs


if __name__ == "__main__":
    main()
