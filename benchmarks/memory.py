"""Does memory stay level: the resident size of what answers, over a long extraction.

    python benchmarks/memory.py IMAGES [--executor local|ray] [--rows 20000]
                                [--model mobilenetv3_large_100] [--engine openvino] [--json out.json]

Runs ``extract`` on IMAGES, repeated under new names up to ROWS, and reads from /proc (Linux)
once a second the resident size of this process, which the local executor works in, or of each of
Ray's forward actors, and how many rows were answered by then. For each: its usual size while the
second 1,000 rows were answered, its peak after that and in each tenth of the rows, and whether the
peak is within 5 % of that size. The first rows are left out because they pay for buffers that are
kept; the lowest size is told as well, and a process that gives memory back is well.

Resident size counts mapped files, and pages of Ray's shared object store that an actor has touched,
which belong to all processes; ``own`` leaves these out, and is what a leak would grow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _common import link_images
from _processes import sizes_of

from pipelines.extract import Options, Progress, extract
from pipelines.model_info import ModelRequest

WARM_ROWS = 1000
ALLOWED = 0.05
TENTHS = 10


@dataclass(frozen=True)
class Sample:
    """One look at a process; sizes in MiB."""

    seconds: float
    rows: int  # answered by all of them
    resident: float
    own: float  # without shared memory and mapped files


@dataclass
class Watch:
    """Looks at this process or, with Ray, at the forward actors below it, until told to stop."""

    every: float
    executor: str
    planned: int
    rows: int = 0
    seen: dict[int, list[Sample]] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def report(self, progress: Progress) -> None:
        if progress.stage == "extracting":
            self.rows = progress.done

    def run(self) -> None:
        began = time.monotonic()
        # An actor with nothing left to do is on its way out.
        while not self.stop.wait(self.every) and self.rows < self.planned:
            here = os.getpid()
            at_work = {here} if self.executor == "local" else forward_actors(here)
            for pid in at_work | self.seen.keys():
                if sizes := sizes_of(pid):
                    resident = sizes["VmRSS"]
                    sample = Sample(time.monotonic() - began, self.rows, resident, sizes["RssAnon"])
                    self.seen.setdefault(pid, []).append(sample)


def forward_actors(driver: int) -> set[int]:
    """Descendants of ``driver`` that Ray named after the forward stage."""
    parents, named = {}, set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
            title = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if title.startswith(b"ray::") and b"ForwardActor" in title:
            named.add(int(entry.name))

    def descends(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return {pid for pid in named if descends(pid)}


def tenths(samples: list[Sample], planned: int, size: str) -> list[float]:
    """The peak while each tenth of the rows was answered; of one too short for a look, none."""
    peaks: dict[int, float] = {}
    for sample in samples:
        tenth = min(sample.rows * TENTHS // planned, TENTHS - 1)
        peaks[tenth] = max(peaks.get(tenth, 0.0), getattr(sample, size))
    return [peaks.get(tenth, 0.0) for tenth in range(TENTHS)]


def judge(samples: list[Sample], warm: int, size: str) -> dict[str, float | bool]:
    """The usual size after ``warm`` rows, while as many again come, and how far it went from there."""
    later = [getattr(sample, size) for sample in samples if sample.rows >= warm]
    base = statistics.median(
        [getattr(sample, size) for sample in samples if warm <= sample.rows < 2 * warm] or later[:1]
    )
    up, down = max(later) / base, min(later) / base
    return {
        "base": base,
        "peak": max(later),
        "ratio": up,
        "lowest ratio": down,
        "met": up <= 1 + ALLOWED,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--executor", choices=["local", "ray"], default="local")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--model", default="mobilenetv3_large_100", help="a timm name")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--every", type=float, default=1, help="seconds between two looks")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="onepass-memory-"))
    watch = Watch(given.every, given.executor, given.rows)
    watcher = threading.Thread(target=watch.run, daemon=True)
    try:
        folder = link_images(given.images, work / "images", given.rows)
        watcher.start()
        outcome = extract(
            str(folder),
            ModelRequest(spec=f"timm:{given.model}"),
            work / "run",
            Options(engine=given.engine, executor=given.executor),
            report=watch.report,
        )
    finally:
        watch.stop.set()
        shutil.rmtree(work)
    watcher.join()
    manifest = outcome.run.manifest
    print(
        f"{given.executor}, {given.model}, {manifest.engine} {manifest.precision}, "
        f"{given.rows} rows in {manifest.seconds:.0f} s, MiB"
    )
    found = report(watch, min(WARM_ROWS, given.rows // 4))
    if given.json:
        columns = ["seconds", "rows", "resident", "own"]
        told = {"rows": given.rows, "columns of curve, MiB": columns, "processes": found}
        given.json.write_text(json.dumps(told, indent=2) + "\n")


def report(watch: Watch, warm: int) -> list[dict[str, Any]]:
    """Print each process's verdict and curve; the same as plain records."""
    found = []
    for pid, samples in watch.seen.items():
        if not any(sample.rows >= warm for sample in samples):
            print(f"  process {pid}: ended before {warm} rows")
            continue
        told: dict[str, Any] = {"pid": pid, "warm rows": warm}
        for size in ("resident", "own"):
            said = told[size] = judge(samples, warm, size)
            print(
                f"  process {pid} {size:<9}{said['base']:6.0f} at {warm} rows, "
                f"peak {said['peak']:.0f}, ratio {said['ratio']:.3f} "
                f"(lowest {said['lowest ratio']:.3f}), target <= {1 + ALLOWED:g}  "
                f"{'met' if said['met'] else 'missed'}"
            )
            peaks = told[f"{size} in tenths"] = tenths(samples, watch.planned, size)
            print("    peak in each tenth of the rows: " + " ".join(f"{p:.0f}" for p in peaks))
        told["curve"] = [[s.seconds, s.rows, s.resident, s.own] for s in samples]
        found.append(told)
    if not found:
        print("  nothing to judge: too few rows for so few looks")
    return found


if __name__ == "__main__":
    main()
