"""Does a forward actor's memory stay level: its resident size over a long extraction.

    python benchmarks/memory.py IMAGES [--rows 5000] [--model mobilenetv3_large_100]
                                [--engine openvino] [--every 1] [--json out.json]

Runs ``extract`` on IMAGES, repeated under new names up to ROWS, and reads from /proc (Linux)
once a second the resident size of each forward actor and how many rows were answered by
then. For each actor: its size when the first 500 rows were answered, its peak after that, and
whether the peak is within 5 % of it. The first rows are left out because they pay for buffers
that are kept; the lowest size is told as well, and an actor that gives memory back is well.

Resident size counts pages of Ray's shared object store that the actor has touched, which
belong to all processes; ``own`` leaves these out, and is what a leak would grow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _common import link_images

from pipelines.extract import Options, Progress, extract
from pipelines.facts import ModelRequest

WARM_ROWS = 500
ALLOWED = 0.05
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60


@dataclass(frozen=True)
class Sample:
    """One look at an actor; sizes in MiB."""

    seconds: float
    rows: int  # answered by all actors
    resident: float
    own: float  # without shared memory


@dataclass
class Watch:
    """Looks at the forward actors among this process's descendants until told to stop."""

    every: float
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
            for pid in forward_actors(os.getpid()) | self.seen.keys():
                if size := resident(pid):
                    sample = Sample(time.monotonic() - began, self.rows, *size)
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


def resident(pid: int) -> tuple[float, float] | None:
    """Resident MiB of a process, with and without shared memory; None where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    sizes = {
        n: int(v.split()[0]) / 1024 for n, _, v in (x.partition(":") for x in lines) if "kB" in v
    }
    if "VmRSS" not in sizes:  # a zombie
        return None
    return sizes["VmRSS"], sizes["VmRSS"] - sizes.get("RssShmem", 0)


def sparkline(values: list[float]) -> str:
    low, high = min(values), max(values)
    few = values[:: max(1, -(-len(values) // WIDTH))]
    return "".join(BARS[int((v - low) / max(high - low, 1e-9) * (len(BARS) - 1))] for v in few)


def judge(samples: list[Sample], warm: int, size: str) -> dict[str, float | bool]:
    """The size at ``warm`` rows, and how far it went from there."""
    later = [getattr(sample, size) for sample in samples if sample.rows >= warm]
    base = later[0]
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
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--model", default="mobilenetv3_large_100", help="a timm name")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--every", type=float, default=1, help="seconds between two looks")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="onepass-memory-"))
    watch = Watch(given.every, given.rows)
    watcher = threading.Thread(target=watch.run, daemon=True)
    try:
        folder = link_images(given.images, work / "images", given.rows)
        watcher.start()
        outcome = extract(
            str(folder),
            ModelRequest(spec=f"timm:{given.model}"),
            work / "run",
            Options(engine=given.engine),
            report=watch.report,
        )
    finally:
        watch.stop.set()
        shutil.rmtree(work)
    watcher.join()
    manifest = outcome.run.manifest
    print(f"{given.model}, {manifest.engine} {manifest.precision}, {given.rows} rows, MiB")
    found = report(watch, min(WARM_ROWS, given.rows // 4))
    if given.json:
        columns = ["seconds", "rows", "resident", "own"]
        told = {"rows": given.rows, "columns of curve, MiB": columns, "actors": found}
        given.json.write_text(json.dumps(told, indent=2) + "\n")


def report(watch: Watch, warm: int) -> list[dict[str, Any]]:
    """Print each actor's verdict and curve; the same as plain records."""
    found = []
    for pid, samples in watch.seen.items():
        if not any(sample.rows >= warm for sample in samples):
            print(f"  actor {pid}: ended before {warm} rows")
            continue
        told: dict[str, Any] = {"pid": pid, "warm rows": warm}
        for size in ("resident", "own"):
            said = told[size] = judge(samples, warm, size)
            print(
                f"  actor {pid} {size:<9}{said['base']:6.0f} at {warm} rows, "
                f"peak {said['peak']:.0f}, ratio {said['ratio']:.3f} "
                f"(lowest {said['lowest ratio']:.3f}), target <= {1 + ALLOWED:g}  "
                f"{'met' if said['met'] else 'missed'}"
            )
            print(f"    {sparkline([getattr(sample, size) for sample in samples])}")
        told["curve"] = [[s.seconds, s.rows, s.resident, s.own] for s in samples]
        found.append(told)
    if not found:
        print("  nothing to judge: too few rows for so few looks")
    return found


if __name__ == "__main__":
    main()
