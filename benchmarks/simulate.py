"""The pipeline on paper: held against measured runs, and asked about clusters that are not here.

    python benchmarks/scaling.py --workers 1 2 3 --json scaling.json
    python benchmarks/simulate.py --check scaling.json
    python benchmarks/simulate.py --rows 1000000000 --nodes 16 --lost-every-hours 6

``--check`` takes the costs of a row from the run on one worker, and from it alone, and tells what
the simulator says of the others beside what was measured. Without it the run is one of ``--rows``
rows on ``--nodes`` GPU nodes at the costs of ``docs/scale.md``, which options change. The events are
those of ``_pipeline_sim.py``; ``pipelines/forecast/formula.py`` is the formula that ``--dry-run`` uses.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from _pipeline_sim import Cluster, Costs, Result, simulate


def check(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Each measured run beside the simulated one.

    Raises:
        SystemExit: there is no run on one worker to take costs from.
    """
    base = next((run for run in measured["runs"] if run["workers"] == 1), None)
    if base is None:
        raise SystemExit("no run on one worker; give --workers 1 2 3 to scaling.py")
    row = 1 / base["rate"]
    alone = measured["alone_ms"]
    decode = row * alone["decode"] / sum(alone.values())
    block = measured["block_rows"]
    found = []
    for run in measured["runs"]:
        workers, rows = run["workers"], run["rows"]
        costs = Costs(
            start=max(0.0, base["first_seconds"] - block * row),
            decode_row=decode,
            forward_row=row - decode,
            write_row=0.0,  # within the measured row: one worker writes on its own core
        )
        shared = workers > measured["cores"]
        cluster = Cluster(
            nodes=workers,
            cores=measured["cores"] if shared else 1,
            lanes=1,
            same_machine=shared,
        )
        ran = simulate(rows, block, costs, cluster)
        found.append(
            {
                "workers": workers,
                "measured": run["rate"],
                "simulated": ran.rows_a_second,
                "ratio": ran.rows_a_second / run["rate"],
                "limit": ran.limit,
            }
        )
    return found


def _print_check(found: list[dict[str, Any]]) -> None:
    print(f"{'workers':>7} {'measured/s':>11} {'simulated/s':>12} {'ratio':>6}")
    for one in found:
        print(
            f"{one['workers']:>7} {one['measured']:>11.1f} {one['simulated']:>12.1f} "
            f"{one['ratio']:>6.2f}"
        )


def _print_run(ran: Result, rows: int) -> None:
    busy = ", ".join(f"{name} {share:.0%}" for name, share in ran.busy.items())
    print(
        f"{rows:,} rows in {ran.blocks:,} blocks: {ran.seconds / 3600:.2f} h, "
        f"{ran.rows_a_second:,.0f} rows/s, limit {ran.limit} (busy: {busy})"
    )
    if ran.lost_nodes:
        print(f"{ran.lost_nodes} nodes lost, {ran.again} blocks begun again")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", type=Path, help="the JSON of scaling.py")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--block-rows", type=int, default=445, help="64 MiB of 224-pixel images")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cores", type=int, default=16, help="of a node")
    parser.add_argument("--gpus", type=int, default=1, help="of a node")
    parser.add_argument("--decode-ms", type=float, default=4.2, help="of a core, an image")
    parser.add_argument("--gpu-rate", type=float, default=19683.0, help="images/s of a GPU")
    parser.add_argument("--write-ms", type=float, default=0.1, help="of a core, a row")
    parser.add_argument("--driver-ms", type=float, default=20.0, help="of the driver, a block")
    parser.add_argument("--start", type=float, default=66.0, help="seconds until actors are ready")
    parser.add_argument(
        "--lost-every-hours", type=float, default=math.inf, help="a spot node lives"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.check:
        found = check(json.loads(given.check.read_text()))
        print(json.dumps(found, indent=2)) if given.json else _print_check(found)
        return
    costs = Costs(
        start=given.start,
        decode_row=given.decode_ms / 1000,
        forward_row=1 / given.gpu_rate,
        write_row=given.write_ms / 1000,
        driver_block=given.driver_ms / 1000,
    )
    cluster = Cluster(
        nodes=given.nodes,
        cores=given.cores,
        lanes=given.gpus,
        gpu=True,
        lost_every_hours=given.lost_every_hours,
    )
    ran = simulate(given.rows, given.block_rows, costs, cluster)
    if given.json:
        told = {name: value for name, value in vars(ran).items() if name != "ends"}
        print(json.dumps(told, indent=2))
    else:
        _print_run(ran, given.rows)


if __name__ == "__main__":
    main()
