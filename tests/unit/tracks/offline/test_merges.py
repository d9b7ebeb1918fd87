"""Boxes around several animals at once: who goes in comes out, and everybody in the box is named."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.merging import SEVERAL, apart, line, merged
from tests.helpers.walks import SIDE, Walks, walks, wanderers, without
from tracks.boxes import TrackBoxes
from tracks.evaluation.scores import evaluate


@pytest.mark.parametrize("alike", [0.0, 1.0])
@pytest.mark.parametrize("slope", [2.0, 5.0])
def test_two_that_cross(alike: float, slope: float) -> None:
    frames = range(80)
    paths = {
        0: line((260, 300 - 40 * slope), (6, slope), frames),
        1: line((260 + 12 * 40, 300 - 40 * slope), (-6, slope), frames),
    }
    seen = merged(walks(paths | apart(4, frames), alike=alike, noise=0.5))
    assert SEVERAL in seen.scene.who
    links = seen.scene.links()
    assert seen.said(links) == seen.inside
    assert links.track.max() == 5


def test_two_that_meet_and_turn_back_are_told_apart_by_their_looks() -> None:
    way = [200 + 5.0 * f for f in range(40)] + [395.0] * 20 + [395 - 5.0 * f for f in range(40)]
    paths = {
        0: {f: (x, 300.0) for f, x in enumerate(way)},
        1: {f: (395 + 395 - x + 30, 300.0) for f, x in enumerate(way)},
    }
    seen = merged(walks(paths | apart(3, range(100)), noise=0.2))
    assert sum(len(each) > 1 for each in seen.inside) > 15
    assert seen.said(seen.scene.links()) == seen.inside


def test_three_of_which_one_joins_late_and_leaves_first() -> None:
    frames = range(90)
    paths = {
        0: line((200, 300), (4, 0.0), frames),
        1: line((560, 310), (-4, 0.0), frames),
        2: line((385, 90), (0.0, 5), frames),
    }
    seen = merged(walks(paths | apart(3, frames), noise=0.2))
    assert max(map(len, seen.inside)) == 3
    assert seen.said(seen.scene.links()) == seen.inside


def test_a_merge_may_last_longer_than_a_gap() -> None:
    x = [300 + 4.0 * f for f in range(20)] + [376.0] * 60 + [376 - 4.0 * f for f in range(20)]
    paths = {
        0: {f: (place, 300.0) for f, place in enumerate(x)},
        1: {f: (405 + 376 - place, 302.0) for f, place in enumerate(x)},
    }
    seen = merged(walks(paths | apart(3, range(100)), noise=0.2))
    assert sum(len(each) > 1 for each in seen.inside) > 60
    assert seen.said(seen.scene.links()) == seen.inside


@pytest.mark.parametrize("is_end", [True, False])
def test_a_sequence_may_begin_or_end_inside(is_end: bool) -> None:
    frames = range(52)
    paths = {
        0: line((200, 300), (4, 0.0), frames),
        1: line((580, 303), (-4, 0.0), frames),
    }
    scene = walks(paths | apart(3, frames), noise=0.2)
    if not is_end:
        order = np.argsort(-scene.frames, kind="stable")
        scene = scene.where(order)
        scene = Walks(51 - scene.frames, scene.who, scene.boxes, scene.looks)
    seen = merged(scene)
    assert seen.said(seen.scene.links()) == seen.inside


def test_one_that_hides_behind_another_is_in_no_box() -> None:
    """The box of the other is as before: an ordinary gap."""
    frames = range(80)
    paths = {
        0: line((200, 300), (1, 0.0), frames),
        1: line((80, 302), (7, 0.0), frames),
    }
    scene = walks(paths | apart(3, frames), noise=0.2)
    hidden = [f for f in frames if abs(paths[0][f][0] - paths[1][f][0]) < SIDE]
    scene = without(scene, 1, range(hidden[0], hidden[-1] + 1))
    links = scene.links()
    assert len(links.others) == 0
    assert links.track.max() == 4


def test_animals_that_only_grow_or_vanish_are_in_no_box() -> None:
    frames = range(60)
    paths = {
        0: line((200, 300), (3, 0.0), frames),
        1: line((260, 300), (3, 0.0), range(30)),
    }
    scene = walks(paths | apart(3, frames), noise=0.2)
    assert len(scene.links().others) == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_crowd(seed: int) -> None:
    scene = walks(wanderers(8, 200, speed=8, seed=seed), alike=0.5, noise=0.4, seed=seed)
    seen = merged(scene)
    links = seen.scene.links()
    several = [row for row, each in enumerate(seen.inside) if len(each) > 1]
    said = seen.said(links)
    right = sum(said[row] == seen.inside[row] for row in several)
    wrong = sum(len(each) > 1 for row, each in enumerate(said) if len(seen.inside[row]) == 1)
    print(f"{right} of {len(several)} right, {wrong} called so that are not")
    assert right >= 0.9 * len(several)
    assert wrong <= 0.01 * len(said)
    alone = seen.scene.who != SEVERAL
    found = TrackBoxes(seen.scene.frames[alone], links.track[alone], seen.scene.boxes[alone])
    truth = TrackBoxes(found.frames, seen.scene.who[alone], found.boxes)
    assert evaluate(truth, found).idf1 > 0.97


@pytest.mark.parametrize("seed", range(3))
def test_dense_crowds_of_everybody_in_everything(seed: int) -> None:
    """So full that boxes of several join and part all the time: links stay links."""
    dice = np.random.default_rng(seed)
    scene = walks(wanderers(22, 60, speed=7, seed=seed), alike=0.5, noise=0.5, seed=seed)
    found = dice.random(len(scene.frames)) > 0.03
    seen = merged(scene.where(found))
    frames, links = seen.scene.frames, seen.scene.links()
    assert len(links.others) > 50
    later = np.flatnonzero(links.previous >= 0)
    earlier = links.previous[later]
    assert (frames[earlier] < frames[later]).all()
    assert len(np.unique(earlier)) == len(earlier)
    assert (links.track[earlier] == links.track[later]).all()
    # Nobody is in two boxes of a frame.
    where = [*zip(frames.tolist(), links.track.tolist(), strict=True)]
    where += [(int(frames[row]), track) for row, track in links.others.tolist()]
    assert len(set(where)) == len(where)
