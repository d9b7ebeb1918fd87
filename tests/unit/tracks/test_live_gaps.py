"""Gaps far beyond the rhythm of a camera end its tracks, and a clock that is wrong does not."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.helpers.live import ask, live
from tests.helpers.scenes import NOON, still
from tracks.association.options import LinkOptions
from tracks.live.frame import Frame


def minute(number: int, minutes: float, **more: Any) -> Frame:
    return still(number, taken=NOON + timedelta(minutes=minutes), **more)


def test_after_a_day_without_frames_tracks_begin_anew_and_the_answer_says_why(
    tmp_path: Path,
) -> None:
    file = tmp_path / "s"
    times = [*range(10), *range(840, 850), *range(1700, 1710)]
    for number, at in enumerate(times):
        answer = ask(live(file), minute(number, at), f"r{number}")
        (row,) = answer["detections"]
        assert row["track_id"] == f"cam:{number // 10:05d}"
        assert row["position"] == number % 10
        assert (answer["restarted"] is None) == (number not in (10, 20))
        if answer["restarted"]:
            assert "49,860 s" in answer["restarted"] or "51,060 s" in answer["restarted"]
    # The others keep the same tracks where that was asked for.
    asked = live(tmp_path / "t", LinkOptions(max_gap_seconds=86_400))
    answers = [ask(asked, minute(n, at), f"r{n}") for n, at in enumerate(times)]
    assert {answer["detections"][0]["track_id"] for answer in answers} == {"cam:00000"}
    untimed = live(tmp_path / "u")
    answers = [ask(untimed, still(n), f"r{n}") for n in range(30)]
    assert {answer["detections"][0]["track_id"] for answer in answers} == {"cam:00000"}


def test_hours_between_bursts_are_the_rhythm_of_a_camera(tmp_path: Path) -> None:
    linker = live(tmp_path / "s")
    times = [burst * 180 + photo / 60 for burst in range(12) for photo in range(3)]
    answers = [ask(linker, minute(n, at), f"r{n}") for n, at in enumerate(times)]
    # At the first gap it is not known yet.
    restarted = [n for n, answer in enumerate(answers) if answer["restarted"]]
    assert restarted == [3]
    assert answers[-1]["detections"][0]["position"] == 32


def test_a_clock_that_is_wrong_for_a_frame_closes_no_track(tmp_path: Path) -> None:
    linker = live(tmp_path / "s")
    for number in range(8):
        ask(linker, minute(number, number), f"r{number}")
    wrong = ask(linker, minute(8, 8 + 840), "r8")
    assert wrong["detections"][0]["track_id"] == "cam:00001"
    right = ask(linker, minute(9, 9), "r9")
    assert right["restarted"] is None
    assert right["detections"][0]["previous_detection_id"] == "cam-7-0"
    assert ask(linker, minute(10, 10), "r10")["detections"][0]["position"] == 9
    # Nor does it in the evening of that day, when the clock comes to the wrong time once more.
    for number in range(11, 16):
        ask(linker, minute(number, number), f"r{number}")
    evening = [ask(linker, minute(n, n + 836), f"r{n}") for n in range(16, 22)]
    assert [answer["restarted"] is None for answer in evening] == [False, *[True] * 5]
    assert evening[-1]["detections"][0]["position"] == 5


def test_tracks_may_be_missing_as_long_as_frames_say(tmp_path: Path) -> None:
    """A gap within a night is one of frames, whatever the gap between two nights."""
    linker = live(tmp_path / "s", LinkOptions(max_gap_frames=8))
    for number in range(10):
        ask(linker, minute(number, number), f"r{number}")
    for number in range(10, 18):
        ask(linker, minute(number, number, count=0), f"r{number}")
    assert ask(linker, minute(18, 18), "r18")["detections"][0]["position"] == 10


def test_a_state_without_steps_goes_on(tmp_path: Path) -> None:
    """As an earlier version stored it: the rhythm is learnt from the next frames."""
    linker = live(tmp_path / "s")
    for number in range(5):
        ask(linker, minute(number, number), f"r{number}")
    linker.store.close()
    with sqlite3.connect(tmp_path / "s") as file:
        (head,) = file.execute("SELECT head FROM sequences").fetchone()
        old = {name: value for name, value in json.loads(head).items() if name != "steps"}
        assert len(old) == len(json.loads(head)) - 1
        file.execute("UPDATE sequences SET head = ?, checksum = NULL", (json.dumps(old),))
    file.close()
    again = live(tmp_path / "s")
    assert ask(again, minute(5, 840), "r5")["detections"][0]["position"] == 5
    for number in range(6, 20):
        ask(again, minute(number, 840 + number), f"r{number}")
    assert ask(again, minute(20, 1700), "r20")["restarted"]
