"""Whether a frame may follow the last one of its sequence, by its number and by its time.

One wrong number or time must not close a camera for good: a number that is far ahead is refused
before it is taken for the last one, and the clock of a camera may go back.
"""

from __future__ import annotations

import logging

import numpy as np

from common.errors import ClashError, FrameError
from tracks.association.options import LinkOptions
from tracks.association.state import OpenTracks
from tracks.live.frame import Frame
from tracks.live.state import State, seconds_of

JUMP_FRAMES = 100_000
FRAMES_PER_SECOND = 1_000
"""A frame may be ``JUMP_FRAMES`` steps ahead, and as many more as a fast camera films meanwhile."""

JUMP_DAYS = 30
"""The time of a frame may be so far ahead, and as much more as has passed since the last one."""

CLOCK_FRAMES = 5
"""Frames for which a track is kept that only the camera's clock puts out of reach."""

logger = logging.getLogger("onepass.link")


def frame_number(frame: Frame, state: State | None, options: LinkOptions, *, now: float) -> int:
    """Number of a frame, after checking that it and its time may follow the last ones.

    Args:
        frame: the new frame.
        state: of its sequence; None where this is its first frame.
        options: of linking.
        now: the time here, in seconds since 1970.

    Raises:
        ClashError: the number is not above the last one.
        FrameError: ``max_gap_seconds`` without a time; the number or the time is far ahead of the
            last one, and ``allow_jump`` is not set.
    """
    if options.max_gap_seconds is not None and frame.taken is None:
        raise FrameError(
            f"this server links with max_gap_seconds {options.max_gap_seconds:g}, so a frame needs a "
            "timestamp; send when it was taken"
        )
    if state is None:
        return 0 if frame.number is None else frame.number
    last = state.head.frame
    number = last + frame.step if frame.number is None else frame.number
    if number <= last:
        raise ClashError(
            f"frame {number} of sequence {frame.sequence[:100]!r} is not later than the last one, "
            f"{last}; send later frames, leave 'frame' out to number them automatically, or, where "
            f"{last} was wrong, start the sequence anew with DELETE /v1/link/{{sequence}}"
        )
    if not frame.allow_jump:
        _check_jump(frame, number, state, elapsed=max(now - state.touched, 0.0))
    return number


def _check_jump(frame: Frame, number: int, state: State, *, elapsed: float) -> None:
    remedy = "correct it, or send it with 'allow_jump': true if it is right"
    steps = (number - state.head.frame) / frame.step
    if steps > JUMP_FRAMES + FRAMES_PER_SECOND * elapsed:
        raise FrameError(
            f"frame {number} of sequence {frame.sequence[:100]!r} is {steps:,.0f} frames after the "
            f"last one, {state.head.frame}, which came {elapsed:,.0f} s ago; {remedy}, or give "
            "'frame_step', the usual difference of two numbers"
        )
    ahead = seconds_of(frame.taken) - seconds_of(state.head.taken)  # NaN where one has no time
    if ahead > JUMP_DAYS * 86_400 + elapsed:
        raise FrameError(
            f"frame {number} of sequence {frame.sequence[:100]!r} was taken at {frame.taken}, "
            f"{ahead / 86_400:,.0f} days after the last one, which came {elapsed:,.0f} s ago; {remedy}"
        )
    if ahead < 0:
        logger.warning(
            "sequence %r: the camera's clock went back by %.3f s", frame.sequence[:100], -ahead
        )


def split_by_clock(
    tracks: OpenTracks, frame: Frame, number: int, options: LinkOptions
) -> tuple[OpenTracks, OpenTracks]:
    """The open tracks that a frame may continue by its time, and those to be set aside.

    Set aside are those that only the camera's clock puts out of reach: where it is right again
    within ``CLOCK_FRAMES``, they go on. What is in neither is closed.

    Args:
        tracks: of the sequence.
        frame: the new frame, with a time.
        number: of the frame.
        options: of linking, with ``max_gap_seconds``.
    """
    assert options.max_gap_seconds is not None
    near = np.abs(seconds_of(frame.taken) - tracks.seconds) <= options.max_gap_seconds
    recent = tracks.steps_to(number, frame.step) <= min(options.max_gap_frames, CLOCK_FRAMES) + 1
    return tracks.select(near), tracks.select(~near & recent)
