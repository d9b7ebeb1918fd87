"""How linking weighs a pair, what a track remembers, and when it gives up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from common.errors import InputError

TERMS = ("feature", "iou", "area", "distance")

Assignment = Literal["optimal", "greedy", "cheapest"]


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """What linking can be asked for; costs have no unit.

    The defaults were chosen on EfficientNet-Lite0 embeddings of eight fish (501 frames) and of five
    moth-trap frames, judged by eye; with them the two flies of ``benchmarks/tracks.py`` have a HOTA
    of 1.000. Distance weighs 4 because a fifth of the diagonal costs only 0.2 at 1, and fish were
    linked across the whole tank.

    A few scenes are not a law; look at the doubtful links (``onepass tracks review``), and fit
    weights to labelled sequences of your own (``onepass tracks tune``).

    Attributes:
        feature_weight, iou_weight, area_weight, distance_weight: of the four terms.
        max_cost: a dearer pair is never linked.
        max_gap_frames: frames a track may be missing; 0 links neighbouring frames only.
        max_gap_seconds: seconds between two detections of a track; None: any.
        appearance: what a track is compared by: the running ``average`` of its embeddings, or
            the best match among its last ones, the ``gallery``.
        appearance_memory: share of the old average kept at each link; 0 compares with the last
            detection only.
        gallery_size: embeddings of a track that the gallery holds.
        motion_gate: how far a detection may lie from where its track was heading, in diagonals
            of the track's last box, for each frame that passed; None: anywhere.
        strong_score: detections that score less are weak: they may extend tracks that no
            strong one extends, and never start one; None: all are strong.
        assignment: ``optimal`` links so that most is saved in all; ``greedy`` takes the
            cheapest pair first; both are one-to-one. ``cheapest`` gives every detection its
            cheapest predecessor, so that two may claim one.

    Raises:
        InputError: a value outside its range.
    """

    feature_weight: float = 1.0
    iou_weight: float = 1.0
    area_weight: float = 1.0
    distance_weight: float = 4.0
    max_cost: float = 2.0
    max_gap_frames: int = 5
    max_gap_seconds: float | None = None
    appearance: Literal["average", "gallery"] = "average"
    appearance_memory: float = 0.8
    gallery_size: int = 8
    motion_gate: float | None = None
    strong_score: float | None = None
    assignment: Assignment = "optimal"

    def __post_init__(self) -> None:
        for name, weight in zip(TERMS, self.weights, strict=True):
            if not (math.isfinite(weight) and weight >= 0):
                raise InputError(f"{name}_weight is {weight}; give a number of 0 or more")
        if not any(self.weights):
            raise InputError("all four link weights are 0; give at least one above 0")
        for name in ("max_cost", "max_gap_seconds", "motion_gate"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value}; give a number above 0")
        if self.max_gap_frames < 0:
            raise InputError(f"max_gap_frames is {self.max_gap_frames}; give 0 or more")
        if not 0 <= self.appearance_memory < 1:
            raise InputError(
                f"appearance_memory is {self.appearance_memory}; give 0 (none) to just below 1"
            )
        if self.gallery_size < 1:
            raise InputError(f"gallery_size is {self.gallery_size}; give 1 or more")
        if self.strong_score is not None and not math.isfinite(self.strong_score):
            raise InputError(f"strong_score is {self.strong_score}; give a number")
        for name, allowed in (
            ("appearance", ("average", "gallery")),
            ("assignment", ("optimal", "greedy", "cheapest")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}"
                )

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """The four weights in the order of ``TERMS``."""
        return (self.feature_weight, self.iou_weight, self.area_weight, self.distance_weight)

    @property
    def looks_kept(self) -> int:
        """Embeddings that each open track holds."""
        return self.gallery_size if self.appearance == "gallery" else 1

    @property
    def look_memory(self) -> float:
        """Share of the old look kept where one is held; a gallery of one holds the last."""
        return self.appearance_memory if self.appearance == "average" else 0.0


_LAST_FRAME_ONLY = LinkOptions(distance_weight=1.0, max_gap_frames=0, appearance_memory=0.0)

PRESETS: Mapping[str, LinkOptions] = {
    "default": LinkOptions(),
    # The rules of the AMI data companion and of its platform, for comparison. They count box
    # sides with one pixel more and round IoU to two digits; that is not repeated here.
    "ami": replace(_LAST_FRAME_ONLY, max_cost=1.0, assignment="cheapest"),
    "antenna": replace(_LAST_FRAME_ONLY, max_cost=0.2, assignment="greedy"),
}
