"""The one configuration of linking.

The fields of ``LinkOptions`` are the options of ``onepass link``, what ``onepass tracks tune`` writes,
and what the manifest of the tracks and the state of live linking say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, model_validator

from common.errors import InputError
from common.json_models import JsonModel, configure, option
from common.text import decode

TERMS = ("feature", "iou", "area", "distance")

Assignment = Literal["optimal", "greedy", "cheapest"]
Method = Literal["online", "offline"]
Preset = Literal["default", "online", "ami", "antenna"]
OnlinePreset = Literal["online", "ami", "antenna"]


METHOD, COST, GAPS = "Method", "Cost of a pair (online)", "Gaps"
MEMORY, CHOICE = "What a track remembers (online)", "Which pairs"

ONLINE_GAP, OFFLINE_GAP = 5, 25
"""Frames that a track may be missing where nothing is given."""


class LinkOptions(JsonModel):
    """How a sequence is linked, and when a track is given up; online, what a pair costs.

    Offline linking learns what a pair is worth. Online, costs have no unit; an unweighted term is
    0 to 1, ``feature`` 0 to 2. These defaults were chosen on EfficientNet-Lite0 embeddings of eight
    fish (501 frames) and of five moth-trap frames, judged by eye. Distance weighs 4 because a fifth
    of the diagonal costs only 0.2 at weight 1, and fish were linked across the whole tank. A few
    scenes are not a law; look at the doubtful links (``onepass tracks review``), and fit weights to
    labelled sequences of your own (``onepass tracks tune``).

    Example:
        >>> LinkOptions(max_gap_frames=3).weights
        (1.0, 1.0, 1.0, 4.0)
    """

    model_config = ConfigDict(allow_inf_nan=False)

    method: Method = option(
        METHOD,
        "offline: all frames of a sequence at once, by what the sequence itself shows. online: frame by frame, "
        "by the cost of a pair.",
        "online",
    )
    feature_weight: float = option(COST, "Weight of 1 - cosine of the embeddings.", 1.0, ge=0)
    iou_weight: float = option(COST, "Weight of 1 - intersection / union of the boxes.", 1.0, ge=0)
    area_weight: float = option(COST, "Weight of 1 - smaller / larger box area.", 1.0, ge=0)
    distance_weight: float = option(
        COST, "Weight of the distance of the boxes, in diagonals of the later image.", 4.0, ge=0
    )
    max_cost: float = option(COST, "Most that a link may cost, all four terms together.", 2.0, gt=0)
    max_gap_frames: int | None = option(
        GAPS,
        "Frames that a track may be missing, in the usual step between frames; if not given, "
        f"{OFFLINE_GAP} offline and {ONLINE_GAP} online.",
        None,
        ge=0,
    )
    max_gap_seconds: float | None = option(
        GAPS,
        "Most seconds between two detections of a track; needs timestamps. If not given, no link "
        "crosses a gap far beyond the rhythm of the sequence, such as a day between two nights.",
        None,
        gt=0,
    )
    appearance: Literal["average", "gallery"] = option(
        MEMORY,
        "What a track is compared by: the running average of its embeddings, or the most similar of "
        "its last ones.",
        "average",
    )
    appearance_memory: float = option(
        MEMORY,
        "average: share of the old average kept at each link, 0 to below 1.",
        0.8,
        ge=0,
        lt=1,
    )
    gallery_size: int = option(MEMORY, "gallery: embeddings kept of each track.", 8, ge=1)
    motion_gate: float | None = option(
        CHOICE,
        "Farthest that a detection may be from where the motion of its track predicts it, in "
        "diagonals of the last box for each frame step; no limit if not given.",
        None,
        gt=0,
    )
    strong_score: float | None = option(
        CHOICE,
        "Detections with a lower detector score continue only tracks that no other detection "
        "continues, and start none.",
        None,
    )
    individuals: int | None = option(
        CHOICE,
        "Number of individuals in a sequence, where it is known and none comes or goes: tracks are "
        "joined, however long the gap, until so many are left. Offline only.",
        None,
        ge=1,
    )
    camera_moves: bool = option(
        CHOICE, "Take out moves of the camera, in which most detections move alike.", True
    )
    assignment: Assignment = option(
        CHOICE,
        "optimal: the links that together save most against max_cost. greedy: the cheapest pair "
        "first. cheapest: to each detection its cheapest track, even if two choose the same.",
        "optimal",
    )

    @model_validator(mode="after")
    def _consistent(self) -> LinkOptions:
        if not any(self.weights):
            raise ValueError("all four link weights are 0; give at least one above 0")
        if self.max_gap_frames is None:
            gap = OFFLINE_GAP if self.method == "offline" else ONLINE_GAP
            # Still as if not given, so that `replace` with another method has that of its own.
            self.__dict__["max_gap_frames"] = gap
        if self.method == "online" and self.individuals is not None:
            raise ValueError(
                "`individuals` is an option of offline linking, which sees all frames at once; leave "
                "it out, or choose `method='offline'`"
            )
        if self.method == "offline":
            fields = LinkOptions.model_fields
            given = [name for name in _ONLINE if getattr(self, name) != fields[name].default]
            if given:
                raise ValueError(
                    f"`{given[0]}` is an option of online linking; add `method='online'`, or leave it "
                    "out: offline linking learns from the sequence"
                )
        return self

    @classmethod
    def read(cls, file: Path) -> LinkOptions:
        """Options from a JSON file, as ``onepass tracks tune`` writes it.

        Raises:
            InputError: it cannot be read, or holds something that is no option.
        """
        try:
            return configure(cls, **json.loads(decode(file.read_bytes())[0]))
        except (OSError, ValueError, TypeError, InputError) as error:
            raise InputError(f"{file} cannot be read as link options: {error}") from None

    def replace(self, **changes: Any) -> LinkOptions:
        """The same options with other values for some fields.

        Raises:
            InputError: an unknown field, or a value that it does not take.
        """
        return configure(LinkOptions, **(self.model_dump(exclude_unset=True) | changes))

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """The four weights in the order of ``TERMS``."""
        return (self.feature_weight, self.iou_weight, self.area_weight, self.distance_weight)

    @property
    def gap_frames(self) -> int:
        """Frames that a track may be missing."""
        assert self.max_gap_frames is not None
        return self.max_gap_frames

    @property
    def embeddings_kept(self) -> int:
        """Number of embeddings that each open track holds."""
        return self.gallery_size if self.appearance == "gallery" else 1

    @property
    def average_memory(self) -> float:
        """Share of the old embedding kept where a track holds one; a gallery of one keeps none."""
        return self.appearance_memory if self.appearance == "average" else 0.0


_ONLINE = (
    *("feature_weight", "iou_weight", "area_weight", "distance_weight", "max_cost", "appearance"),
    *("appearance_memory", "gallery_size", "motion_gate", "assignment"),
)

_LAST_FRAME_ONLY = LinkOptions(
    distance_weight=1.0, max_gap_frames=0, appearance_memory=0.0, camera_moves=False
)

PRESETS: Mapping[str, LinkOptions] = {
    "default": LinkOptions(method="offline"),
    "online": LinkOptions(),
    # The rules of the AMI data companion and of its platform, for comparison. They count box
    # sides with one pixel more and round IoU to two digits; that is not repeated here.
    "ami": _LAST_FRAME_ONLY.replace(max_cost=1.0, assignment="cheapest"),
    "antenna": _LAST_FRAME_ONLY.replace(max_cost=0.2, assignment="greedy"),
}
