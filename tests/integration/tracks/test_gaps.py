"""Several nights in one sequence, and several images under one frame number."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.detections import BOX
from tests.helpers.runs import write_run
from tracks.association.options import LinkOptions
from tracks.link import link_run
from tracks.store import read_tracks


def two_nights(folder: Path, *, step: timedelta, photos: int = 8, nights: int = 2) -> Path:
    """Two still moths, on photos of several nights that begin a day apart."""
    times = [
        datetime(2024, 6, 1, 22) + timedelta(days=night) + photo * step
        for night in range(nights)
        for photo in range(photos)
    ]
    plan: dict[str, list[Any]] = {
        "image": [f"{number}.jpg" for number in range(len(times)) for _ in range(2)],
        "timestamp": [time for time in times for _ in range(2)],
        **{
            side: [value, value + 90] * len(times)
            for side, value in zip(BOX, (0.0, 0.0, 40.0, 40.0), strict=True)
        },
    }
    return write_run(folder, plan, np.eye(4)[[0, 1] * len(times)]).path


def test_no_link_crosses_the_day_between_two_nights(tmp_path: Path) -> None:
    run = two_nights(tmp_path / "run", step=timedelta(minutes=10), nights=3)
    summary = link_run(run)
    assert (summary.tracks, summary.linked) == (6, 42)
    (note,) = [note for note in summary.notes if "rhythm" in note]
    for part in ("2 gaps", "'.'", "frame 7 to 8", "22:50:00 h", "2024-06-01 23:10:00"):
        assert part in note
    rows = read_tracks(run).to_pylist()
    assert sorted({row["track_id"] for row in rows}) == [f".:{number:05d}" for number in range(6)]
    for row in rows:
        assert row["track_id"] == f".:{row['frame'] // 8 * 2 + int(row['track_id'][-1]) % 2:05d}"
        assert row["position"] == row["frame"] % 8
    ids = {row["detection_id"]: row for row in rows}
    for row in rows:
        if row["position"]:
            before = ids[row["previous_detection_id"]]
            assert (before["track_id"], before["frame"]) == (row["track_id"], row["frame"] - 1)
    asked = link_run(run, options=LinkOptions(max_gap_seconds=86_400.0))
    assert (asked.tracks, asked.linked) == (2, 46)
    assert not any("rhythm" in note for note in asked.notes)


def test_nights_that_only_frame_numbers_tell_apart(tmp_path: Path) -> None:
    frames = [*range(10), *range(840, 850)]
    plan: dict[str, list[Any]] = {"image": [f"{frame}.jpg" for frame in frames], "frame": frames}
    run = write_run(tmp_path / "run", plan, np.ones((20, 4))).path
    summary = link_run(run)
    assert summary.tracks == 2
    (note,) = [note for note in summary.notes if "rhythm" in note]
    assert "from frame 9 to 840" in note
    assert "`max_gap_frames`" in note
    asked = link_run(run, options=LinkOptions(max_gap_frames=840))
    assert asked.tracks == 1
    assert not any("rhythm" in note for note in asked.notes)


def test_many_nights_are_one_line(tmp_path: Path) -> None:
    summary = link_run(two_nights(tmp_path / "run", step=timedelta(minutes=1), nights=9))
    assert summary.tracks == 18
    (note,) = [note for note in summary.notes if "rhythm" in note]
    assert "8 gaps" in note
    assert "and 5 more" in note


def test_bursts_of_a_camera_that_motion_triggers_are_one_sequence(tmp_path: Path) -> None:
    summary = link_run(two_nights(tmp_path / "run", step=timedelta(seconds=1), photos=3, nights=9))
    assert (summary.tracks, summary.linked) == (2, 52)
    assert not any("rhythm" in note for note in summary.notes)


def test_several_images_of_one_frame_are_said(tmp_path: Path) -> None:
    plan: dict[str, list[Any]] = {
        "image": ["a/0.jpg", "b/0.jpg", "a/1.jpg", "a/2.jpg", "b/2.jpg", "b/2.jpg"],
        "frame": [0, 0, 1, 2, 2, 2],
        "sequence": ["trap"] * 6,
    }
    run = write_run(tmp_path / "run", plan, np.eye(6)).path
    (note,) = [note for note in link_run(run).notes if "several images" in note]
    for part in ("'trap'", "2 frames", "frame 0 'a/0.jpg' and 'b/0.jpg'", "'sequence'"):
        assert part in note
    plan["sequence"] = [name[0] for name in plan["image"]]
    apart = write_run(tmp_path / "apart", plan, np.eye(6)).path
    assert not any("several images" in note for note in link_run(apart).notes)
