"""A job that fills the object stores of a cluster: _filler.py ADDRESS; seconds a line on stdin."""

from __future__ import annotations

import sys
import time

import numpy as np
import ray

MIB = 2**20
PIECE = 8 * MIB


@ray.remote(num_cpus=0, scheduling_strategy="SPREAD", max_retries=0)
def piece() -> np.ndarray:
    return np.ones(PIECE, np.uint8)


def main() -> None:
    ray.init(sys.argv[1], log_to_driver=False, logging_level="error")
    for line in sys.stdin:
        stores = ray.cluster_resources().get("object_store_memory", 0)
        held = [piece.remote() for _ in range(int(1.5 * stores / PIECE))]
        ray.wait(held, num_returns=len(held), timeout=float(line))
        time.sleep(float(line) / 2)
        del held


main()
