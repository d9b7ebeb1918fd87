"""Linking on numbers small enough to work out by hand."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from cluster.errors import InputError
from index.linking.assign import assign
from index.linking.costs import cost_terms, l1_or_zero
from index.linking.linker import Links, frame_step, link
from index.linking.options import PRESETS, LinkOptions

SQUARE = [0.0, 0.0, 10.0, 10.0]
EVEN = LinkOptions(distance_weight=1.0)


def one_mover(
    frames: list[int], *, options: LinkOptions, seconds: list[float] | None = None
) -> Links:
    """Link one unchanging object that stands still in the given frames."""
    return link(
        np.array(frames),
        np.array([SQUARE] * len(frames)),
        np.ones((len(frames), 4), np.float32),
        diagonal_px=100.0,
        seconds=None if seconds is None else np.array(seconds),
        options=options,
    )


def crowd(frames: int = 12, objects: int = 7, *, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Objects on a random walk: frames, boxes, embeddings and who is who."""
    random = np.random.default_rng(seed)
    centres = random.uniform(50, 950, (objects, 2))
    looks = random.normal(size=(objects, 16))
    rows: list[tuple[int, np.ndarray, np.ndarray, int]] = []
    for frame in range(frames):
        centres = centres + random.normal(scale=8, size=centres.shape)
        for who in range(objects):
            if random.random() < 0.85:
                box = np.r_[centres[who] - 20, centres[who] + 20]
                rows.append((frame, box, looks[who] + random.normal(scale=0.3, size=16), who))
    return (
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows], np.float32),
        np.array([row[3] for row in rows]),
    )


class TestCostTerms:
    def test_worked_out_by_hand(self) -> None:
        before = np.array([[3.0, 4.0]], np.float32)
        after = np.array([[4.0, 3.0], [-3.0, -4.0]], np.float32)
        boxes = np.array([[5.0, 0.0, 15.0, 10.0], [0.0, 0.0, 20.0, 20.0]])
        pairs = cost_terms(before, np.array([SQUARE]), after, boxes, diagonal_px=50.0)
        assert pairs.feature[0] == pytest.approx([1 - 24 / 25, 2.0], abs=1e-6)
        assert pairs.iou[0] == pytest.approx([1 - 50 / 150, 1 - 100 / 400])
        assert pairs.area[0] == pytest.approx([0.0, 1 - 100 / 400])
        assert pairs.distance[0] == pytest.approx([5 / 50, math.hypot(5, 5) / 50])
        assert pairs.total[0, 0] == pytest.approx(0.04 + 2 / 3 + 0.1, abs=1e-6)

    def test_weights_apply_to_their_own_term(self) -> None:
        before, after = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
        boxes = np.array([[5.0, 0.0, 25.0, 10.0]])
        pairs = cost_terms(
            before, np.array([SQUARE]), after, boxes, diagonal_px=50.0, weights=(1, 10, 100, 1000)
        )
        expected = 1 + 10 * (1 - 50 / 250) + 100 * (1 - 100 / 200) + 1000 * (10 / 50)
        assert pairs.total[0, 0] == pytest.approx(expected, abs=1e-5)

    def test_itself_costs_nothing(self) -> None:
        looks = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
        boxes = np.array([SQUARE]) + np.arange(5)[:, None] * 30
        pairs = cost_terms(looks, boxes, looks, boxes, diagonal_px=10.0)
        assert np.diag(pairs.total) == pytest.approx(np.zeros(5), abs=1e-6)
        for term in pairs[:-1]:
            assert term == pytest.approx(term.T)

    def test_scale_of_an_embedding_does_not_count(self) -> None:
        looks = np.array([[1.0, -2.0, 3.0]], np.float32)
        pairs = cost_terms(
            looks, np.array([SQUARE]), 1000 * looks, np.array([SQUARE]), diagonal_px=1.0
        )
        assert pairs.feature[0, 0] == pytest.approx(0.0, abs=1e-6)
        assert l1_or_zero(looks)[0] == pytest.approx([1 / 6, -2 / 6, 3 / 6])

    def test_zero_vectors_and_flat_boxes_give_numbers(self) -> None:
        flat = np.array([[5.0, 5.0, 5.0, 5.0]])
        zero = np.zeros((1, 3), np.float32)
        pairs = cost_terms(zero, flat, zero, flat, diagonal_px=10.0)
        assert (pairs.feature[0, 0], pairs.iou[0, 0], pairs.distance[0, 0]) == (1.0, 1.0, 0.0)
        assert np.isfinite(pairs.total).all()

    def test_no_earlier_detection(self) -> None:
        nothing, one = np.empty((0, 3), np.float32), np.ones((1, 3), np.float32)
        pairs = cost_terms(nothing, np.empty((0, 4)), one, np.array([SQUARE]), diagonal_px=1.0)
        assert pairs.total.shape == (0, 1)


