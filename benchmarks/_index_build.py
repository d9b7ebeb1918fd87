"""``index.py --build``: time and memory of a build, from a tenth of the rows to all of them."""

from __future__ import annotations

import argparse
import shutil
import statistics
from typing import Any

import numpy as np
from _common import spread
from _index_compare import RECALL, about, build
from _vectors import FILES, made_run, part_of

from pipelines.run import Run

PARTS = (2, 5, 10, 20)  # files of FILES
ALLOWED = 0.2


def builds(given: argparse.Namespace, real: Run) -> dict[str, Any]:
    """Each size in turn, ``--build-rounds`` times, each build a new index in new processes."""
    whole = made_run(real, given.work / f"made-{given.rows}", given.rows)
    index, log = given.work / "built", given.work / "built.log"
    found: dict[int, list[dict[str, Any]]] = {}
    for _ in range(given.build_rounds):
        for files in PARTS:
            run = whole
            if files < FILES:
                run = part_of(whole, given.work / f"made-{given.rows}-files-{files}", files)
            shutil.rmtree(index, ignore_errors=True)
            done = build(run, index, log, recall=RECALL, memory=given.memory)
            told = done.told() | about(index)
            found.setdefault(run.manifest.rows.written, []).append(told)
            print(f"  {run.manifest.rows.written} rows: {done.seconds:.1f} s", flush=True)
    shutil.rmtree(index)
    return report(found, given.memory)


def report(found: dict[int, list[dict[str, Any]]], memory: str) -> dict[str, Any]:
    """Print the table; the line is fitted to the medians with equal relative weights."""
    rows = np.array(list(found), float)
    seconds = np.array([statistics.median(one["seconds"] for one in t) for t in found.values()])
    # Least squares of a / t + b * n / t = 1: every size counts alike, whatever it takes.
    start, each = np.linalg.lstsq(
        np.column_stack([1 / seconds, rows / seconds]), np.ones(len(rows)), rcond=None
    )[0]
    off = seconds / (start + each * rows) - 1
    budget = _mebibytes(memory)
    print(f"\nbuild of made vectors, budget {memory}; MiB are of the largest process")
    print(
        f"  {'rows':>9}  {'seconds':<24}{'s/million':>10}{'off line':>10}"
        f"{'own':>8}{'shared':>8}{'resident':>10}  factory"
    )
    for number, (count, told) in enumerate(found.items()):
        most = {size: max(one[size] for one in told) for size in ("own", "shared", "resident")}
        print(
            f"  {count:>9}  {spread(one['seconds'] for one in told):<24}"
            f"{seconds[number] / count * 1e6:>10.0f}{off[number]:>+10.1%}"
            f"{most['own']:>8.0f}{most['shared']:>8.0f}{most['resident']:>10.0f}"
            f"  {told[-1]['factory']}"
        )
    largest = found[max(found)][-1]["largest"]
    print("  largest processes of the last build of all rows:")
    for peak in largest:
        print(
            f"    own {peak['own']:6.0f}  shared {peak['shared']:6.0f}  resident "
            f"{peak['resident']:6.0f}  {peak['title']}"
        )
    worst = float(np.abs(off).max())
    print(
        f"  line: {start:.1f} s + {each * 1e6:.0f} s a million rows; furthest from it {worst:.1%}, "
        f"target <= {ALLOWED:.0%}  {'met' if worst <= ALLOWED else 'missed'}"
    )
    for size in ("own", "resident"):
        most_of = max(one[size] for told in found.values() for one in told)
        print(
            f"  {size} {most_of:.0f} MiB, budget <= {budget:.0f} MiB  "
            f"{'met' if most_of <= budget else 'missed'}"
        )
    return {
        "memory": memory,
        "line": {"start": float(start), "seconds a million": float(each * 1e6), "worst": worst},
        "builds": {str(count): told for count, told in found.items()},
    }


def _mebibytes(memory: str) -> float:
    """``2GB`` as the command reads it."""
    units = {"KB": 2**-10, "MB": 1, "GB": 2**10, "TB": 2**20}
    return float(memory[:-2]) * units[memory[-2:].upper()]
