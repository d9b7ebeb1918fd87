"""Scenes whose individuals are known, linked all at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import InputError
from tests.helpers.walks import IMAGE, SIDE, partition, shuffled, walks, wanderers, without
from tracks.association.linker import link
from tracks.association.options import PRESETS, LinkOptions
from tracks.offline import solve as module
from tracks.offline.learn import BORDER_COST, MAX_INSIDE_COST, learn
from tracks.offline.solve import fitted_scores, solve


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("alike", [0.0, 0.7])
def test_wanderers_at_any_rate(every: int, alike: float) -> None:
    scene = walks(wanderers(8, 100, seed=3), alike=alike).thinned(every)
    assert partition(scene.links().track, scene.who)


@pytest.mark.parametrize("every", [1, 3, 6])
def test_where_nobody_can_be_told_apart_the_motion_decides(every: int) -> None:
    """Two cross four times at an angle, with looks that are only noise."""
    angle = np.linspace(0, 4 * np.pi, 240)
    paths = {
        0: {f: (100 + 3.3 * f, 400 + 150 * np.sin(a)) for f, a in enumerate(angle)},
        1: {f: (100 + 3.3 * f, 400 - 150 * np.sin(a)) for f, a in enumerate(angle)},
    }
    scene = walks(paths, alike=1.0).thinned(every)
    # At the crossing itself both are in one place: take those frames out.
    apart = np.array([abs(np.sin(angle[frame])) > 0.15 for frame in scene.frames])
    scene = scene.where(apart)
    assert partition(scene.links().track, scene.who)


def test_a_box_that_is_seldom_is_not_pressed_into_a_track() -> None:
    """Visitors that come and go anywhere: each is a track of its own, though nobody was there before."""
    dice = np.random.default_rng(0)
    paths = {who: dict.fromkeys(range(30), (150.0 + 100 * who, 200.0)) for who in range(6)}
    for visitor in range(20):
        begin = int(dice.integers(1, 26))
        place = (float(dice.uniform(100, 900)), float(dice.uniform(300, 700)))
        paths[100 + visitor] = dict.fromkeys(range(begin, begin + 3), place)
    scene = walks(paths)
    assert partition(scene.links().track, scene.who)


def test_sitters_that_leave_at_once_keep_their_identity() -> None:
    dice = np.random.default_rng(1)
    paths = {}
    for who in range(5):
        places = dice.uniform(100, 700, (6, 2))
        paths[who] = {
            frame: (float(places[frame // 10, 0]), float(places[frame // 10, 1]))
            for frame in range(60)
        }
    scene = walks(paths)
    assert partition(scene.links().track, scene.who)


@pytest.mark.parametrize("missed", [1, 5, 20])
def test_an_individual_that_was_not_found_for_a_while(missed: int) -> None:
    scene = without(walks(wanderers(6, 80, seed=5), alike=0.5), 2, range(30, 30 + missed))
    assert partition(scene.links().track, scene.who)
    links = scene.links(max_gap_frames=missed - 1)
    assert links.track.max() == 6  # one more: the gap is too long
    assert partition(scene.links(max_gap_seconds=missed + 1.0).track, scene.who)
    assert scene.links(max_gap_seconds=float(missed)).track.max() == 6


def test_ends_are_cheap_at_the_border_and_learned_elsewhere() -> None:
    """People cross the image from side to side, in both directions, one after another."""
    paths = {}
    for who in range(12):
        ways = [SIDE / 2 + 40.0 * step for step in range(25)]
        lane = 150.0 + 60 * (who % 8)
        ordered = ways if who % 2 else ways[::-1]
        paths[who] = {8 * who + step: (x, lane) for step, x in enumerate(ordered)}
    scene = walks(paths, alike=0.9)
    assert partition(scene.links().track, scene.who)


def test_detections_of_one_frame_are_never_one_track() -> None:
    scene = walks(wanderers(12, 40, speed=60, seed=7), alike=1.0)
    links = scene.links()
    keys = list(zip(scene.frames.tolist(), links.track.tolist(), strict=True))
    assert len(set(keys)) == len(keys)


def test_the_order_inside_a_frame_and_the_scale_of_an_embedding_change_nothing() -> None:
    scene = walks(wanderers(8, 60, seed=2), alike=0.8).thinned(2)
    links = scene.links()
    other = shuffled(replace(scene, looks=5 * scene.looks), seed=9)
    again = other.links()
    names = {
        (frame, tuple(box)): track
        for frame, box, track in zip(
            scene.frames.tolist(), scene.boxes.tolist(), links.track, strict=True
        )
    }
    pairs = {
        (names[frame, tuple(box)], track)
        for frame, box, track in zip(
            other.frames.tolist(), other.boxes.tolist(), again.track, strict=True
        )
    }
    assert len(pairs) == links.track.max() + 1 == again.track.max() + 1


def test_what_is_written_of_a_link() -> None:
    scene = walks(wanderers(4, 30, seed=4))
    links = scene.links()
    later = np.flatnonzero(links.previous >= 0)
    earlier = links.previous[later]
    assert (links.track[later] == links.track[earlier]).all()
    assert (links.position[later] == links.position[earlier] + 1).all()
    assert (scene.frames[later] > scene.frames[earlier]).all()
    assert (links.cost[later] < 0).all()
    centre = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
    moved = np.linalg.norm(centre[later] - centre[earlier], axis=1) / np.hypot(*IMAGE)
    np.testing.assert_allclose(links.terms[later, 3], moved)
    area = np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], axis=1)
    small, large = np.sort([area[later], area[earlier]], axis=0)
    np.testing.assert_allclose(links.terms[later, 2], 1 - small / large)
    first = links.previous < 0
    assert np.isnan(links.cost[first]).all()
    assert np.isnan(links.margin[first]).all()
    assert (np.diff(np.flatnonzero(first)) > 0).all()
    assert links.track[first].tolist() == sorted(links.track[first].tolist())


def test_one_detection_a_frame_and_one_in_all() -> None:
    alone = walks({0: {frame: (300 + 4.0 * frame, 300.0) for frame in range(20)}})
    assert partition(alone.links().track, alone.who)
    assert alone.where(np.arange(1)).links().track.tolist() == [0]
    assert alone.where(np.arange(2)).links().track.tolist() == [0, 0]


def test_weak_detections_continue_tracks_and_start_none() -> None:
    scene = walks(wanderers(4, 30, seed=4))
    dice = np.random.default_rng(0)
    weak = (scene.frames % 3 == 1) | (scene.who == 3)
    scores = np.where(weak, 0.1, 0.5 + 0.4 * dice.random(len(weak)))
    links = scene.links(scores, strong_score=0.3)
    assert (links.track[scene.who == 3] == -1).all()
    others = scene.who != 3
    assert partition(links.track[others], scene.who[others])


def test_options_of_online_linking_are_refused() -> None:
    with pytest.raises(InputError, match="max_cost"):
        PRESETS["default"].replace(max_cost=1.0)
    online = PRESETS["default"].replace(method="online", max_cost=1.0)
    assert (online.gap_frames, PRESETS["default"].gap_frames) == (5, 25)
    assert PRESETS["default"].replace(max_gap_frames=3).replace(method="online").gap_frames == 3
    old = LinkOptions.model_validate({"max_cost": 1.5, "max_gap_frames": 5})
    assert old.method == "online"


def test_at_sparse_rates_it_is_better_than_frame_by_frame() -> None:
    at_once, one_by_one = [], []
    for seed in range(4):
        scene = walks(wanderers(10, 200, speed=14, seed=seed), alike=0.8, seed=seed).thinned(8)
        online = link(scene.frames, scene.boxes, scene.looks, diagonal_px=float(np.hypot(*IMAGE)))
        at_once.append(scene.scores(scene.links()).idf1)
        one_by_one.append(scene.scores(online).idf1)
    print(at_once, one_by_one)
    assert np.mean(at_once) > 0.9
    assert np.mean(at_once) > np.mean(one_by_one) + 0.1


def test_the_score_never_falls_and_shortcuts_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = walks(wanderers(10, 120, speed=14, seed=8), alike=0.9).thinned(6)
    arrays = scene.scene()
    scores = fitted_scores(arrays, max_lag=26)
    solve(scores)
    found = scores.previous.copy()
    monkeypatch.setattr(module, "CERTAIN", np.inf)
    monkeypatch.setattr(module, "ALL_PAIRS", 10**9)
    scores = fitted_scores(arrays, max_lag=26)
    solve(scores)
    assert (scores.previous == found).all()


def test_what_a_scene_shows_of_itself() -> None:
    paths = wanderers(10, 150, speed=10, persistence=0.0, seed=6)
    scene = walks(paths, noise=0.5)
    arrays = scene.scene()
    learned = learn(arrays)
    diagonal = SIDE * 2**0.5
    # Student's t with 4 degrees has a scatter of some three quarters of a normal one's variance.
    assert np.sqrt(np.trace(learned.by_lag[1].moves.near) / 2) * diagonal == pytest.approx(
        10 / 2**0.5, rel=0.3
    )
    assert learned.by_lag[4].moves.near.trace() > 2 * learned.by_lag[1].moves.near.trace()
    looks = learned.by_lag[1].looks
    same = [
        float(arrays.look[a] @ arrays.look[b])
        for who in range(10)
        for a, b in [np.flatnonzero(scene.who == who)[[10, 11]]]
    ]
    assert looks.same[0] == pytest.approx(np.mean(same), abs=0.15)
    assert looks.different[0] == pytest.approx(-1 / 9, abs=0.08)
    scores = fitted_scores(arrays, max_lag=26)
    assert BORDER_COST <= scores.learned.inside_cost <= MAX_INSIDE_COST
    assert scores.learned.inside_cost > 6  # nobody came or left


def test_frames_of_very_many_detections() -> None:
    """Two thousand on a grid, which drifts: no more is compared than a part, and all are linked."""
    columns, rows = np.meshgrid(np.arange(50), np.arange(40))
    places = np.column_stack([columns.ravel(), rows.ravel()]) * 18.0 + 40
    dice = np.random.default_rng(0)
    paths = {
        who: {frame: tuple(place + dice.normal(scale=1.5, size=2)) for frame in range(4)}
        for who, place in enumerate(places)
    }
    scene = walks(paths)
    assert partition(scene.links(camera_moves=False).track, scene.who)


def test_a_gap_of_any_length_may_be_asked_for() -> None:
    """Moths that sit where they sat the night before."""
    paths = {who: dict.fromkeys(range(20), (200.0 + 150 * who, 300.0)) for who in range(5)}
    scene = walks(paths)
    nights = replace(scene, frames=np.where(scene.frames < 10, scene.frames, scene.frames + 4000))
    assert nights.links().track.max() == 9  # a day of 4,000 frames is not crossed
    assert nights.links(max_gap_frames=10**12).track.max() < 9
