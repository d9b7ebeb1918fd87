"""A live camera that is nudged, and one that changes its resolution."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.scenes import frames_of, moths
from tracks.association.linker import link
from tracks.association.options import PRESETS
from tracks.live.frame import Frame
from tracks.live.session import LiveLinker
from tracks.live.state import Head
from tracks.live.store import LinkStore

NUDGE = (118.0, 22.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LinkStore]:
    store = LinkStore(tmp_path / "links.sqlite3")
    yield store
    store.close()


def answers_of(store: LinkStore, frames: list[Frame], preset: str = "default") -> list[Any]:
    """The answers, with the file closed after each of them."""
    answers = []
    for frame in frames:
        linker = LiveLinker(store, PRESETS[preset])
        request = f"r{frame.number}"
        answer = linker.link(frame, request_id=request, digest=b"", fingerprint="m")
        answers.append(json.loads(answer.body))
        store.close()
    return answers


def tracks_of(answers: list[Any]) -> list[str]:
    return [row["track_id"] for answer in answers for row in answer["detections"]]


@pytest.mark.parametrize("count", [4, 10])
def test_a_nudge_swaps_nobody_and_is_said(store: LinkStore, count: int) -> None:
    scene = moths(count, moves={5: NUDGE})
    answers = answers_of(store, frames_of(scene))
    assert tracks_of(answers) == [f"deep/er:{who:05d}" for who in scene[3]]
    moved = {answer["frame"]: answer["camera_move"] for answer in answers}
    assert moved.pop(5) == pytest.approx(NUDGE, abs=4)
    assert set(moved.values()) == {None}
    whole = link(*scene[:3], diagonal_px=1000.0)
    assert tracks_of(answers) == [f"deep/er:{track:05d}" for track in whole.track]


def test_one_that_is_missed_at_the_nudge_moves_as_well(store: LinkStore) -> None:
    scene = moths(4, moves={5: NUDGE}, missing={4: [1], 5: [1]})
    assert tracks_of(answers_of(store, frames_of(scene))) == [
        f"deep/er:{who:05d}" for who in scene[3]
    ]


def resized(frames: list[Frame], factors: list[float]) -> list[Frame]:
    """The same frames, their images and boxes in other sizes, taken in turn."""
    made = []
    for number, frame in enumerate(frames):
        factor = factors[number % len(factors)]
        size = (frame.image_size[0] * factor, frame.image_size[1] * factor)
        made.append(replace(frame, image_size=size, boxes=frame.boxes * factor))
    return made


@pytest.mark.parametrize("factors", [[1.0, 0.5], [1.0, 2.0, 0.25], [1.0, 1.0, 1.0, 0.5]])
def test_images_of_other_sizes_give_the_links_of_one_size(
    tmp_path: Path, factors: list[float]
) -> None:
    scene = moths(6, frames=9, spacing=90, missing={3: [2], 4: [2, 5]}, moves={6: (0.0, 80.0)})
    both = []
    for name, frames in (
        ("one", frames_of(scene)),
        ("many", resized(frames_of(scene), factors)),
    ):
        store = LinkStore(tmp_path / name)
        both.append(answers_of(store, frames))
    for one, many in zip(*both, strict=True):
        for row, other in zip(one["detections"], many["detections"], strict=True):
            assert row.keys() == other.keys()
            for name, value in row.items():
                expected = (
                    value if isinstance(value, str | None) else pytest.approx(value, abs=1e-9)
                )
                assert other[name] == expected, name
    assert tracks_of(both[1]) == [f"deep/er:{who:05d}" for who in scene[3]]


def test_a_turned_image_is_said_and_compared_as_it_is(
    store: LinkStore, caplog: pytest.LogCaptureFixture
) -> None:
    frames = frames_of(moths(4, frames=3))
    frames[2] = replace(frames[2], image_size=frames[2].image_size[::-1])
    with caplog.at_level(logging.WARNING, logger="onepass.link"):
        answers = answers_of(store, frames)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "800x600" in line
    assert "600x800" in line
    assert [row["position"] for row in answers[2]["detections"]] == [2] * 4


def test_a_state_of_an_earlier_version_goes_on(store: LinkStore) -> None:
    first, second, *_ = frames_of(moths(4))
    answers = answers_of(store, [first])
    with store.write() as transaction:
        state = transaction.state("deep/er", idle_before=0)
        assert state is not None
        assert state.tracks is not None
        old = state.head.model_dump(mode="json")
        assert old.pop("image_size") == [800.0, 600.0]
        assert old["options"].pop("camera_moves")
        head = Head.model_validate(old)
        assert head.image_size is None
        transaction.save(
            "deep/er",
            head,
            state.tracks,
            touched=state.touched,
            request_id="old",
            digest=b"",
            body=b"{}",
        )
    answers += answers_of(store, [second])
    assert answers[1]["restarted"] is None
    assert tracks_of(answers)[:4] == tracks_of(answers)[4:]


def test_one_box_in_many_sizes_as_a_loop_would_scale_it(store: LinkStore) -> None:
    random = np.random.default_rng(1)
    box, look = np.array([[100.0, 200.0, 160.0, 260.0]]), np.ones((1, 4), np.float32)
    frames, expected = [], []
    last: tuple[np.ndarray, float] | None = None
    for number in range(6):
        factor = float(random.choice([0.25, 0.5, 1.0, 2.0]))
        box = box + random.normal(scale=4, size=(1, 2)).repeat(2, axis=0).reshape(1, 4)
        size = (1920 * factor, 1080 * factor)
        frames.append(
            Frame(
                sequence="deep/er",
                number=number,
                image_size=size,
                ids=[f"d{number}"],
                boxes=box * factor,
                vectors=look,
            )
        )
        if last is not None:
            before = last[0] / last[1] * factor
            centre = [(b[:, :2] + b[:, 2:]) / 2 for b in (before, box * factor)]
            expected.append(float(np.linalg.norm(centre[0] - centre[1]) / np.hypot(*size)))
        last = (box * factor, factor)
    answers = answers_of(store, frames)
    distances = [answer["detections"][0]["cost_distance"] for answer in answers]
    assert distances[1:] == pytest.approx(expected, abs=1e-9)
