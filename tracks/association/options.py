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
    """Options of linking. Costs have no unit; an unweighted term is 0 to 1, ``feature`` 0 to 2.

    The defaults were chosen on EfficientNet-Lite0 embeddings of eight fish (501 frames) and of five
    moth-trap frames, judged by eye; with them the two flies of ``benchmarks/tracks.py`` have a HOTA
    of 1.000. Distance weighs 4 because a fifth of the diagonal costs only 0.2 at weight 1, and fish
    were linked across the whole tank.

    A few scenes are not a law; look at the doubtful links (``onepass tracks review``), and fit
    weights to labelled sequences of your own (``onepass tracks tune``).

    Attributes:
        feature_weight: weight of 1 - cosine similarity of the embeddings; 0 or more.
        iou_weight: weight of 1 - intersection over union of the boxes; 0 or more.
        area_weight: weight of 1 - smaller box area / larger box area; 0 or more.
        distance_weight: weight of the distance between box centres, in diagonals of the later
            image; 0 or more.
        max_cost: most that a link may cost, as the weighted sum of the four terms; above 0.
        max_gap_frames: frames that a track may be missing, counted in the usual step between
            frames; 0 links neighbouring frames only.
        max_gap_seconds: most seconds between two detections of a track; above 0, or None for no
            limit. It needs timestamps.
        appearance: what a detection is compared with: ``average``, the running average of the
            track's embeddings, or ``gallery``, the most similar of its last embeddings.
        appearance_memory: for ``average``, the share of the old average that each link keeps; 0
            (the last detection only) to just below 1.
        gallery_size: for ``gallery``, the number of embeddings kept of each track; 1 or more.
        motion_gate: largest distance of a detection from the position that the track's motion
            predicts, in diagonals of the track's last box for each frame step since; above 0, or
            None for no limit.
        strong_score: detections with a lower detector score are weak: they may continue tracks
            that no strong detection continues, and never start one. In the unit of the score
            column; None: all are strong.
        assignment: ``optimal`` makes the sum of ``max_cost`` - cost over the links of a frame
            largest; ``greedy`` takes the cheapest pair first; both are one-to-one. ``cheapest``
            gives every detection its cheapest predecessor, so that two may claim the same one.

    Raises:
        InputError: a value outside its range.

    Example:
        >>> LinkOptions(max_gap_frames=3).weights
        (1.0, 1.0, 1.0, 4.0)
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
        for term, weight in zip(TERMS, self.weights, strict=True):
            self._require(f"{term}_weight", 0 <= weight < math.inf, "a number of 0 or more")
        if not any(self.weights):
            raise InputError("all four link weights are 0; give at least one above 0")
        for name in ("max_cost", "max_gap_seconds", "motion_gate"):
            value = getattr(self, name)
            self._require(name, value is None or 0 < value < math.inf, "a number above 0")
        self._require("max_gap_frames", self.max_gap_frames >= 0, "0 or more")
        self._require(
            "appearance_memory", 0 <= self.appearance_memory < 1, "0 (none) to just below 1"
        )
        self._require("gallery_size", self.gallery_size >= 1, "1 or more")
        score = self.strong_score
        self._require("strong_score", score is None or math.isfinite(score), "a number")
        for name, choices in (
            ("appearance", ("average", "gallery")),
            ("assignment", ("optimal", "greedy", "cheapest")),
        ):
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")

    def _require(self, name: str, valid: bool, allowed: str) -> None:
        if not valid:
            raise InputError(f"`{name}={getattr(self, name)!r}`: give {allowed}")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """The four weights in the order of ``TERMS``."""
        return (self.feature_weight, self.iou_weight, self.area_weight, self.distance_weight)

    @property
    def embeddings_kept(self) -> int:
        """Number of embeddings that each open track holds."""
        return self.gallery_size if self.appearance == "gallery" else 1

    @property
    def average_memory(self) -> float:
        """Share of the old embedding kept where a track holds one; a gallery of one keeps none."""
        return self.appearance_memory if self.appearance == "average" else 0.0


_LAST_FRAME_ONLY = LinkOptions(distance_weight=1.0, max_gap_frames=0, appearance_memory=0.0)

PRESETS: Mapping[str, LinkOptions] = {
    "default": LinkOptions(),
    # The rules of the AMI data companion and of its platform, for comparison. They count box
    # sides with one pixel more and round IoU to two digits; that is not repeated here.
    "ami": replace(_LAST_FRAME_ONLY, max_cost=1.0, assignment="cheapest"),
    "antenna": replace(_LAST_FRAME_ONLY, max_cost=0.2, assignment="greedy"),
}