class TestAssign:
    CONTESTED = np.array([[0.1, 0.2], [1.4, 0.3]])  # both later ones like the first best

    def test_greedy_lets_two_claim_one(self) -> None:
        assert assign(self.CONTESTED, max_cost=1.5, assignment="greedy").tolist() == [0, 0]

    def test_optimal_gives_each_its_own(self) -> None:
        assert assign(self.CONTESTED, max_cost=1.5).tolist() == [0, 1]

    def test_a_link_may_cost_exactly_the_limit(self) -> None:
        assert assign(np.array([[1.5], [1.6]]), max_cost=1.5).tolist() == [0]
        assert assign(np.array([[1.6], [1.5]]), max_cost=1.5).tolist() == [1]

    @pytest.mark.parametrize("assignment", ["optimal", "greedy"])
    def test_nothing_feasible(self, assignment: str) -> None:
        costs = np.full((3, 2), 9.0)
        assert assign(costs, max_cost=1.0, assignment=assignment).tolist() == [-1, -1]
        assert assign(np.empty((0, 2)), max_cost=1.0, assignment=assignment).tolist() == [-1, -1]
        assert assign(np.empty((2, 0)), max_cost=1.0, assignment=assignment).tolist() == []

    def test_two_doubtful_links_do_not_break_a_certain_one(self) -> None:
        # The largest number of links would be 2: the later ones crosswise, at 1.4 each.
        costs = np.array([[0.1, 1.4], [1.4, 9.0]])
        assert assign(costs, max_cost=1.5).tolist() == [0, -1]

    def test_gating_never_makes_an_assignment_worse(self) -> None:
        random = np.random.default_rng(2)
        for _ in range(50):
            costs = random.uniform(0, 2, (3, 4))
            allowed = random.random((3, 4)) < 0.8
            chosen = assign(costs, max_cost=1.0, allowed=allowed)
            found = sum(1.0 - costs[row, at] for at, row in enumerate(chosen) if row >= 0)
            gain = np.where(allowed & (costs <= 1.0), 1.0 - costs, 0.0)
            best = max(
                sum(gain[row, at] for row, at in enumerate(order))
                for order in permutations(range(4), 3)
            )
            assert found == pytest.approx(best)

    def test_not_allowed_is_not_linked(self) -> None:
        costs = np.array([[0.1], [0.5]])
        allowed = np.array([[False], [True]])
        for assignment in ("optimal", "greedy"):
            assert assign(costs, max_cost=1.0, allowed=allowed, assignment=assignment).tolist() == [
                1
            ]


