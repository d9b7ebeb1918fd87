"""How linking weighs a pair and when it gives up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cluster.errors import InputError

TERMS = ("feature", "iou", "area", "distance")


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """How linking weighs a pair and when it gives up; costs have no unit.

    The defaults were chosen on EfficientNet-Lite0 embeddings of three sources:

    - eight fish, 501 frames, 3,922 boxes of which some are two touching fish: with a gap of 5
      and all weights 1, a cost of 1.0 left 186 tracks and 1.5 left 27, and 1.5 and 2.0 linked
      across the whole tank 8 and 7 times, because a fifth of the diagonal costs only 0.2.
      With distance weighed 4, a cost of 2.0 left 12 tracks and 2 such jumps.
    - five moth-trap frames a minute apart, judged by eye: 8 of 8 doubtful true links kept and
      none of 6 false ones made (all weights 1 at 2.0: 8 and 3; the ``ami`` preset: 3 and 0).
    - two flies up to a second apart: IDF1 1.00 (the ``ami`` preset: 0.72 to 1.00).

    Three scenes are not a law; look at the tracks, and move ``max_cost`` first.

    ``appearance_memory`` is the share of the old appearance a track keeps at each link: 0
    compares with the last detection only. ``max_gap_frames`` is how many frames a track may
    be missing; 0 links neighbouring frames only. ``assignment="greedy"`` lets every detection
    take its cheapest predecessor, so that two may claim one.

    Raises:
        InputError: a weight, cost, gap or memory outside its range.
    """

    feature_weight: float = 1.0
    iou_weight: float = 1.0
    area_weight: float = 1.0
    distance_weight: float = 4.0
    max_cost: float = 2.0
    max_gap_frames: int = 5
    max_gap_seconds: float | None = None
    appearance_memory: float = 0.8
    assignment: Literal["optimal", "greedy"] = "optimal"

    def __post_init__(self) -> None:
        for name, weight in zip(TERMS, self.weights, strict=True):
            if not (math.isfinite(weight) and weight >= 0):
                raise InputError(f"{name}_weight is {weight}; give a number of 0 or more")
        if not any(self.weights):
            raise InputError("all four link weights are 0; give at least one above 0")
        if not (math.isfinite(self.max_cost) and self.max_cost > 0):
            raise InputError(f"max_cost is {self.max_cost}; give a number above 0")
        if self.max_gap_frames < 0:
            raise InputError(f"max_gap_frames is {self.max_gap_frames}; give 0 or more")
        if self.max_gap_seconds is not None and not self.max_gap_seconds > 0:
            raise InputError(f"max_gap_seconds is {self.max_gap_seconds}; give seconds above 0")
        if not 0 <= self.appearance_memory < 1:
            raise InputError(
                f"appearance_memory is {self.appearance_memory}; give 0 (none) to just below 1"
            )
        if self.assignment not in ("optimal", "greedy"):
            raise InputError(f"assignment is {self.assignment!r}; choose 'optimal' or 'greedy'")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """The four weights in the order of ``TERMS``."""
        return (self.feature_weight, self.iou_weight, self.area_weight, self.distance_weight)


PRESETS: Mapping[str, LinkOptions] = {
    "default": LinkOptions(),
    # The rule of the AMI data companion, for comparison. It counts box sides with one pixel
    # more and rounds IoU to two digits; that is not repeated here.
    "ami": LinkOptions(
        distance_weight=1.0,
        max_cost=1.0,
        max_gap_frames=0,
        appearance_memory=0.0,
        assignment="greedy",
    ),
}
