"""What the index is worth: beside others, while it is built, under filters, when it is killed.

    python benchmarks/index.py WORK [--images DATA] [--rows 1000000] [--json out.json]
                               [--compare] [--build] [--filters] [--kill]

WORK keeps what takes long: the real vectors (see ``_vectors.py``; --images is where they are
extracted from the first time), the made ones, and the indexes of hnswlib and usearch; onepass is
built anew. Without one of the four flags all four parts run:

1. **compare**: ``Snapshot.search`` at ``auto`` against hnswlib and usearch (float32, M 16,
   ef_construction 200, each at its smallest search parameter that reaches recall@10 of 0.95 on
   the same held-out queries), in batches on all cores and one query a call on one thread;
   contenders in turns, ratios of each round. On the real vectors and on ``--rows`` made ones.
2. **build**: ``onepass index build --memory`` of a tenth, a quarter, a half and all rows, as whole
   processes; the peak of every process in the tree, and how far times are from a line.
3. **filters**: 50, 10, 1 and 0.1 % of the rows, at random and lying together: recall against
   brute force under the same filter, and latency. On the index that compare left, if it did.
4. **kill**: SIGKILL at random moments of build, add, compact and promote; after each the served
   snapshot must verify and answer right, and the next command must succeed.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _common import CORES
from _index_build import builds
from _index_compare import compare
from _index_filters import filters
from _index_kill import kills
from _vectors import real_run

PARTS = {"compare": compare, "build": builds, "filters": filters, "kill": kills}
PACKAGES = ("faiss-gpu", "hnswlib", "usearch", "numpy", "pyarrow")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=Path, help="photos, where WORK has no crops yet")
    parser.add_argument("--rows", type=int, default=1_000_000, help="made vectors")
    parser.add_argument("--queries", type=int, default=1_000, help="held out")
    parser.add_argument("--rounds", type=int, default=5, help="of compare")
    parser.add_argument("--seconds", type=float, default=5, help="of each contender a round")
    parser.add_argument("--build-rounds", type=int, default=1)
    parser.add_argument("--memory", default="2GB", help="budget of build")
    parser.add_argument("--filter-queries", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--kill-rows", type=int, default=20_000, help="of the index killed at")
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    parser.add_argument("--json", type=Path)
    for name, part in PARTS.items():
        parser.add_argument(f"--{name}", action="store_true", help=str(part.__doc__))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    given.work = given.work.resolve()
    chosen = [name for name in PARTS if getattr(given, name)] or list(PARTS)
    real = real_run(given.images, given.work)
    machine = f"{CORES} cores, {platform.processor() or platform.machine()}"
    versions = {name: version(name) for name in PACKAGES}
    print(f"{machine}; {', '.join(f'{name} {known}' for name, known in versions.items())}")
    result: dict[str, Any] = {"machine": machine, "versions": versions, "rows": given.rows}
    for name in chosen:
        result[name] = PARTS[name](given, real)
        if given.json:  # after each part: a later one may take hours
            given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