class TestLink:
    def test_two_stand_still(self) -> None:
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

    def test_cost_is_the_weighted_sum_of_its_terms(self) -> None:
        frames, boxes, looks, _ = crowd()
        options = PRESETS["default"]
        links = link(frames, boxes, looks, diagonal_px=1000.0, options=options)
        linked = links.previous >= 0
        assert linked.sum() > 30
        assert links.cost[linked] == pytest.approx(links.terms[linked] @ np.array(options.weights))
        assert (links.cost[linked] <= options.max_cost).all()

    def test_finds_who_is_who(self) -> None:
        frames, boxes, looks, who = crowd(frames=30)
        links = link(frames, boxes, looks, diagonal_px=1400.0)
        linked = links.previous >= 0
        assert (who[linked] == who[links.previous[linked]]).mean() > 0.98

    @pytest.mark.parametrize("gap", [0, 1, 3])
    def test_a_gap_is_bridged_up_to_its_length(self, gap: int) -> None:
        options = LinkOptions(max_gap_frames=gap)
        frames = [0, 1, 2, 2 + gap + 1]
        assert one_mover(frames, options=options).track.tolist() == [0, 0, 0, 0]
        frames[-1] += 1
        assert one_mover(frames, options=options).track.tolist() == [0, 0, 0, 1]

    def test_gaps_count_in_the_steps_of_a_sampled_clip(self) -> None:
        options = LinkOptions(max_gap_frames=1)
        assert one_mover([0, 5, 10, 20], options=options).track.tolist() == [0, 0, 0, 0]
        assert one_mover([0, 5, 10, 25], options=options).track.tolist() == [0, 0, 0, 1]

    def test_frame_step(self) -> None:
        assert frame_step(np.array([0, 0, 5, 10, 20, 20])) == 5
        assert frame_step(np.array([3, 4, 6])) == 1
        assert frame_step(np.array([7])) == frame_step(np.array([], np.int64)) == 1

    def test_a_gap_in_seconds(self) -> None:
        options = LinkOptions(max_gap_seconds=60.0)
        links = one_mover([0, 1, 2], options=options, seconds=[0.0, 60.0, 120.5])
        assert links.track.tolist() == [0, 0, 1]

    def test_a_gap_in_seconds_needs_times(self) -> None:
        options = LinkOptions(max_gap_seconds=60.0)
        with pytest.raises(InputError, match="1 of 2 detections have no timestamp"):
            one_mover([0, 1], options=options, seconds=[0.0, math.nan])
        with pytest.raises(InputError, match="2 of 2"):
            one_mover([0, 1], options=options)

    def test_a_lost_track_competes_with_a_live_one(self) -> None:
        # Two alike stand apart; one is missed for a frame, then both are back.
        frames = np.array([0, 0, 1, 2, 2])
        there, away = SQUARE, [80.0, 80.0, 90.0, 90.0]
        boxes = np.array([there, away, there, away, there])
        links = link(frames, boxes, np.ones((5, 2), np.float32), diagonal_px=100.0)
        assert links.track.tolist() == [0, 1, 0, 1, 0]
        assert links.previous.tolist() == [-1, -1, 0, 1, 2]

    def test_appearance_memory_outlasts_one_odd_look(self) -> None:
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

    def test_order_inside_a_frame_does_not_matter(self) -> None:
        frames, boxes, looks, _ = crowd()
        straight = link(frames, boxes, looks, diagonal_px=1400.0)
        shuffled = np.lexsort((np.random.default_rng(3).random(len(frames)), frames))
        mixed = link(frames, boxes[shuffled], looks[shuffled], diagonal_px=1400.0)
        back = np.argsort(shuffled)
        previous = np.where(mixed.previous >= 0, shuffled[mixed.previous], -1)[back]
        assert previous.tolist() == straight.previous.tolist()
        assert mixed.cost[back] == pytest.approx(straight.cost, nan_ok=True)

    @pytest.mark.parametrize("seed", range(5))
    def test_a_detection_is_claimed_at_most_once(self, seed: int) -> None:
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

    def test_the_ami_preset_lets_two_claim_one(self) -> None:
        frames = np.array([0, 1, 1, 2])
        boxes = np.array([SQUARE, SQUARE, [1, 1, 11, 11], SQUARE])
        looks = np.ones((4, 2), np.float32)
        links = link(frames, boxes, looks, diagonal_px=100.0, options=PRESETS["ami"])
        assert links.previous.tolist() == [-1, 0, 0, 1]
        assert links.track.tolist() == [0, 0, 0, 0]
        assert links.position.tolist() == [0, 1, 1, 2]

    def test_the_ami_preset_looks_one_frame_back(self) -> None:
        assert one_mover([0, 1, 3], options=PRESETS["ami"]).track.tolist() == [0, 0, 1]

    def test_nothing_at_all(self) -> None:
        links = link(
            np.empty(0, np.int64), np.empty((0, 4)), np.empty((0, 3), np.float32), diagonal_px=1.0
        )
        assert len(links.track) == 0

    def test_diagonal_of_the_later_image_counts(self) -> None:
        frames = np.array([0, 1, 2])
        boxes = np.array([SQUARE, [10, 0, 20, 10], [20, 0, 30, 10]])
        looks = np.ones((3, 2), np.float32)
        diagonals = np.array([1.0, 100.0, 200.0])
        links = link(frames, boxes, looks, diagonal_px=diagonals, options=EVEN)
        assert links.terms[1:, 3] == pytest.approx([0.1, 0.05])

    def test_refuses_disorder(self) -> None:
        with pytest.raises(ValueError, match="sort the detections"):
            one_mover([1, 0], options=EVEN)
        with pytest.raises(ValueError, match="finite"):
            link(
                np.array([0]),
                np.array([[0, 0, np.nan, 1]]),
                np.ones((1, 2), np.float32),
                diagonal_px=1.0,
            )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"feature_weight": -1.0}, "feature_weight is -1.0"),
        ({"iou_weight": math.nan}, "iou_weight is nan"),
        (
            dict.fromkeys(("feature_weight", "iou_weight", "area_weight", "distance_weight"), 0.0),
            "all four",
        ),
        ({"max_cost": 0.0}, "max_cost is 0.0"),
        ({"max_gap_frames": -1}, "max_gap_frames is -1"),
        ({"max_gap_seconds": 0.0}, "max_gap_seconds is 0.0"),
        ({"appearance_memory": 1.0}, "appearance_memory is 1.0"),
        ({"assignment": "best"}, "assignment is 'best'"),
    ],
)
def test_options_say_what_is_wrong(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LinkOptions(**wrong)
