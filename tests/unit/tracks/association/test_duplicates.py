"""Which boxes of a frame are of one individual, and which only overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tracks.association.duplicates import SAME_IOU, expand_links, find_duplicates
from tracks.association.linker import Links, link

BOX = np.array([100.0, 200.0, 140.0, 240.0])


def turned(cosine: float) -> np.ndarray:
    """Two embeddings with this cosine."""
    return np.array([[1, 0, 0], [cosine, np.sqrt(1 - cosine**2), 0]], np.float32)


def kept_of(
    boxes: Any,
    embeddings: Any = None,
    scores: Any = None,
    *,
    images: Any = None,
    frames: Any = None,
) -> list[int]:
    boxes = np.array(boxes, dtype=np.float64)
    count = len(boxes)
    embeddings = np.eye(count, dtype=np.float32) if embeddings is None else np.array(embeddings)
    none = np.zeros(count, dtype=np.int64)
    return find_duplicates(
        none if frames is None else np.array(frames),
        none if images is None else np.array(images),
        boxes,
        lambda rows: embeddings[rows],
        None if scores is None else np.array(scores),
    ).tolist()


@pytest.mark.parametrize(
    "moved",
    [
        (0, 0, 0, 0),
        (3, 3, 3, 3),
        (-4, 4, 4, -4),
        (0.4, -0.4, 0, 0.1),
        (2, 0, -2, 0),
    ],
)
def test_the_same_box_and_one_a_few_pixels_apart_are_one_whatever_they_look_like(
    moved: tuple[float, ...],
) -> None:
    assert kept_of([BOX, BOX + moved]) == [0, 0]


def test_in_large_boxes_more_pixels_are_as_little() -> None:
    large = np.array([0.0, 0, 1000, 800])
    assert kept_of([large, large + 20]) == [0, 0]
    assert kept_of([large, large + np.array([100, 0, 100, 0])]) == [0, 1]


def test_in_small_boxes_as_many_pixels_are_another_animal() -> None:
    small = np.array([0.0, 0, 8, 8])
    assert kept_of([small, small + 1]) == [0, 0]
    assert kept_of([small, small + np.array([4, 0, 4, 0])]) == [0, 1]
    assert kept_of([small, small + 3], turned(1.0)) == [0, 1]


@pytest.mark.parametrize(
    ("shift", "cosine", "same"),
    [
        # A box 100 wide, moved to one side: IoU (100 - shift) / (100 + shift).
        (10, 0.95, True),  # 0.82
        (10, 0.90, False),
        (15, 0.97, True),  # 0.74
        (15, 0.94, False),
        (20, 0.985, True),  # 0.67
        (20, 0.97, False),
        (25, 1.0, False),  # 0.60
    ],
)
def test_between_a_high_and_a_very_high_overlap_the_embeddings_decide(
    shift: float, cosine: float, same: bool
) -> None:
    box = np.array([0.0, 0, 100, 100])
    boxes = [box, box + np.array([shift, 0, shift, 0])]
    assert kept_of(boxes, turned(cosine)) == ([0, 0] if same else [0, 1])
    # Of any scale, as a caller has them.
    assert kept_of(boxes, turned(cosine) * [[3.0], [0.1]]) == ([0, 0] if same else [0, 1])


def test_two_of_the_closest_real_people_are_two() -> None:
    # TUD-Stadtmitte, frame 60: IoU 0.841, cosine 0.873; the nearest pair of two individuals known.
    boxes = np.array([[100.0, 100, 148, 255], [103, 119, 149, 262]])
    assert kept_of(boxes, turned(0.873)) == [0, 1]


def test_the_highest_score_is_kept_and_the_first_of_equals() -> None:
    boxes = [BOX, BOX + 1, BOX - 1]
    assert kept_of(boxes) == [0, 0, 0]
    assert kept_of(boxes, scores=[0.1, 0.9, 0.9]) == [1, 1, 1]
    assert kept_of(boxes, scores=[0.3, 0.2, 0.9]) == [2, 2, 2]
    assert kept_of(boxes, scores=[np.nan, np.nan, 0.0]) == [2, 2, 2]
    assert kept_of(boxes, scores=[np.nan] * 3) == [0, 0, 0]


def test_a_chain_is_one_group_with_one_kept() -> None:
    boxes = [BOX, BOX + 300, BOX + 4, BOX + 8, BOX + 301, BOX + 900]
    assert kept_of(boxes) == [0, 1, 0, 0, 1, 5]
    assert kept_of(boxes, scores=[0.1, 0.1, 0.1, 0.5, 0.1, 0.1]) == [3, 1, 3, 3, 1, 5]


def test_only_boxes_of_one_image_of_one_frame_are_compared() -> None:
    assert kept_of([BOX] * 4, images=[0, 1, 0, 1]) == [0, 1, 0, 1]
    assert kept_of([BOX] * 4, frames=[3, 3, 4, 9]) == [0, 0, 2, 3]


def test_embeddings_are_not_read_where_boxes_decide() -> None:
    def unread(rows: np.ndarray) -> np.ndarray:
        raise AssertionError(rows)

    boxes = np.array([BOX, BOX, BOX + 30, BOX + 500])
    none = np.zeros(4, dtype=np.int64)
    assert find_duplicates(none, none, boxes, unread).tolist() == [0, 0, 2, 3]
    assert find_duplicates(none[:0], none[:0], boxes[:0], unread).tolist() == []


def literal(boxes: np.ndarray, embeddings: np.ndarray, scores: np.ndarray) -> list[int]:
    """The rule as a loop over pairs, and groups by spreading along them."""
    count = len(boxes)
    same = np.eye(count, dtype=bool)
    for a in range(count):
        for b in range(count):
            (x1, y1, x2, y2), (u1, v1, u2, v2) = boxes[a], boxes[b]
            shared = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
            iou = shared / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared)
            cosine = embeddings[a] @ embeddings[b]
            needed = 0.98 - (iou - 0.65) * 0.08 / 0.25
            same[a, b] |= (
                iou >= SAME_IOU
                or (iou >= 0.5 and max(abs(boxes[a] - boxes[b])) <= 4)
                or (iou >= 0.65 and cosine >= needed)
            )
    groups = np.linalg.matrix_power(same.astype(float), count) > 0
    return [max(np.flatnonzero(group), key=lambda row: (scores[row], -row)) for group in groups]


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_rule_in_a_crowd(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 60, (40, 2))
    boxes = np.hstack([corners, corners + random.uniform(5, 60, (40, 2))])
    boxes = np.vstack([boxes, boxes[:20] + random.normal(scale=3, size=(20, 4))])
    embeddings = np.tile(random.normal(size=(40, 8)), (2, 1))[:60]
    embeddings += random.normal(scale=0.1, size=embeddings.shape)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = random.integers(3, size=60) / 2
    found = kept_of(boxes, embeddings, scores)
    assert found == literal(boxes, embeddings, scores)
    assert 5 < sum(kept != row for row, kept in enumerate(found)) < 45


def test_a_thousand_boxes_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 500, (300, 2))
    boxes = np.hstack([corners, corners + 30])
    whole = kept_of(boxes)
    monkeypatch.setattr("tracks.association.duplicates._PAIRS_AT_ONCE", 700)
    assert kept_of(boxes) == whole


def test_links_of_the_kept_are_those_of_all() -> None:
    # Two individuals in three frames; the second one twice in the frame in the middle.
    frames = np.array([0, 0, 1, 1, 1, 2, 2])
    who = np.array([0, 1, 1, 0, 1, 0, 1])
    embeddings = np.eye(2, dtype=np.float32)[who]
    boxes = np.array([[0, 0, 30, 30], [500, 0, 530, 30]], dtype=float)[who]
    kept = find_duplicates(frames, frames * 0, boxes, lambda rows: embeddings[rows])
    assert kept.tolist() == [0, 1, 2, 3, 2, 5, 6]
    single = kept == np.arange(7)
    linked = link(frames[single], boxes[single], embeddings[single], diagonal_px=1000.0)
    whole = expand_links(linked, kept)
    assert isinstance(whole, Links)
    assert whole.track.tolist() == who.tolist()
    assert whole.position.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert whole.previous.tolist() == [-1, -1, 1, 0, -1, 3, 2]
    assert np.isnan(whole.cost).tolist() == [True, True, False, False, True, False, False]
    assert np.isnan(whole.margin).tolist() == np.isnan(whole.terms).all(axis=1).tolist()
    assert np.isnan(whole.margin).tolist() == np.isnan(whole.cost).tolist()
