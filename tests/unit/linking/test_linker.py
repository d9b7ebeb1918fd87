"""Sequences linked frame by frame."""

from __future__ import annotations

import math

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from cluster.errors import InputError
from index.linking.linker import Linker, Links, by_frame, frame_step, link
from index.linking.options import PRESETS, LinkOptions
from index.linking.state import OpenTracks
from index.linking.threads import one_thread
from index.vectors import l1_normalise
from tests.unit.linking.scenes import SQUARE, crowd, one_mover

EVEN = LinkOptions(distance_weight=1.0)


def test_two_stand_still() -> None:
    frames = np.array([0, 0, 1, 1])
    boxes = np.array([SQUARE, [50, 50, 60, 60], [50, 50, 60, 60], SQUARE])
    looks = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], np.float32)
    links = link(frames, boxes, looks, diagonal_px=100.0)
    assert links.track.tolist() == [0, 1, 1, 0]
    assert links.previous.tolist() == [-1, -1, 1, 0]
    assert links.position.tolist() == [0, 0, 1, 1]
    assert np.isnan(links.cost[:2]).all()
    assert np.isnan(links.terms[:2]).all()
    assert links.cost[2:] == pytest.approx([0, 0], abs=1e-6)


def test_cost_is_the_weighted_sum_of_its_terms() -> None:
    frames, boxes, looks, _ = crowd()
    options = PRESETS["default"]
    links = link(frames, boxes, looks, diagonal_px=1000.0, options=options)
    linked = links.previous >= 0
    assert linked.sum() > 30
    assert links.cost[linked] == pytest.approx(links.terms[linked] @ np.array(options.weights))
    assert (links.cost[linked] <= options.max_cost).all()


def test_finds_who_is_who() -> None:
    frames, boxes, looks, who = crowd(frames=30)
    links = link(frames, boxes, looks, diagonal_px=1400.0)
    linked = links.previous >= 0
    assert (who[linked] == who[links.previous[linked]]).mean() > 0.98


@pytest.mark.parametrize("gap", [0, 1, 3])
def test_a_gap_is_bridged_up_to_its_length(gap: int) -> None:
    options = LinkOptions(max_gap_frames=gap)
    frames = [0, 1, 2, 2 + gap + 1]
    assert one_mover(frames, options=options).track.tolist() == [0, 0, 0, 0]
    frames[-1] += 1
    assert one_mover(frames, options=options).track.tolist() == [0, 0, 0, 1]


def test_gaps_count_in_the_steps_of_a_sampled_clip() -> None:
    options = LinkOptions(max_gap_frames=1)
    assert one_mover([0, 5, 10, 20], options=options).track.tolist() == [0, 0, 0, 0]
    assert one_mover([0, 5, 10, 25], options=options).track.tolist() == [0, 0, 0, 1]
    assert one_mover([0, 1, 3], options=PRESETS["ami"]).track.tolist() == [0, 0, 1]


def test_frame_step() -> None:
    assert frame_step(np.array([0, 0, 5, 10, 20, 20])) == 5
    assert frame_step(np.array([3, 4, 6])) == 1
    assert frame_step(np.array([7])) == frame_step(np.array([], np.int64)) == 1


@pytest.mark.parametrize(
    ("seconds", "expected"), [([0.0, 60.0, 120.5], [0, 0, 1]), ([5.0] * 3, [0, 0, 0])]
)
def test_a_gap_in_seconds(seconds: list[float], expected: list[int]) -> None:
    options = LinkOptions(max_gap_seconds=60.0)
    assert one_mover([0, 1, 2], options=options, seconds=seconds).track.tolist() == expected


