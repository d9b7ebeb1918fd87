"""Are lanes rightly threads: against a process a lane, and what Python's lock costs them.

    python benchmarks/lanes.py IMAGES [--model timm:mobilenetv3_large_100] [--rounds 3]
                               [--seconds 8] [--json out.json]

For decoding alone, and for decoding with each engine in float32, images/s of

* **threads**: one process, a lane a core, one engine for all, as the local executor has it;
* **processes**: a process a core with one lane and an engine of its own;
* **lanes**: one process with 1, 2, 4 and 8 lanes: more than cores, so that they get into each
  other's way.

Then one lane alone is looked at by py-spy, 200 times a second: how often it holds Python's
lock. A row's time with the lock and without it say what more cores would do, if nothing but the lock
held lanes back: N lanes wait for one lock as N customers for one desk (mean value analysis of a
closed queue; the cap is one row a row's time with the lock). Shared caches and memory hold back
threads and processes alike, and are not in it; nor are page faults, told a row, for which threads
of a process wait in the kernel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _common import CORES, HERE, spread, together

LANES = (1, 2, 4, 8)
MORE_CORES = (16, 64)
LOOKS_A_SECOND = 200
ENGINES = ("openvino", "eager") if find_spec("openvino") else ("eager",)


def loop(given: argparse.Namespace, work: str, lanes: int, **how: Any) -> list[dict[str, Any]]:
    script = [sys.executable, str(HERE / "_lane_loop.py"), work, json.dumps({"spec": given.model})]
    command = [*script, str(given.seconds), str(lanes), str(given.images)]
    return together(command, how.pop("processes", 1), **how)


def rate(given: argparse.Namespace, work: str, lanes: int, processes: int = 1) -> float:
    return sum(told["rate"] for told in loop(given, work, lanes, processes=processes))


def lock_share(given: argparse.Namespace, work: str) -> tuple[float, float, float]:
    """Of one lane: seconds of a core a row, the share of them with the lock, page faults a row."""
    shares: list[float] = []
    seconds = max(1, int(given.seconds) - 2)  # py-spy takes a moment to begin

    def look(pids: list[int]) -> None:
        with tempfile.NamedTemporaryFile("r", suffix=".raw") as raw:
            watch = [
                *("py-spy", "record", "--gil", "--format", "raw", "--output", raw.name),
                *("--rate", str(LOOKS_A_SECOND), "--duration", str(seconds)),
                *("--pid", str(pids[0])),
            ]
            subprocess.run(watch, capture_output=True, check=True)
            held = sum(int(line.rpartition(" ")[2]) for line in raw)
        shares.append(held / (LOOKS_A_SECOND * seconds))

    (alone,) = loop(given, work, 1)  # py-spy stops it at each look, so its speed is taken before
    loop(given, work, 1, began=look)
    return alone["core"], shares[0], alone["faults"]


def queued(lanes: int, seconds: float, held: float) -> float:
    """Rows a second of ``lanes`` lanes that need ``seconds`` a row, ``held`` of them with the lock."""
    waiting = found = 0.0
    for count in range(1, lanes + 1):
        at_desk = held * (1 + waiting)
        found = count / (seconds - held + at_desk)
        waiting = found * at_desk
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument(
        "--model", default="timm:mobilenetv3_large_100", help="as extract's --model"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each loop")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    works = ("decode", *ENGINES)
    rounds = []
    for _ in range(given.rounds):
        found: dict[str, float] = {}
        for work in works:
            found[f"{work}: threads"] = rate(given, work, CORES)
            found[f"{work}: processes"] = rate(given, work, 1, CORES)
        for lanes in LANES:
            found[f"decode: {lanes} lanes"] = rate(given, "decode", lanes)
        rounds.append(found)
    print(f"{given.model}, float32, {CORES} cores, images/s, medians (min..max)")
    for name in rounds[0]:
        print(f"  {name:<32}{spread(found[name] for found in rounds)}")
    medians = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    for work in works:
        name = f"{work}: threads / processes"
        values = [found[f"{work}: threads"] / found[f"{work}: processes"] for found in rounds]
        medians[name] = statistics.median(values)
        print(f"  {name:<32}{spread(values, 2)}")
    locks = {}
    if find_spec("py_spy") or Path(sys.executable).with_name("py-spy").exists():
        locks = {work: report(work, *lock_share(given, work)) for work in works}
    else:
        print("py-spy is not installed: nothing is told of the lock")
    if given.json:
        told = {"cores": CORES, "median": medians, "rounds": rounds, "lock": locks}
        given.json.write_text(json.dumps(told, indent=2) + "\n")


def report(work: str, whole: float, share: float, faults: float) -> dict[str, float]:
    held = share * whole
    told = {"ms": 1000 * whole, "share": share, "held ms": 1000 * held, "faults": faults}
    more = []
    for cores in MORE_CORES:
        told[f"efficiency at {cores}"] = queued(cores, whole, held) * whole / cores
        more.append(f"{cores} cores {told[f'efficiency at {cores}']:.2f}")
    print(
        f"  {work}, one lane: {1000 * whole:.2f} ms a row, {1000 * held:.3f} of them with the lock "
        f"({100 * share:.1f} %), {faults:.0f} page faults; at most {1 / max(held, 1e-9):.0f} images/s "
        f"a process; efficiency of {', '.join(more)}"
    )
    return told


if __name__ == "__main__":
    main()
