"""``onepass`` with at most so many forward actors: tests.helpers.few_actors ACTORS BLOCK_ROWS extract …

What a cluster of one-core nodes would have, where the nodes have more slots than cores.
"""

from __future__ import annotations

import sys
from typing import Any

import cluster.slots
import pipelines.execution.blocks
from cluster.slots import Slots, plan_slots


def only(actors: int, block_rows: int) -> None:
    """Have sessions of this process lay out ``actors`` at most, and plans blocks that small."""

    def few(cpus: float, gpus: float, **more: Any) -> Slots:
        return plan_slots(cpus, gpus, **{**more, "cores": actors})

    cluster.slots.plan_slots = few
    pipelines.execution.blocks.BLOCK_ROWS = block_rows


if __name__ == "__main__":
    from onepass.cli.main import main

    only(int(sys.argv[1]), int(sys.argv[2]))
    sys.argv = ["onepass", *sys.argv[3:]]
    main()
