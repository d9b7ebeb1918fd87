"""A known number of individuals: tracks are joined until so many are left."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from common.errors import InputError
from tests.helpers.walks import Walks, partition, walks, wanderers, without
from tracks.association.options import PRESETS
from tracks.offline.individuals import join_tracks
from tracks.offline.solve import fitted_scores, solve


def with_long_gaps() -> Walks:
    """Five, of which three are not found for longer than any gap, at different times."""
    scene = walks(wanderers(5, 260, seed=11), alike=0.3)
    for who, frames in ((1, range(40, 90)), (3, range(100, 160)), (4, range(60, 130))):
        scene = without(scene, who, frames)
    return scene


def test_tracks_are_joined_however_long_the_gap() -> None:
    scene = with_long_gaps()
    assert scene.links().track.max() + 1 == 8
    links = scene.links(individuals=5)
    assert partition(links.track, scene.who)
    joined = np.flatnonzero(links.previous >= 0)
    gaps = scene.frames[joined] - scene.frames[links.previous[joined]]
    assert (gaps > 40).sum() == 3
    assert np.isfinite(links.margin[joined]).all()


def test_no_more_are_joined_than_needed() -> None:
    scene = with_long_gaps()
    assert [scene.links(individuals=count).track.max() + 1 for count in (6, 7, 8, 20)] == [
        6,
        7,
        8,
        8,
    ]


def test_tracks_that_overlap_in_time_stay_apart() -> None:
    scene = walks(wanderers(6, 60, seed=4))
    links = scene.links(individuals=3)
    assert links.track.max() + 1 == 6
    assert partition(links.track, scene.who)


def test_the_joins_are_the_best_of_all() -> None:
    """Three tracks end, three begin later: every way to join them is tried."""
    scene = walks(wanderers(3, 120, speed=20, seed=9), alike=0.9, noise=0.5)
    scene = scene.where((scene.frames < 40) | (scene.frames >= 80))
    scores = fitted_scores(scene.scene(), max_lag=26)
    solve(scores)
    heads, tails = np.flatnonzero(scores.next < 0), np.flatnonzero(scores.previous < 0)
    ends, begins = heads[scene.frames[heads] < 40], tails[scene.frames[tails] >= 80]
    assert len(ends) == len(begins) == 3
    best = max(
        permutations(begins.tolist()),
        key=lambda order: float(scores.links(ends, np.array(order)).sum()),
    )
    margin = np.full(len(scene.frames), np.nan)
    join_tracks(scores, 3, np.ones(len(scene.frames), dtype=bool), margin)
    assert scores.next[ends].tolist() == list(best)


def test_weak_tracks_are_joined_to_none() -> None:
    scene = with_long_gaps()
    weak = scene.who == 2
    scores = np.where(weak, 0.1, 0.9)
    links = scene.links(scores, strong_score=0.5, individuals=4)
    assert (links.track[weak] == -1).all()
    assert partition(links.track[~weak], scene.who[~weak])


def test_it_is_an_option_of_offline_linking() -> None:
    with pytest.raises(InputError, match="individuals"):
        PRESETS["online"].replace(individuals=3)
    with pytest.raises(InputError, match="individuals"):
        PRESETS["default"].replace(individuals=0)