@pytest.mark.parametrize(
    ("seconds", "says"),
    [([0.0, math.nan], "1 of 2"), (None, "2 of 2"), ([60.0, 30.0], "backwards 1 times")],
)
def test_a_gap_in_seconds_needs_times_that_rise(seconds: list[float] | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        one_mover([0, 1], options=LinkOptions(max_gap_seconds=60.0), seconds=seconds)
    # Frames decide the order; without a gap in seconds, times are not looked at.
    assert one_mover([0, 1], options=EVEN, seconds=seconds).track.tolist() == [0, 0]


def test_a_lost_track_competes_with_a_live_one() -> None:
    # Two alike stand apart; one is missed for a frame, then both are back.
    frames = np.array([0, 0, 1, 2, 2])
    there, away = SQUARE, [80.0, 80.0, 90.0, 90.0]
    boxes = np.array([there, away, there, away, there])
    links = link(frames, boxes, np.ones((5, 2), np.float32), diagonal_px=100.0)
    assert links.track.tolist() == [0, 1, 0, 1, 0]
    assert links.previous.tolist() == [-1, -1, 0, 1, 2]


def test_appearance_memory_outlasts_one_odd_look() -> None:
    # Frame 2 looks odd; frame 3 looks as ever and has two places to go.
    frames = np.array([0, 0, 1, 1, 2, 2, 3])
    boxes = np.array([SQUARE] * 7)
    a, b, odd = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.45, 0.0, 1.0]
    looks = np.array([a, b, a, b, odd, [0.9, 1.0, 0.0], a], np.float32)
    for memory, expected in ((0.9, 4), (0.0, 5)):
        links = link(
            frames,
            boxes,
            looks,
            diagonal_px=10.0,
            options=LinkOptions(appearance_memory=memory),
        )
        assert links.previous[4:6].tolist() == [2, 3]
        assert links.previous[6] == expected


def test_order_inside_a_frame_does_not_matter() -> None:
    frames, boxes, looks, _ = crowd()
    straight = link(frames, boxes, looks, diagonal_px=1400.0)
    shuffled = np.lexsort((np.random.default_rng(3).random(len(frames)), frames))
    mixed = link(frames, boxes[shuffled], looks[shuffled], diagonal_px=1400.0)
    back = np.argsort(shuffled)
    previous = np.where(mixed.previous >= 0, shuffled[mixed.previous], -1)[back]
    assert previous.tolist() == straight.previous.tolist()
    assert mixed.cost[back] == pytest.approx(straight.cost, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_a_detection_is_claimed_at_most_once(seed: int) -> None:
    frames, boxes, looks, _ = crowd(seed=seed)
    options = LinkOptions(max_cost=5.0, max_gap_frames=20)
    links = link(frames, boxes, looks, diagonal_px=1400.0, options=options)
    claimed = links.previous[links.previous >= 0]
    assert len(claimed) == len(set(claimed.tolist()))
    assert (frames[claimed] < frames[links.previous >= 0]).all()
    for track in range(links.track.max() + 1):
        assert links.position[links.track == track].tolist() == list(
            range((links.track == track).sum())
        )


def test_the_ami_preset_lets_two_claim_one() -> None:
    frames = np.array([0, 1, 1, 2])
    boxes = np.array([SQUARE, SQUARE, [1, 1, 11, 11], SQUARE])
    looks = np.ones((4, 2), np.float32)
    links = link(frames, boxes, looks, diagonal_px=100.0, options=PRESETS["ami"])
    assert links.previous.tolist() == [-1, 0, 0, 1]
    assert links.track.tolist() == [0, 0, 0, 0]
    assert links.position.tolist() == [0, 1, 1, 2]


def test_nothing_at_all() -> None:
    links = link(
        np.empty(0, np.int64), np.empty((0, 4)), np.empty((0, 3), np.float32), diagonal_px=1.0
    )
    assert len(links.track) == 0


def test_diagonal_of_the_later_image_counts() -> None:
    frames = np.array([0, 1, 2])
    boxes = np.array([SQUARE, [10, 0, 20, 10], [20, 0, 30, 10]])
    looks = np.ones((3, 2), np.float32)
    diagonals = np.array([1.0, 100.0, 200.0])
    links = link(frames, boxes, looks, diagonal_px=diagonals, options=EVEN)
    assert links.terms[1:, 3] == pytest.approx([0.1, 0.05])


def test_refuses_disorder_and_what_is_no_number() -> None:
    boxes, looks = np.array([SQUARE] * 3), np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="frames"):
        link(np.array([1, 0, 2]), boxes, looks, diagonal_px=1.0)
    with pytest.raises(ValueError, match="finite"):
        link(np.arange(3), boxes * np.nan, looks, diagonal_px=1.0)
    looks[1] = 0
    with pytest.raises(InputError, match=r"1 of 3 .*'1'"):
        link(np.arange(3), boxes, looks, diagonal_px=1.0)


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
    boxes = np.array([SQUARE, SQUARE, [50, 50, 60, 60]])
    assert scored(boxes, scores).track.tolist() == expected


def test_strong_ones_choose_first() -> None:
    # The weak one fits better, and still gets only what the strong one leaves.
    links = scored(np.array([SQUARE, SQUARE, [2, 0, 12, 10]]), [0.9, 0.2, 0.9])
    assert links.track.tolist() == [0, -1, 0]
    assert (links.position.tolist(), links.previous.tolist()) == ([0, -1, 1], [-1, -1, 0])


