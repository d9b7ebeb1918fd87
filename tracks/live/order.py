"""Whether a frame may follow the last one of its sequence, by its number and by its time.

One wrong number or time must not close a camera for good: a number that is far ahead is refused
before it is taken for the last one, and the clock of a camera may go back.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from common.errors import ClashError, FrameError
from tracks.association.gaps import longest_usual
from tracks.association.options import LinkOptions
from tracks.association.state import OpenTracks
from tracks.live.frame import Frame
from tracks.live.state import Head, State, seconds_of

JUMP_FRAMES = 100_000
FRAMES_PER_SECOND = 1_000
"""A frame may be ``JUMP_FRAMES`` steps ahead, and as many more as a fast camera films meanwhile."""

JUMP_DAYS = 30
"""The time of a frame may be so far ahead, and as much more as has passed since the last one."""

KEPT_STEPS = 200
"""Times between frames that a sequence keeps, to know its rhythm by."""

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


class Continuable(NamedTuple):
    """Which open tracks a frame may continue by its time."""

    tracks: OpenTracks  # these
    # Those that only the camera's clock puts out of reach: where it is right again within
    # ``CLOCK_FRAMES``, they go on. What is in neither is closed.
    aside: OpenTracks
    steps: tuple[float, ...] = ()  # last times between frames, with that before this one
    # When frames came again after a gap far beyond the rhythm, in seconds since 1970; None: there was
    # none, or the clock is before it again.
    resumed: float | None = None
    gap: str | None = None  # the gap, in words, where it ended before this frame


def continuable(
    tracks: OpenTracks, frame: Frame, number: int, head: Head, options: LinkOptions
) -> Continuable:
    """The open tracks that a frame may continue by its time, and those to be set aside.

    Args:
        tracks: of the sequence.
        frame: the new frame.
        number: of the frame.
        head: of the state of its sequence.
        options: of linking; without ``max_gap_seconds`` the rhythm of the sequence decides.
    """
    now = seconds_of(frame.taken)
    recent = tracks.steps_to(number, frame.step) <= min(options.gap_frames, CLOCK_FRAMES) + 1
    if options.max_gap_seconds is not None:
        near = np.abs(now - tracks.seconds) <= options.max_gap_seconds
        return Continuable(tracks.select(near), tracks.select(~near & recent))
    step, steps, resumed = now - seconds_of(head.taken), head.steps, head.resumed
    if step > 0:  # not NaN, where one has no time, nor a clock that was put back
        steps = (*steps, round(step, 3))[-KEPT_STEPS:]
    usual, everyone = longest_usual(steps), np.ones(len(tracks), dtype=bool)
    if step > usual:
        reason = (
            f"no frame was taken for {step:,.0f} s, which is far beyond the rhythm of the sequence "
            f"(up to {usual:,.0f} s); to link across it, give the server a `max_gap_seconds`"
        )
        near, resumed = ~everyone, now
    elif resumed is None:
        near, reason = everyone, None
    else:
        near, reason = tracks.seconds < resumed, None
        if now < resumed:  # the clock was wrong, and with it the tracks that began then
            recent, resumed = ~everyone, None
        else:
            near = ~near
    return Continuable(
        tracks.select(near),
        tracks.select(~near & recent),
        steps=steps,
        resumed=resumed,
        gap=reason if len(tracks) else None,
    )
