"""Which gaps are beyond the rhythm of a sequence, as cameras have them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tracks.association.gaps import longest_usual, sessions

SECOND, MINUTE, HOUR, DAY = 1.0, 60.0, 3600.0, 86_400.0
RANDOM = np.random.default_rng(0)


def starts(seconds: np.ndarray, frames: np.ndarray | None = None) -> list[int]:
    """Detections before which a session begins, but for the first."""
    frames = np.arange(len(seconds)) if frames is None else frames
    return [
        part.start
        for part in sessions(frames, np.asarray(seconds, dtype=float), max_gap_frames=5)[1:]
    ]


def nights(photos: int, count: int, step: float, day: float = 14 * HOUR) -> np.ndarray:
    steps = np.full(photos * count, step)
    steps[::photos] = day
    return np.cumsum(steps)


def bursts(photos: int, gaps: np.ndarray, step: float = SECOND) -> np.ndarray:
    steps = np.full(photos * len(gaps), step)
    steps[::photos] = gaps
    return np.cumsum(steps)


@pytest.mark.parametrize("step", [0.04, SECOND, MINUTE, 10 * MINUTE, HOUR])
@pytest.mark.parametrize(("photos", "count"), [(12, 2), (40, 3), (8, 4), (300, 30)])
def test_a_night_is_a_session(photos: int, count: int, step: float) -> None:
    assert starts(nights(photos, count, step)) == list(range(photos, photos * count, photos))


def test_a_few_photos_of_a_night_are_enough() -> None:
    assert starts(nights(2, 2, MINUTE)) == [2]
    assert starts(nights(5, 3, MINUTE)) == [5, 10]
    assert starts(np.array([0, MINUTE, 2 * MINUTE, 14 * HOUR])) == [3]


def test_nights_that_are_missing_change_nothing() -> None:
    days = np.array([0, 14 * HOUR, 38 * HOUR, 14 * HOUR, 7 * DAY, 30 * DAY, 14 * HOUR])
    steps = np.full(7 * 60, 10 * MINUTE)
    steps[::60] = days
    assert starts(np.cumsum(steps)) == list(range(60, 420, 60))


@pytest.mark.parametrize("seed", range(5))
def test_a_trap_that_motion_triggers_has_nights_all_the_same(seed: int) -> None:
    """Photos 2 s to 10 min apart, three nights long."""
    random = np.random.default_rng(seed)
    steps = np.exp(random.uniform(np.log(2), np.log(600), 450))
    steps[150], steps[300] = 13 * HOUR, 15 * HOUR
    assert starts(np.cumsum(steps)) == [150, 300]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("photos", [2, 3, 5, 10])
def test_the_time_between_bursts_is_the_rhythm(photos: int, seed: int) -> None:
    """One to ten photos a second apart, then minutes to days of nothing; a quiet period of 1 min."""
    random = np.random.default_rng(seed)
    gaps = np.exp(random.uniform(np.log(60), np.log(2 * DAY), 30))
    assert starts(bursts(photos, gaps)) == []


@pytest.mark.parametrize("photos", [2, 3, 5])
def test_so_it_is_where_bursts_are_regular(photos: int) -> None:
    assert starts(bursts(photos, np.full(20, 2 * HOUR))) == []
    # Clocks that know only seconds: three photos in one.
    assert starts(bursts(photos, np.full(20, 2 * HOUR), step=0.0)) == []


def test_bursts_have_nights_too() -> None:
    """Three photos every ten minutes, from dusk to dawn."""
    gaps = np.full(60, 10 * MINUTE)
    gaps[20] = gaps[40] = 14 * HOUR
    assert starts(bursts(3, gaps)) == [60, 120]


def test_what_grows_without_a_jump_is_one_session() -> None:
    assert starts(np.cumsum(1.5 ** np.arange(40))) == []
    assert starts(np.cumsum(RANDOM.exponential(MINUTE, 500).clip(5))) == []


def test_too_little_is_known_of_two_steps() -> None:
    assert starts(np.array([0, MINUTE, 14 * HOUR])) == []
    assert starts(np.array([0.0, DAY])) == []
    assert starts(np.array([0.0])) == []
    assert starts(np.array([])) == []
    assert longest_usual([]) == np.inf


def test_a_pause_of_seconds_is_none() -> None:
    film = np.arange(100) * 0.04
    film[50:] += 9
    assert starts(film) == []
    film[50:] += 600
    assert starts(film) == [50]


def test_times_that_are_not_known_or_fall_make_no_gap() -> None:
    seconds = nights(10, 3, MINUTE)
    seconds[10] = np.nan
    assert starts(seconds) == [20]
    assert starts(np.full(30, np.nan)) == []
    back = np.r_[np.arange(20) * MINUTE, np.arange(20) * MINUTE - DAY]
    assert starts(back) == []


def test_detections_of_a_frame_stay_together() -> None:
    seconds = nights(10, 2, MINUTE)
    frames = np.repeat(np.arange(20) * 5, 3)
    assert starts(np.repeat(seconds, 3), frames) == [30]
    parts = sessions(frames, np.repeat(seconds, 3), max_gap_frames=0)
    assert (parts[0].start, parts[-1].stop) == (0, 60)
    assert all(a.stop == b.start for a, b in pairwise(parts))


def test_without_times_frame_numbers_show_the_rhythm() -> None:
    nothing = np.full(60, np.nan)
    frames = np.r_[np.arange(30), np.arange(30) + 1000]
    assert starts(nothing, frames) == [30]
    assert starts(nothing, frames * 25) == [30]
    assert len(sessions(frames, nothing, max_gap_frames=2000)) == 1  # asked for
    # Frames without detections are none of the rows, so a few dozen may always be missing.
    assert starts(nothing, np.r_[np.arange(30), np.arange(30) + 70]) == []
    # Where a time is known, times count.
    known = nothing.copy()
    known[:30] = np.arange(30)
    assert starts(known, frames) == []
