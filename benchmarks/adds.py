"""What many small adds cost: segments, file handles, and the latency of a search.

    python -m benchmarks.adds [--adds 1000] [--rows 50] [--dim 256]

An index of one run of made vectors; then ``--adds`` times a run of ``--rows`` new rows is added. After
1, 10, 100, … adds, and at the end, a process of its own opens the index and prints:

* **segments** of the version, **handles** and **maps**: what the open index has open and mapped of it;
* **search ms**: the median of single exact-to-recall searches; **filtered ms**: with a condition that
  was not used before; **look-up ms**: a row by its id;
* **recall**: of the ten nearest, beside comparing with every vector;
* **add s**: the mean of the adds since the line before, and the longest.

The last line is an index of the same rows that is built at once, of which **longest add s** is the time:
what the latencies would be without adds.

The adds are measured in one process, without the start of Python.

Printed last on 2026-11-30, 2 idle cores (AMD EPYC), after 1, 10, 100 and 1,000 adds and for the same rows
built at once: segments 2, 3, 4, 7, 1; no handle; search 0.08, 0.12, 0.20, 0.51, 0.10 ms; filtered 3.0, 4.2, 5.8,
11.6, 4.4 ms; look-up 0.03, 0.03, 0.04, 0.06, 0.02 ms; recall after 1,000 0.982, built at once 0.954; an add 0.03, 0.03,
0.03, 0.09 s, the longest 2.1 s, in which a graph was built.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import runner
from index.build.update import add_runs
from index.build.version import build_index
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from tests.helpers.indexes import embeddings, make_run

SEARCHES = 200


def opened(index: str, dim: int) -> runner.Measures:
    """Open an index and measure it; runs in a process of its own."""
    snapshot = Snapshot.open(index)
    queries = embeddings(SEARCHES, seed=1, dim=dim)
    snapshot.search(queries[:1], 10)
    ids = snapshot.columns(np.arange(0, len(snapshot.rows), 7))["detection_id"][:SEARCHES]
    exact, hits = (snapshot.search(queries, 10, exact=each) for each in (True, False))
    found = [np.isin(a, b).mean() for a, b in zip(exact.rows, hits.rows, strict=True)]
    conditions = [f"row_id >= {number}" for number in range(10)]
    maps = Path("/proc/self/maps").read_text().splitlines()
    handles = [each.resolve() for each in Path("/proc/self/fd").iterdir()]
    return {
        "segments": len(snapshot.manifest.segments),
        "handles": sum(index in str(handle) for handle in handles),
        "maps": sum(index in line for line in maps),
        "search ms": _median_ms(lambda row: snapshot.search(queries[row : row + 1], 10), SEARCHES),
        "filtered ms": _median_ms(
            lambda row: snapshot.search(queries[:1], 10, filter=Filter(conditions[row])), 10
        ),
        "look-up ms": _median_ms(lambda row: snapshot.row_of(ids[row % len(ids)]), SEARCHES),
        "recall": float(np.mean(found)),
    }


def _median_ms(work: Callable[[int], object], times: int) -> float:
    seconds = []
    for number in range(times):
        began = time.perf_counter()
        work(number)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def main() -> None:
    parser = runner.arguments(__doc__, rounds=1)
    parser.add_argument("--adds", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=50, help="of each add")
    parser.add_argument("--dim", type=int, default=256)
    given = runner.parsed(parser, adds=30)
    report = runner.Report(f"adds of {given.rows} rows of {given.dim} values")
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        runs = [make_run(Path(folder) / "base", embeddings(2000, dim=given.dim), prefix="base")]
        build_index(runs, index)
        seconds: list[float] = []
        shown = {10**power for power in range(6)} | {given.adds}
        for number in range(1, given.adds + 1):
            vectors = embeddings(given.rows, seed=number + 10, dim=given.dim)
            run = make_run(Path(folder) / f"run{number}", vectors, prefix=f"{number}-")
            runs.append(run)
            began = time.perf_counter()
            add_runs(index, [run])
            seconds.append(time.perf_counter() - began)
            if number in shown:
                measures = runner.call(opened, index=str(index), dim=given.dim).answer()
                measures |= {"add s": statistics.mean(seconds), "longest add s": max(seconds)}
                report.rounds[f"after {number} adds"] = [measures]
                seconds = []
        began = time.perf_counter()
        build_index(runs, Path(folder) / "at_once")
        took = time.perf_counter() - began
        measures = runner.call(opened, index=str(Path(folder) / "at_once"), dim=given.dim).answer()
        report.rounds["the same rows built at once"] = [
            measures | {"add s": took / given.adds, "longest add s": took}
        ]
    report.show()
    report.write(given.json)


if __name__ == "__main__":
    main()