def scored(boxes: np.ndarray, scores: list[float]) -> Links:
    return link(
        np.array([0, 1, 1]),
        boxes,
        np.ones((3, 2), np.float32),
        diagonal_px=100.0,
        scores=np.array(scores),
        options=LinkOptions(strong_score=0.5),
    )


def gated(frames: list[int], x: list[int], gate: float | None) -> int:
    """The track of the last detection; a box is 14 pixels across."""
    boxes = np.array([[left, 0, left + 10, 10] for left in x], dtype=float)
    options = LinkOptions(motion_gate=gate, max_cost=4.0)
    looks = np.ones((len(x), 2), np.float32)
    return int(link(np.array(frames), boxes, looks, diagonal_px=1e3, options=options).track[-1])


@pytest.mark.parametrize(("x", "expected"), [(40, 0), (60, 0), (70, 1), (20, 0), (10, 1)])
def test_a_detection_must_lie_where_the_track_was_heading(x: int, expected: int) -> None:
    assert gated([0, 1, 2], [0, 20, x], 1.5) == expected  # 21 pixels around 40
    assert gated([0, 1, 2], [0, 20, x], None) == 0


def test_the_reach_of_the_gate_grows_with_the_frames_that_passed() -> None:
    assert gated([0, 1, 2], [0, 0, 40], 1.0) == 1
    assert gated([0, 1, 4], [0, 0, 40], 1.0) == 0


def test_the_gallery_knows_an_old_look_again() -> None:
    # It looked like a, then like b for long; then a is seen again, and there are two places.
    a, b = [1.0, 0.0], [0.0, 1.0]
    looks = np.array([a, *[b] * 5, a], np.float32)
    boxes = np.array([SQUARE] * 7)
    kwargs = {"feature_weight": 4.0, "max_cost": 4.5}
    first = link(np.arange(7), boxes, looks, diagonal_px=10.0, options=LinkOptions(**kwargs))
    gallery = LinkOptions(appearance="gallery", gallery_size=8, **kwargs)
    known = link(np.arange(7), boxes, looks, diagonal_px=10.0, options=gallery)
    assert known.terms[6, 0] == pytest.approx(0.0, abs=1e-6)
    assert first.terms[6, 0] > 0.5
    short = LinkOptions(appearance="gallery", gallery_size=3, **kwargs)
    forgot = link(np.arange(7), boxes, looks, diagonal_px=10.0, options=short)
    assert forgot.terms[6, 0] == pytest.approx(1.0)


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
    looks = np.array([[1.0, 0], [-1.0, 0], [-1.0, 0]], np.float32)
    options = LinkOptions(appearance_memory=0.5, max_cost=4.0)
    links = link(np.arange(3), np.array([SQUARE] * 3), looks, diagonal_px=10.0, options=options)
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
        saved, before = linker.open.arrays(), linker
        linker = Linker(16, options)
        linker.restore(OpenTracks(**saved), started=before.tracks, rows=before.rows)
        at = float(frames[rows.start])
        parts.append(
            linker.step(int(at), boxes[rows], normal[rows], diagonal_px=1400.0, seconds=at)
        )
    again = Links.joined(parts)
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
    made = []
    for max_pairs in (10**9, 0):
        linker = Linker(16, options, max_pairs=max_pairs)
        made.append(
            Links.joined(
                [
                    linker.step(
                        int(frames[rows.start]), boxes[rows], normal[rows], diagonal_px=1400.0
                    )
                    for rows in by_frame(frames)
                ]
            )
        )
    whole, listed = made
    assert listed.previous.tolist() == whole.previous.tolist()
    assert listed.track.tolist() == whole.track.tolist()
    assert listed.cost == pytest.approx(whole.cost, abs=1e-6, nan_ok=True)
    assert listed.terms == pytest.approx(whole.terms, abs=1e-6, nan_ok=True)
    linked = whole.previous >= 0
    assert (who[linked] == who[whole.previous[linked]]).mean() > 0.9


def test_the_antenna_preset_is_one_to_one_and_strict() -> None:
    frames = np.array([0, 1, 1])
    boxes = np.array([SQUARE, [0, 0, 10, 9.8], [1, 1, 11, 11]])
    looks = np.ones((3, 2), np.float32)
    links = link(frames, boxes, looks, diagonal_px=100.0, options=PRESETS["antenna"])
    assert links.previous.tolist() == [-1, 0, -1]
    assert links.cost[1] == pytest.approx(0.02 + 0.02 + 0.1 / 100, abs=1e-6)


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
