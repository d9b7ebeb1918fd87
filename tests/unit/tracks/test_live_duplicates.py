"""A box that a frame has twice is one individual while a camera films."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.live import ask, live, same
from tests.helpers.scenes import crowd, frames_of, still
from tracks.association.duplicates import expand_links, find_duplicates
from tracks.association.linker import link
from tracks.association.options import LinkOptions
from tracks.live.frame import Frame


@pytest.mark.parametrize("seed", range(4))
def test_with_boxes_sent_twice_it_links_as_the_whole_at_once(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    frames, boxes, vectors, who = crowd(frames=20, seed=seed)
    twice = np.sort(np.r_[np.arange(len(frames)), random.choice(len(frames), 40, replace=False)])
    boxes = boxes[twice] + random.uniform(-1, 1, (len(twice), 4))
    scene = (frames[twice], boxes, vectors[twice], who[twice])
    images = np.zeros(len(twice), dtype=np.int64)
    kept = find_duplicates(
        scene[0], images, boxes, scene[2].__getitem__, np.arange(len(twice)) % 5 / 5
    )
    single = np.flatnonzero(kept == np.arange(len(kept)))
    assert len(kept) - len(single) == 40
    part = link(*(column[single] for column in scene[:3]), diagonal_px=1000.0)
    linker = live(tmp_path / "s")
    answers = [ask(linker, frame, f"r{frame.number}") for frame in frames_of(scene, seconds=True)]
    same(answers, expand_links(part.counted_from(0, single), kept))
    rows = [row for answer in answers for row in answer["detections"]]
    names = [None if of == at else f"d{of}" for at, of in enumerate(kept.tolist())]
    assert [row["duplicate_of"] for row in rows] == names


def twice(number: int, **more: Any) -> Frame:
    """Two objects, the first three times: saved again, and two pixels apart with a higher score."""
    boxes = np.array([[0, 0, 30, 30], [0, 0, 30, 30], [90, 0, 120, 30], [2, 1, 31, 32]], float)
    given: dict[str, Any] = {
        "ids": [f"{number}-{name}" for name in ("first", "again", "other", "near")],
        "boxes": boxes,
        "vectors": np.eye(4, dtype=np.float32)[[0, 0, 1, 0]],
    }
    return still(number, **(given | more))


def test_a_box_sent_twice_is_one_individual(tmp_path: Path) -> None:
    linker = live(tmp_path / "s")
    answers = [ask(linker, twice(number), f"r{number}") for number in range(3)]
    for number, answer in enumerate(answers):
        assert answer["tracks_open"] == 2
        first, again, other, near = answer["detections"]
        assert [row["duplicate_of"] for row in answer["detections"]] == [
            *(None, f"{number}-first", None, f"{number}-first")
        ]
        for row in (first, again, near):
            assert (row["track_id"], row["position"]) == ("cam:00000", number)
        for row in (again, near):
            assert {row["cost"], row["margin"], row["previous_detection_id"]} == {None}
        assert (other["track_id"], other["position"]) == ("cam:00001", number)
        before = f"{number - 1}-first" if number else None
        assert first["previous_detection_id"] == before
    scored = linker.link(
        twice(3, scores=np.array([0.3, 0.2, np.nan, 0.9])),
        request_id="r3",
        digest=b"r3",
        fingerprint="model",
    )
    assert (scored.continued, scored.started, scored.weak, scored.duplicates) == (2, 0, 0, 2)
    rows = json.loads(scored.body)["detections"]
    assert [row["duplicate_of"] for row in rows] == ["3-near", "3-near", None, None]
    assert rows[3]["previous_detection_id"] == "2-first"
    repeated = linker.link(
        twice(3, scores=np.array([0.3, 0.2, np.nan, 0.9])),
        request_id="r3",
        digest=b"r3",
        fingerprint="model",
    )
    assert (repeated.body, repeated.repeated, repeated.duplicates) == (scored.body, True, 0)
    state = linker.state("cam")
    assert state is not None
    assert (state.head.started, state.head.rows) == (2, 8)
    assert set(state.head.last_ids) == {"3-near", "3-other"}


def test_a_frame_of_weak_duplicates_starts_no_track(tmp_path: Path) -> None:
    linker = live(tmp_path / "s", LinkOptions(strong_score=0.5))
    answer = ask(linker, twice(0, scores=np.array([0.1, 0.1, 0.9, 0.2])), "a")
    assert [row["track_id"] for row in answer["detections"]] == [None, None, "cam:00000", None]
    assert [row["duplicate_of"] for row in answer["detections"]] == ["0-near", "0-near", None, None]
