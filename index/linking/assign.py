"""Which pairs become links."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def assign(
    cost: Floats,
    *,
    max_cost: float,
    allowed: Bools | None = None,
    assignment: Literal["optimal", "greedy"] = "optimal",
) -> Ints:
    """The earlier detection each later one continues: ``[N]``, -1 for none.

    Args:
        cost: ``[M, N]``.
        max_cost: pairs above it are never linked.
        allowed: ``[M, N]``, False where a pair is ruled out whatever its cost.
        assignment: ``optimal`` claims each earlier detection at most once.
    """
    feasible = cost <= max_cost
    if allowed is not None:
        feasible &= allowed
    chosen = np.full(cost.shape[1], -1, dtype=np.int64)
    if not feasible.any():
        return chosen
    if assignment == "greedy":
        best = np.where(feasible, cost, np.inf).argmin(axis=0)
        found = feasible.any(axis=0)
        chosen[found] = best[found]
        return chosen
    # A ruled-out pair costs what leaving both ends alone costs, and a hair more so that a
    # tie goes to a link. Any larger figure would break certain links to make more of them.
    alone = max_cost + 1e-9 * (1.0 + max_cost)
    rows, columns = linear_sum_assignment(np.where(feasible, cost, alone))
    kept = feasible[rows, columns]
    chosen[columns[kept]] = rows[kept]
    return chosen
