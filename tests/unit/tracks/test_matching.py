"""Whether a truth lies better on a run when it is shifted."""

from __future__ import annotations

import numpy as np
import pytest

from tracks.boxes import TrackBoxes
from tracks.evaluation.matching import better_shift


def walk(frames: range, *, speed: float = 4, noise: float = 0, seed: int = 0) -> TrackBoxes:
    """Three individuals of 20 pixels that walk to the right."""
    number = np.repeat(np.array(frames), 3)
    place = np.tile([0.0, 200, 400], len(frames))
    corner = np.column_stack([place + speed * number, place])
    corner += np.random.default_rng(seed).normal(0, noise, corner.shape)
    return TrackBoxes(
        number, np.tile([1, 2, 3], len(frames)), np.column_stack([corner, corner + 20])
    )


def late(truth: TrackBoxes, frames: int) -> TrackBoxes:
    """The same boxes under other numbers."""
    return TrackBoxes(truth.frames + frames, truth.ids, truth.boxes)


@pytest.mark.parametrize("noise", [0, 1])
@pytest.mark.parametrize("step", [1, 5])
@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_a_frame_too_early_or_late(shift: int, step: int, noise: float) -> None:
    run = walk(range(0, 60, step), noise=noise)
    truth = late(walk(range(60), noise=noise, seed=1), shift)
    assert better_shift(run.frames, run.boxes, truth) == (shift or None)


def test_far_off_and_still_overlapping() -> None:
    run = walk(range(20, 60))
    assert better_shift(run.frames, run.boxes, late(walk(range(20, 60)), -17)) == -17
    assert better_shift(run.frames, run.boxes, late(walk(range(50)), 3)) == 3
    assert better_shift(run.frames, run.boxes, late(walk(range(50), noise=1), -4)) == -4


def test_nothing_is_said_of_what_does_not_tell() -> None:
    """Individuals that stay where they are; a truth of some of the frames; no boxes."""
    for seed in range(5):
        still = walk(range(60), speed=0, noise=1, seed=seed)
        truth = walk(range(20, 40), speed=0, noise=1, seed=seed + 10)
        assert better_shift(still.frames, still.boxes, truth) is None
        assert better_shift(still.frames, still.boxes, late(truth, 1)) is None
    run = walk(range(60), noise=2, seed=3)
    assert better_shift(run.frames, run.boxes, walk(range(20, 40), noise=2, seed=4)) is None
    assert better_shift(run.frames[:0], run.boxes[:0], run) is None
    assert better_shift(run.frames, run.boxes, late(run, 1000)) is None
