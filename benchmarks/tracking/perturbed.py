"""The detections of a clip as detectors give them: shifted, missing, false, under a camera that moves.

Identities are asked of what is left: a missing box is nobody's fault, and a false one is no individual.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.tracking.clips import NOBODY, Case, embed

JITTER = 0.05  # standard deviation of each centre, in sides of its box
FALSE = 0.10  # false boxes, as a share of the true ones
CAMERA_PX = 120  # to the right, in the middle of the clip
BACKGROUND = 300  # random crops of a clip
KINDS = ("as it is", "jitter 5 %", "5 % missing", "20 % missing", "10 % false", "camera moved")


def perturb(case: Case, kind: str, background: Case, seed: int) -> Case:
    """One of KINDS of a case; ``background``: crops that are no individual."""
    dice = np.random.default_rng(seed)
    name = f"{case.name} {kind}"
    count = len(case.frames)
    if kind == "jitter 5 %":
        sides = case.boxes[:, 2:] - case.boxes[:, :2]
        moved = dice.normal(0, JITTER, (count, 2)) * sides
        return replace(case, name=name, boxes=case.boxes + np.hstack([moved, moved]))
    if kind.endswith("missing"):
        return case.select(dice.random(count) >= int(kind.partition(" ")[0]) / 100, name)
    if kind == "10 % false":
        return _with_false(case, name, background, dice)
    if kind == "camera moved":
        later = case.frames > np.median(np.unique(case.frames))
        shift = later[:, None] * np.array([CAMERA_PX, 0, CAMERA_PX, 0])
        # Blank images that are wide enough: the clip's own do not move.
        size = (case.size[0] + CAMERA_PX, case.size[1])
        return replace(case, name=name, boxes=case.boxes + shift, images=(), size=size)
    return replace(case, name=name)


def _with_false(case: Case, name: str, background: Case, dice: np.random.Generator) -> Case:
    count = min(round(FALSE * len(case.frames)), len(background.frames))
    false = background.select(dice.permutation(len(background.frames))[:count])
    hosts = dice.choice(len(case.frames), count, replace=False)  # as many where more is seen
    images = tuple(case.images[host] for host in hosts) if case.images else ()
    together = replace(
        case,
        frames=np.r_[case.frames, case.frames[hosts]],
        ids=np.r_[case.ids, false.ids],
        boxes=np.vstack([case.boxes, false.boxes]),
        embeddings=np.vstack([case.embeddings, false.embeddings]),
        images=case.images + images,
    )
    shuffled = np.lexsort([dice.random(len(together.frames)), together.frames])
    return together.select(shuffled, name)


def background_of(case: Case, work: Path) -> Case:
    """Crops of random places in a clip's images, as large as boxes of the clip, not on one of them."""
    dice = np.random.default_rng(1)
    boxes, images = [], []
    while len(boxes) < BACKGROUND:
        host, shape = dice.integers(0, len(case.frames), 2)
        sides = case.boxes[shape, 2:] - case.boxes[shape, :2]
        corner = dice.random(2) * np.maximum(np.array(case.size) - sides, 0)
        box = np.r_[corner, corner + sides]
        if not _touches(box, case.boxes[case.frames == case.frames[host]]):
            boxes.append(box)
            images.append(case.images[host])
    frames = np.arange(BACKGROUND)
    table = np.array(boxes)
    found = embed(work / f"{case.name}-background", "background", frames, table, images)
    nobody = np.full(BACKGROUND, NOBODY)
    return Case("background", frames, nobody, table, found, case.size, 0.0, tuple(images))


def _touches(box: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    apart = (others[:, :2] >= box[2:]) | (others[:, 2:] <= box[:2])
    return bool((~apart.any(axis=1)).any())
