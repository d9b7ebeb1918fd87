"""What serving costs: beside a bare route, beside FAISS itself, and while the index changes.

    python benchmarks/serve.py WORK [--images DATA] [--rows 1000000] [--json out.json]
                               [--single] [--batch] [--micro] [--churn]

WORK is the folder of ``index.py`` and keeps the same vectors; the index served is the one that
``index.py --compare`` left of as many rows, or is built. Servers (``onepass serve``) and clients
are processes of their own. The client is a bare asyncio protocol on uvloop and the same for both
sides; all share the machine's cores, so the tables say how many cores each took. Contenders take
turns, ratios are of one round. Without one of the four flags all four parts run:

1. **single**: search by id and by vector, 32 clients, against a bare FastAPI route under the same
   uvicorn settings: requests/s, p50, p99.
2. **batch**: ``/v1/search/batch`` of 256, by vectors and by ids, from 1 and from 4 clients,
   against the same 256 through ``Snapshot.search`` in a process of its own: queries/s.
3. **micro**: micro-batching on against off.
4. **churn**: 10,000 searches while add, delete, compact, rollback, promote and reload run; every
   answer checked against brute force over the rows of the snapshot that it names.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _common import CORES
from _index_compare import RECALL, build
from _serve_churn import churn
from _serve_speed import Bench, batch, micro, single
from _vectors import made_queries, made_run, real_run

SPEED = {"single": single, "batch": batch, "micro": micro}
PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=Path, help="photos, where WORK has no crops yet")
    parser.add_argument("--rows", type=int, default=1_000_000, help="made vectors that are served")
    parser.add_argument("--queries", type=int, default=1_000, help="held out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each contender a round")
    parser.add_argument("--searches", type=int, default=10_000, help="of churn, at least")
    parser.add_argument("--cycles", type=int, default=3, help="of all changes in churn, at least")
    parser.add_argument("--json", type=Path)
    for name in (*SPEED, "churn"):
        parser.add_argument(f"--{name}", action="store_true")
    given = parser.parse_args()
    given.work = given.work.resolve()
    chosen = [n for n in (*SPEED, "churn") if getattr(given, n)] or [*SPEED, "churn"]
    real = real_run(given.images, given.work)
    machine = f"{CORES} cores, {platform.processor() or platform.machine()}"
    versions = {name: version(name) for name in PACKAGES}
    print(f"{machine}; {', '.join(f'{name} {known}' for name, known in versions.items())}")
    result: dict[str, Any] = {"machine": machine, "versions": versions, "rows": given.rows}
    bench = None
    for name in chosen:
        if name == "churn":
            result[name] = churn(given, real)
        else:
            bench = bench or speed_bench(given, real)
            result[name] = SPEED[name](bench)
        if given.json:
            given.json.write_text(json.dumps(result, indent=2) + "\n")


def speed_bench(given: argparse.Namespace, real: Any) -> Bench:
    """The index to serve, built if it is not there."""
    run = made_run(real, given.work / f"made-{given.rows}", given.rows)
    index = given.work / f"compare-made-{run.manifest.rows.written}" / "onepass"
    if not (index / "CURRENT").is_file():
        shutil.rmtree(index, ignore_errors=True)
        index.parent.mkdir(exist_ok=True)
        build(run, index, given.work / "serve-build.log", recall=RECALL)
    return Bench(given, index, made_queries(real, given.work, given.queries))


if __name__ == "__main__":
    main()
