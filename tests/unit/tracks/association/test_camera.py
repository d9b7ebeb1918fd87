"""Moves of the camera are found in the detections, and taken out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.scenes import moths
from tracks.association.camera import (
    CameraMotion,
    CameraMove,
    _of_others,
    camera_motion,
    move_notes,
)
from tracks.association.linker import link
from tracks.association.options import PRESETS, LinkOptions
from tracks.association.shift import Shift, find_shift

NUDGE = (118.0, 22.0)  # 120 pixels


def motion_of(scene: tuple[np.ndarray, ...]) -> CameraMotion:
    frames, boxes, looks, _ = scene
    centred = looks - looks.mean(axis=0)
    return camera_motion(frames, boxes, centred / np.linalg.norm(centred, axis=1, keepdims=True))


def wrong_links(scene: tuple[np.ndarray, ...], **options: Any) -> int:
    """Links to another individual, and those that are missing."""
    frames, boxes, looks, who = scene
    links = link(frames, boxes, looks, diagonal_px=1800.0, options=LinkOptions(**options))
    last: dict[int, int] = {}
    wrong = 0
    for row, individual in enumerate(who.tolist()):
        wrong += links.previous[row] != last.get(individual, -1)
        last[individual] = row
    return wrong


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [3, 4, 10, 300])
@pytest.mark.parametrize("nudge", [(30.0, 0.0), (0.0, -60.0), NUDGE, (-160.0, 120.0), (0.0, 400.0)])
def test_a_nudge_is_found_and_no_individual_is_swapped(
    count: int, nudge: tuple[float, float], seed: int
) -> None:
    scene = moths(count, moves={5: nudge}, seed=seed)
    motion = motion_of(scene)
    assert [(move.before, move.frame) for move in motion.moves] == [(4, 5)]
    assert motion.moves[0].shift[:2] == pytest.approx(nudge, abs=4)
    assert motion.shifts[:5].tolist() == [[0, 0]] * 5
    assert motion.shifts[5:] == pytest.approx(np.array([nudge] * 3), abs=4)
    assert wrong_links(scene) == 0


@pytest.mark.parametrize("count", [4, 10])
def test_without_it_a_nudge_swaps_them(count: int) -> None:
    scene = moths(count, moves={5: NUDGE})
    assert wrong_links(scene, camera_moves=False) >= count - 1
    assert not PRESETS["ami"].camera_moves  # rules of others, which look at no camera


@pytest.mark.parametrize("count", [4, 10, 30])
def test_each_moves_to_the_very_place_of_its_neighbour(count: int) -> None:
    # Hardly a place is empty: it is the looks that say who went where.
    scene = moths(count, moves={5: (110.0, 5.0)})
    assert [move.frame for move in motion_of(scene).moves] == [5]
    assert wrong_links(scene) == 0
    assert wrong_links(scene, camera_moves=False) >= count - 1


def test_the_second_frame_is_moved() -> None:
    # Nothing is known yet of how far they usually move.
    scene = moths(5, moves={1: NUDGE})
    assert [move.frame for move in motion_of(scene).moves] == [1]
    assert wrong_links(scene) == 0
    two = moths(5, moves={1: NUDGE}, frames=2)
    assert [move.frame for move in motion_of(two).moves] == [1]
    assert wrong_links(two) == 0


def test_two_nudges_and_one_back() -> None:
    back = (-NUDGE[0], -NUDGE[1])
    scene = moths(6, frames=12, moves={3: NUDGE, 6: (40.0, -100.0), 9: back})
    motion = motion_of(scene)
    assert [move.frame for move in motion.moves] == [3, 6, 9]
    assert motion.shifts[-1] == pytest.approx((40, -100), abs=4)
    assert wrong_links(scene) == 0


def test_births_deaths_and_one_that_walks() -> None:
    steps = np.zeros((9, 2))
    steps[2] = (12.0, 20.0)
    # At the nudge two leave, and two come.
    missing = {frame: [7, 8] if frame < 5 else [0, 5] for frame in range(8)}
    scene = moths(9, moves={5: NUDGE}, steps=steps, missing=missing, spacing=170)
    motion = motion_of(scene)
    assert [move.frame for move in motion.moves] == [5]
    assert motion.moves[0].shift[:2] == pytest.approx(NUDGE, abs=4)
    assert motion.moves[0].shift.agree == 4  # of seven: two have left, and one walks
    frames, boxes, looks, who = scene
    links = link(frames, boxes, looks, diagonal_px=1800.0)
    stays = np.isin(who, [1, 3, 4, 6]) & (frames > 0)
    assert (who[links.previous[stays]] == who[stays]).all()


def test_frames_of_one_or_two_tell_nothing_and_hide_nothing() -> None:
    missing = {4: [0, 1], 5: [0, 2], 6: [1, 3]}
    scene = moths(4, moves={5: NUDGE}, missing=missing)
    motion = motion_of(scene)
    assert [(move.before, move.frame) for move in motion.moves] == [(3, 7)]
    assert motion.shifts[4].tolist() == [0, 0]
    assert motion.shifts[5:] == pytest.approx(np.array([NUDGE] * 3), abs=4)
    assert motion_of(moths(2, moves={5: NUDGE})).moves == ()


@pytest.mark.parametrize("count", [3, 10, 40])
@pytest.mark.parametrize("speed", [2.0, 8.0, 15.0])
def test_a_flock_that_walks_moves_no_camera(count: int, speed: float) -> None:
    scene = moths(count, frames=12, steps=np.tile([speed, speed / 2], (count, 1)))
    assert motion_of(scene).moves == ()
    assert wrong_links(scene) == 0


@pytest.mark.parametrize("speed", [5.0, 25.0, 50.0])
def test_those_who_walk_both_ways_move_no_camera(speed: float) -> None:
    steps = np.array([(speed if number % 2 else -speed, 0.0) for number in range(10)])
    scene = moths(10, frames=12, steps=steps, spacing=75)
    assert motion_of(scene).moves == ()
    assert wrong_links(scene) == wrong_links(scene, camera_moves=False)


def test_a_camera_that_never_stands_still() -> None:
    scene = moths(10, frames=12, drift=(15.0, 0.0))
    assert motion_of(scene).moves == ()  # such steps are bridged anyway
    assert wrong_links(scene) == 0
    nudged = moths(10, frames=12, drift=(15.0, 0.0), moves={6: NUDGE})
    assert [move.frame for move in motion_of(nudged).moves] == [6]
    assert wrong_links(nudged) == 0
    fast = moths(10, frames=12, drift=(100.0, 30.0))
    motion = motion_of(fast)
    assert [move.frame for move in motion.moves] == list(range(1, 12))
    assert motion.shifts[-1] == pytest.approx((1100, 330), abs=12)
    assert wrong_links(fast) == 0
    assert wrong_links(fast, camera_moves=False) > 50


@pytest.mark.parametrize("seed", range(20))
def test_what_comes_and_goes_moves_no_camera(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = [3, 5, 12, 60][seed % 4]
    frames = np.repeat(np.arange(10), count)
    corners = random.uniform(0, 900, (10 * count, 2))
    boxes = np.hstack([corners, corners + 40])
    looks = random.normal(size=(10 * count, 16)) + 5
    assert motion_of((frames, boxes, looks, frames)).moves == ()


def test_boxes_as_the_first_frame_saw_them() -> None:
    frames, boxes, looks, who = moths(4, moves={3: NUDGE})
    motion = motion_of((frames, boxes, looks, who))
    steady = motion.steady_boxes(frames, boxes)
    for individual in range(4):
        assert np.ptp(steady[who == individual], axis=0).max() < 8
        assert np.ptp(boxes[who == individual], axis=0).max() > 100
    assert steady[frames < 3].tolist() == boxes[frames < 3].tolist()


def test_nothing_at_all() -> None:
    nothing = camera_motion(np.empty(0, np.int64), np.empty((0, 4)), np.empty((0, 8)))
    assert (len(nothing.frames), nothing.shifts.shape, nothing.moves) == (0, (0, 2), ())
    assert len(nothing.steady_boxes(np.empty(0, np.int64), np.empty((0, 4)))) == 0
    flat = np.zeros((4, 4))  # no size, one place, no looks
    assert find_shift(flat, flat, lambda rows: np.zeros((len(rows), 4)), usual_px=np.nan) is None


def test_the_median_of_the_others() -> None:
    random = np.random.default_rng(0)
    for count in range(4, 12):
        values = random.integers(0, 6, count).astype(float)
        expected = [sorted(np.delete(values, at))[(count - 2) // 2] for at in range(count)]
        assert _of_others(values).tolist() == expected
    assert np.isnan(_of_others(np.ones(3))).all()


def test_moves_are_said_in_a_few_lines() -> None:
    moves = [CameraMove(14 * n, 14 * n + 1, Shift(118.0, 22.0, 4)) for n in range(7)]
    assert move_notes("x", moves[1:2], 100) == [
        "sequence 'x': the camera moved by about 120 pixels between frames 14 and 15; it was taken out"
    ]
    assert len(move_notes("x", moves, 100)) == 6
    (line,) = move_notes("x", moves, 40)
    assert "7 of 39" in line
    assert move_notes("x", [], 40) == []
