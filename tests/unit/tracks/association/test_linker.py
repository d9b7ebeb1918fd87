"""Sequences linked frame by frame."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from common.errors import InputError
from index.vectors import l1_normalise
from tests.helpers.scenes import SQUARE, crowd
from tracks.association.frames import by_frame, frame_step
from tracks.association.linker import Linker, Links, link
from tracks.association.options import PRESETS, LinkOptions
from tracks.association.state import OpenTracks
from tracks.association.threads import one_thread


def linked(
    frames: list[int], boxes: Any = None, looks: Any = None, *, preset: str = "online", **more: Any
) -> Links:
    """Link detections that stand still and look alike, where nothing else is given."""
    given = {name: more.pop(name) for name in ("seconds", "scores") if name in more}
    return link(
        np.array(frames),
        np.array([SQUARE] * len(frames) if boxes is None else boxes, dtype=float),
        np.array([[1.0, 1.0]] * len(frames) if looks is None else looks, np.float32),
        diagonal_px=more.pop("diagonal_px", 100.0),
        options=PRESETS[preset].replace(**more),
        **{name: None if value is None else np.array(value) for name, value in given.items()},
    )


def test_two_stand_still() -> None:
    there = [50, 50, 60, 60]
    a, b = [1, 0], [0, 1]
    links = linked([0, 0, 1, 1], [SQUARE, there, there, SQUARE], [a, b, b, a])
    assert links.track.tolist() == [0, 1, 1, 0]
    assert links.previous.tolist() == [-1, -1, 1, 0]
    assert links.position.tolist() == [0, 0, 1, 1]
    assert np.isnan(links.cost[:2]).all()
    assert np.isnan(links.terms[:2]).all()
    assert links.cost[2:] == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", [LinkOptions(), LinkOptions(max_cost=5.0, max_gap_frames=20)])
def test_a_crowd(seed: int, options: LinkOptions) -> None:
    frames, boxes, looks, who = crowd(frames=30, seed=seed)
    links = link(frames, boxes, looks, diagonal_px=1400.0, options=options)
    later = links.previous >= 0
    claimed = links.previous[later]
    assert (who[later] == who[claimed]).mean() > (0.98 if options.max_cost < 5 else 0.95)
    assert links.cost[later] == pytest.approx(links.terms[later] @ np.array(options.weights))
    assert (links.cost[later] <= options.max_cost).all()
    assert len(claimed) == len(set(claimed.tolist())) > 150
    assert (frames[claimed] < frames[later]).all()
    for track in range(links.track.max() + 1):
        positions = links.position[links.track == track]
        assert positions.tolist() == list(range(len(positions)))


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_a_gap_is_bridged_up_to_its_length(gap: int) -> None:
    for step in (1, 5):  # gaps count in the steps of a sampled clip
        frames = [0, step, 2 * step, (3 + gap) * step]
        assert linked(frames, max_gap_frames=gap).track.tolist() == [0, 0, 0, 0]
        frames[-1] += step
        assert linked(frames, max_gap_frames=gap).track.tolist() == [0, 0, 0, 1]
    assert linked([0, 1, 3], preset="ami").track.tolist() == [0, 0, 1]


def test_frame_step() -> None:
    assert frame_step(np.array([0, 0, 5, 10, 20, 20])) == 5
    assert frame_step(np.array([3, 4, 6])) == 1
    assert frame_step(np.array([7])) == frame_step(np.array([], np.int64)) == 1


@pytest.mark.parametrize(
    ("seconds", "expected"), [([0.0, 60.0, 120.5], [0, 0, 1]), ([5.0] * 3, [0, 0, 0])]
)
def test_a_gap_in_seconds(seconds: list[float], expected: list[int]) -> None:
    links = linked([0, 1, 2], max_gap_seconds=60.0, seconds=seconds)
    assert links.track.tolist() == expected


@pytest.mark.parametrize(
    ("seconds", "says"),
    [([0.0, math.nan], "1 of 2"), (None, "2 of 2"), ([60.0, 30.0], "backwards 1 times")],
)
def test_a_gap_in_seconds_needs_times_that_rise(seconds: list[float] | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        linked([0, 1], max_gap_seconds=60.0, seconds=seconds)
    # Frames decide the order; without a gap in seconds, times are not looked at.
    assert linked([0, 1], seconds=seconds).track.tolist() == [0, 0]


def test_a_lost_track_competes_with_a_live_one() -> None:
    # Two alike stand apart; one is missed for a frame, then both are back.
    away = [80, 80, 90, 90]
    links = linked([0, 0, 1, 2, 2], [SQUARE, away, SQUARE, away, SQUARE])
    assert links.track.tolist() == [0, 1, 0, 1, 0]
    assert links.previous.tolist() == [-1, -1, 0, 1, 2]


@pytest.mark.parametrize(("memory", "expected"), [(0.9, 4), (0.0, 5)])
def test_appearance_memory_outlasts_one_odd_look(memory: float, expected: int) -> None:
    # Frame 2 looks odd; frame 3 looks as ever and has two places to go.
    a, b, odd = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.45, 0.0, 1.0]
    looks = [a, b, a, b, odd, [0.9, 1.0, 0.0], a]
    links = linked([0, 0, 1, 1, 2, 2, 3], looks=looks, diagonal_px=10.0, appearance_memory=memory)
    assert links.previous[4:].tolist() == [2, 3, expected]


def test_order_inside_a_frame_does_not_matter() -> None:
    frames, boxes, looks, _ = crowd()
    straight = link(frames, boxes, looks, diagonal_px=1400.0)
    shuffled = np.lexsort((np.random.default_rng(3).random(len(frames)), frames))
    mixed = link(frames, boxes[shuffled], looks[shuffled], diagonal_px=1400.0)
    back = np.argsort(shuffled)
    previous = np.where(mixed.previous >= 0, shuffled[mixed.previous], -1)[back]
    assert previous.tolist() == straight.previous.tolist()
    assert mixed.cost[back] == pytest.approx(straight.cost, nan_ok=True)


def test_the_ami_preset_lets_two_claim_one() -> None:
    links = linked([0, 1, 1, 2], [SQUARE, SQUARE, [1, 1, 11, 11], SQUARE], preset="ami")
    assert links.previous.tolist() == [-1, 0, 0, 1]
    assert links.track.tolist() == [0, 0, 0, 0]
    assert links.position.tolist() == [0, 1, 1, 2]


def test_the_antenna_preset_is_one_to_one_and_strict() -> None:
    links = linked([0, 1, 1], [SQUARE, [0, 0, 10, 9.8], [1, 1, 11, 11]], preset="antenna")
    assert links.previous.tolist() == [-1, 0, -1]
    assert links.cost[1] == pytest.approx(0.02 + 0.02 + 0.1 / 100, abs=1e-6)


def test_nothing_at_all() -> None:
    assert len(linked([], np.empty((0, 4)), np.empty((0, 3))).track) == 0


def test_diagonal_of_the_later_image_counts() -> None:
    boxes, diagonals = [SQUARE, [10, 0, 20, 10], [20, 0, 30, 10]], np.array([1.0, 100.0, 200.0])
    links = linked([0, 1, 2], boxes, diagonal_px=diagonals, max_cost=3.0)
    assert links.terms[1:, 3] == pytest.approx([0.1, 0.05])


def test_refuses_disorder_and_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="frames"):
        linked([1, 0, 2])
    with pytest.raises(ValueError, match="finite"):
        linked([0], [[0, 0, math.nan, 1]])
    with pytest.raises(InputError, match=r"1 of 3 .*'1'"):
        linked([0, 1, 2], looks=[[1, 1], [0, 0], [1, 1]])


def test_a_frame_without_detections_counts_as_missed() -> None:
    linker = Linker(2, LinkOptions(max_gap_frames=1))
    looks, box = np.full((1, 2), 0.5, np.float32), np.array([SQUARE])
    nothing = (np.empty((0, 4)), np.empty((0, 2), np.float32))
    assert linker.step(0, box, looks, diagonal_px=100.0).track.tolist() == [0]
    assert len(linker.step(1, *nothing, diagonal_px=100.0).track) == 0
    assert linker.step(2, box, looks, diagonal_px=100.0).track.tolist() == [0]
    for frame in (3, 4):
        linker.step(frame, *nothing, diagonal_px=100.0)
    assert linker.step(5, box, looks, diagonal_px=100.0).track.tolist() == [1]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.2, 0.9], [0, 0, 1]),  # a weak one extends a track
        ([0.9, 0.9, 0.2], [0, 0, -1]),  # and never starts one
        ([0.2, 0.9, 0.9], [-1, 0, 1]),
        ([math.nan, 0.9, math.nan], [0, 0, 1]),  # an unknown score is strong
    ],
)
def test_weak_detections_extend_and_do_not_start(scores: list[float], expected: list[int]) -> None:
    boxes = [SQUARE, SQUARE, [50, 50, 60, 60]]
    links = linked([0, 1, 1], boxes, scores=scores, strong_score=0.5)
    assert links.track.tolist() == expected


def test_strong_ones_choose_first() -> None:
    # The weak one fits better, and still gets only what the strong one leaves.
    boxes = [SQUARE, SQUARE, [2, 0, 12, 10]]
    links = linked([0, 1, 1], boxes, scores=[0.9, 0.2, 0.9], strong_score=0.5)
    assert links.track.tolist() == [0, -1, 0]
    assert (links.position.tolist(), links.previous.tolist()) == ([0, -1, 1], [-1, -1, 0])


def gated(frames: list[int], x: list[int], gate: float | None) -> int:
    """The track of the last detection; a box is 14 pixels across."""
    boxes = [[left, 0, left + 10, 10] for left in x]
    return int(linked(frames, boxes, diagonal_px=1e3, motion_gate=gate, max_cost=4.0).track[-1])


@pytest.mark.parametrize(("x", "expected"), [(40, 0), (60, 0), (70, 1), (20, 0), (10, 1)])
def test_a_detection_must_lie_where_the_track_was_heading(x: int, expected: int) -> None:
    assert gated([0, 1, 2], [0, 20, x], 1.5) == expected  # 21 pixels around 40
    assert gated([0, 1, 2], [0, 20, x], None) == 0


def test_the_reach_of_the_gate_grows_with_the_frames_that_passed() -> None:
    assert gated([0, 1, 2], [0, 0, 40], 1.0) == 1
    assert gated([0, 1, 4], [0, 0, 40], 1.0) == 0


def test_the_gallery_knows_an_old_look_again() -> None:
    # It looked like a, then like b for long; then a is seen again.
    a, b = [1.0, 0.0], [0.0, 1.0]
    feature = [
        linked(
            list(range(7)), looks=[a, *[b] * 5, a], feature_weight=4.0, max_cost=4.5, **more
        ).terms[6, 0]
        for more in (
            {"appearance": "gallery", "gallery_size": 8},
            {"appearance": "gallery", "gallery_size": 3},
            {},
        )
    ]
    assert feature[:2] == pytest.approx([0.0, 1.0], abs=1e-6)
    assert feature[2] > 0.5


def test_a_gallery_of_one_is_the_last_look() -> None:
    frames, boxes, looks, _ = crowd()
    one, last = (
        link(frames, boxes, looks, diagonal_px=1400.0, options=options)
        for options in (
            LinkOptions(appearance="gallery", gallery_size=1),
            LinkOptions(appearance_memory=0.0),
        )
    )
    assert one.cost.tolist() == pytest.approx(last.cost.tolist(), nan_ok=True)


def test_looks_that_cancel_out_leave_the_newest() -> None:
    looks = [[1, 0], [-1, 0], [-1, 0]]
    links = linked([0, 1, 2], looks=looks, appearance_memory=0.5, max_cost=4.0)
    assert links.terms[1:, 0] == pytest.approx([2.0, 0.0])


@pytest.mark.parametrize("appearance", ["average", "gallery"])
def test_a_linker_goes_on_where_a_saved_one_stood(appearance: str) -> None:
    frames, boxes, looks, _ = crowd(frames=20)
    options = LinkOptions(appearance=appearance, motion_gate=3.0, max_gap_seconds=3.0)
    normal = l1_normalise(looks, [""] * len(looks))
    whole = link(
        frames, boxes, looks, diagonal_px=1400.0, seconds=frames.astype(float), options=options
    )
    linker, parts = Linker(16, options), []
    for rows in by_frame(frames):
        saved, before = vars(linker.open), linker
        linker = Linker(16, options)
        linker.restore(OpenTracks(**saved), started=before.tracks, rows=before.rows)
        at = float(frames[rows.start])
        parts.append(
            linker.step(int(at), boxes[rows], normal[rows], diagonal_px=1400.0, seconds=at)
        )
    again = Links.concatenate(parts)
    assert again.track.tolist() == whole.track.tolist()
    assert again.previous.tolist() == whole.previous.tolist()
    assert again.margin == pytest.approx(whole.margin, nan_ok=True)


@pytest.mark.parametrize("appearance", ["average", "gallery"])
@pytest.mark.parametrize("gate", [None, 4.0])
def test_candidates_give_the_links_of_full_enumeration(appearance: str, gate: float | None) -> None:
    # 300 objects with looks that are hard to tell apart, 40 of each kind of candidate at most.
    frames, boxes, looks, who = crowd(frames=8, objects=300, seed=2)
    options = LinkOptions(appearance=appearance, motion_gate=gate)
    normal = l1_normalise(looks, [""] * len(looks))
    results = []
    for max_pairs in (10**9, 0):
        linker = Linker(16, options, max_pairs=max_pairs)
        results.append(
            Links.concatenate(
                [
                    linker.step(
                        int(frames[rows.start]), boxes[rows], normal[rows], diagonal_px=1400.0
                    )
                    for rows in by_frame(frames)
                ]
            )
        )
    whole, listed = results
    assert listed.previous.tolist() == whole.previous.tolist()
    assert listed.track.tolist() == whole.track.tolist()
    assert listed.cost == pytest.approx(whole.cost, abs=1e-6, nan_ok=True)
    assert listed.terms == pytest.approx(whole.terms, abs=1e-6, nan_ok=True)
    linked = whole.previous >= 0
    assert (who[linked] == who[whole.previous[linked]]).mean() > 0.9


def test_products_take_one_thread_and_others_keep_theirs() -> None:
    import faiss

    def threads() -> dict[str, int]:
        return {one["filepath"]: one["num_threads"] for one in threadpool_info()}

    before, searching = threads(), faiss.omp_get_max_threads()
    with one_thread():
        during = threads()
        assert faiss.omp_get_max_threads() == searching
    numpy = [file for file in before if "numpy" in file]
    assert [during[file] for file in numpy] == [1] * len(numpy)
    assert {file: n for file, n in during.items() if file not in numpy} == {
        file: n for file, n in before.items() if file not in numpy
    }
    assert threads() == before
