"""What the benchmarks of tracking stand on: cases, their scores, the ways around onepass, held-out settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tracking import others
from benchmarks.tracking.clips import NOBODY, Case, judge, phases
from benchmarks.tracking.linking import link_cases, write_cases
from benchmarks.tracking.pasted import FRAMES, SCENES, SIZE
from benchmarks.tracking.perturbed import CAMERA_PX, perturb
from benchmarks.tracks_held_out import AS_IS, changed, combinations, held_out
from tracks.association.options import PRESETS
from tracks.offline import distributions, learn, scores


@pytest.fixture
def walkers() -> Case:
    """Three individuals for 12 frames, each with an embedding of its own, 100 pixels from each other."""
    frames, ids = np.repeat(np.arange(12), 3), np.tile(np.arange(3), 12)
    corners = np.column_stack([20.0 + 5 * frames, 20.0 + 100 * ids])
    boxes = np.hstack([corners, corners + 30])
    looks = np.eye(3, 8, dtype=np.float32)[ids] + 0.1
    case = Case("walkers", frames, ids, boxes, looks, (400, 400), 10.0)
    order = np.lexsort([np.random.default_rng(0).random(len(ids)), frames])
    return case.select(order)


def test_thinned_clips_begin_at_different_frames(walkers: Case) -> None:
    assert [phases(1, 4), phases(2, 4), phases(20, 4)] == [[0], [0, 1], [0, 5, 10, 15]]
    thin = walkers.thin(5, 1)
    assert np.unique(thin.frames).tolist() == [1, 6, 11]
    assert thin.frames_per_second == 2


def test_every_way_finds_three_walkers(walkers: Case, tmp_path: Path) -> None:
    cases = [walkers, replace(walkers.thin(2, 1), name="half")]
    run = write_cases(tmp_path / "run", cases)
    found = {f"link {name}": link_cases(run, cases, PRESETS[name]) for name in ("default", "ami")}
    distances = others.hungarian(walkers, others._distances, 1.0)
    overlaps = others.hungarian(walkers, others._disjoint, 0.9)
    found |= {"Hungarian": [distances], "Hungarian by IoU": [overlaps]}
    for name, labels in found.items():
        for case, of_case in zip(cases, labels, strict=False):
            scores = judge(case, of_case)
            assert (scores.idf1, scores.switches, scores.tracks) == (1, 0, 3), name


def test_boxes_of_nobody_are_not_judged(walkers: Case) -> None:
    background = replace(walkers, name="b", ids=np.full_like(walkers.ids, NOBODY))
    false = perturb(walkers, "10 % false", background, seed=0)
    assert (len(false.frames), int((false.ids == NOBODY).sum())) == (40, 4)
    assert (np.diff(false.frames) >= 0).all()
    assert judge(false, np.where(false.ids == NOBODY, 99, false.ids)).idf1 == 1
    # A true box in no track is missed, one in another's track is a switch.
    labels = walkers.ids.copy()
    labels[0] = NOBODY
    assert judge(walkers, labels).missed == 1
    labels = np.where((walkers.frames >= 6) & (walkers.ids < 2), 1 - walkers.ids, walkers.ids)
    assert judge(walkers, labels).switches == 2


def test_perturbed_detections_keep_who_they_are(walkers: Case) -> None:
    fewer = perturb(walkers, "20 % missing", walkers, seed=1)
    assert 0.5 * len(walkers.frames) < len(fewer.frames) < len(walkers.frames)
    moved = perturb(walkers, "camera moved", walkers, seed=0)
    shift = (moved.boxes - walkers.boxes)[:, 0]
    assert set(shift[walkers.frames < 6]) == {0}
    assert set(shift[walkers.frames >= 6]) == {CAMERA_PX}
    assert (moved.ids == walkers.ids).all()


@pytest.mark.parametrize("name", list(SCENES))
def test_made_ways_stay_in_the_picture(name: str) -> None:
    ways_of, _, count = SCENES[name]
    ways = ways_of(count, np.random.default_rng(0))
    seen = np.isfinite(ways[..., 0])
    assert ways.shape == (count, FRAMES, 2)
    assert seen.any(axis=1).all()
    assert (np.abs(ways[seen] - np.array(SIZE) / 2) <= np.array(SIZE) / 2 + 5).all()


def test_a_setting_is_chosen_on_the_other_clips() -> None:
    tried = {"x": {"a": 0.9, "b": 0.5, "c": 0.5}, "y": {"a": 0.4, "b": 0.8, "c": 0.9}}
    scores = {AS_IS: {"a": 1.0, "b": 1.0, "c": 1.0}} | tried
    assert held_out(scores) == {
        "a": (0.4, "y", 0.9, "x"),
        "b": (0.5, "x", 0.8, "y"),
        "c": (0.5, "x", 0.9, "y"),
    }


def test_constants_are_changed_in_every_module_and_back() -> None:
    made = combinations({"FREEDOM": [1.0, 2.5], "MAX_LAG": [3.0]})
    assert list(made.values()) == [
        {},
        {"FREEDOM": 1.0, "MAX_LAG": 3.0},
        {"FREEDOM": 2.5, "MAX_LAG": 3.0},
    ]
    before = distributions.FREEDOM, learn.MAX_LAG, scores.MAX_LAG
    with changed({"FREEDOM": 2.5, "MAX_LAG": 3.0}):
        assert (distributions.FREEDOM, learn.MAX_LAG, scores.MAX_LAG) == (2.5, 3.0, 3.0)
    assert before == (distributions.FREEDOM, learn.MAX_LAG, scores.MAX_LAG)
    with pytest.raises(SystemExit, match="NOTHING"), changed({"NOTHING": 1.0}):
        pass
