"""The order of a sequence's images, and their frame numbers.

Time decides where it is known, and the natural order of names (``frame9`` before ``frame10``) where it
is not or is the same. Two things make times alone wrong: an image without one stands after the image
before it by name; and the hour that clocks show twice at the end of daylight saving is in the order
of names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from functools import cache
from pathlib import PurePosixPath
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.frame_names import natural, parse_frame

Ints = npt.NDArray[np.int64]

_UNKNOWN = np.iinfo(np.int64).max  # a time; in microseconds since 1970, as the clock showed it
_HOUR = 3_600_000_000
_EPOCH = datetime(1970, 1, 1)
_NAMED = 3  # sequences that a note names


class _Images(NamedTuple):
    """The images of all sequences, by sequence and name."""

    sequences: Ints  # number of its sequence
    names: pa.Array
    times: Ints
    starts: Ints  # where each sequence starts
    sequence_names: list[str]


def number_frames(keys: pa.Table, note: Callable[[str], None] = lambda text: None) -> pa.Array:
    """Number the images of each sequence: as their names do, or from 0 by time and name.

    Args:
        keys: rows with ``sequence``, ``timestamp`` and ``image``; the time of an image is the
            earliest of its rows.
        note: receives what people should know of the order.

    Returns:
        The frame of each row, int64.
    """
    images, image_of_row = _images(keys)
    known = images.times != _UNKNOWN
    times = _filled(images, known)
    hours = list(_repeated_hours_in(images, times))
    for block, begin in hours:
        times[block] = begin
    order = np.lexsort((np.arange(len(times)), times, images.sequences))
    frames = np.empty(len(order), np.int64)
    frames[order] = np.arange(len(order)) - images.starts[images.sequences]
    _describe(images, known, order, hours, note)
    frames = _with_numbers_in_names(images, frames)
    return pa.array(frames[image_of_row])


def _images(keys: pa.Table) -> tuple[_Images, Ints]:
    """The distinct images, and which of them each row is of."""
    sequence, image = (
        keys[name].combine_chunks().dictionary_encode() for name in ("sequence", "image")
    )
    names = pa.array([natural(name) for name in image.dictionary.to_pylist()], pa.string())
    rank = np.empty(len(names), np.int64)
    rank[pc.sort_indices(names).to_numpy()] = np.arange(len(names))
    by_sequence_and_name = sequence.indices.to_numpy().astype(np.int64) * len(names)
    by_sequence_and_name += rank[image.indices.to_numpy()]
    _, first, image_of_row = np.unique(by_sequence_and_name, return_index=True, return_inverse=True)
    times = np.full(len(first), _UNKNOWN)
    stamps = keys["timestamp"].cast(pa.int64()).fill_null(_UNKNOWN).to_numpy()
    np.minimum.at(times, image_of_row, stamps)
    sequences = sequence.indices.to_numpy().astype(np.int64)[first]
    starts = np.searchsorted(sequences, np.arange(len(sequence.dictionary)))
    chosen = image.indices.take(pa.array(first))
    return (
        _Images(
            sequences,
            image.dictionary.take(chosen),
            times,
            starts,
            sequence.dictionary.to_pylist(),
        ),
        image_of_row,
    )


def _filled(images: _Images, known: npt.NDArray[np.bool_]) -> Ints:
    """Times, with that of the image before by name where none is known, or else of the next."""
    positions = np.arange(len(known))
    starts = images.starts[images.sequences]
    ends = np.r_[images.starts[1:], len(known)][images.sequences]
    before = np.maximum.accumulate(np.where(known, positions, -1))
    after = np.minimum.accumulate(np.where(known, positions, len(known))[::-1])[::-1]
    times = np.where(before >= starts, images.times[before], 0)
    first = (before < starts) & (after < ends)
    times[first] = images.times[after[first]]
    return times


def _repeated_hours_in(images: _Images, times: Ints) -> Iterator[tuple[Ints, int]]:
    """Images of an hour that the clock showed twice, and when the hour began.

    Seen where the time falls from one counted name to the next, within an hour that some time
    zone repeats on that day.
    """
    falls = np.flatnonzero((np.diff(times) < 0) & (np.diff(images.sequences) == 0)) + 1
    falls = falls[times[falls - 1] - times[falls] < _HOUR]
    days = {(images.sequences[at], times[at] // (24 * _HOUR)): at for at in falls.tolist()}
    for (sequence, day), _ in days.items():
        for begin, end in _repeated_hours((_EPOCH + timedelta(days=int(day))).date()):
            stop = (*images.starts, len(times))[sequence + 1]
            part = np.arange(images.starts[sequence], stop)
            block = part[(times[part] >= begin) & (times[part] < end)]
            if _shows_two_passes(times[block], images.names.take(pa.array(block))):
                yield block, begin


def _shows_two_passes(times: Ints, names: pa.Array) -> bool:
    """Whether the times of one hour, in the order of their names, are those of the hour and again."""
    if int((np.diff(times) < 0).sum()) != 1:
        return False
    texts = names.to_pylist()
    if len({re.sub(r"\d+", "", name) for name in texts}) > 1:
        return False  # not counted, so their order says nothing
    # A counter that began again looks the same: 9999 was before 0001.
    return not (times[-1] < times[0] and _ends_at_nines(texts[-1]))


@cache
def _repeated_hours(day: date) -> tuple[tuple[int, int], ...]:
    """Begin and end of what clocks show twice on a day, in any time zone, as ``_Images.times``."""
    midnight = datetime.combine(day, time())
    hours = set()
    for zone in map(ZoneInfo, available_timezones()):
        offsets = [
            zone.utcoffset(moment) or timedelta()
            for moment in (midnight, midnight + timedelta(days=1, hours=1))
        ]
        back = offsets[0] - offsets[1]
        if not timedelta() < back <= timedelta(hours=1):  # two on one base in Antarctica
            continue
        for minutes in range(0, 24 * 60, 30):
            moment = midnight + timedelta(minutes=minutes)
            if zone.utcoffset(moment) != zone.utcoffset(moment.replace(fold=1)):
                hours.add((_micros(moment), _micros(moment + back)))
                break
    return tuple(sorted(hours))


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _with_numbers_in_names(images: _Images, frames: Ints) -> Ints:
    """Frames with the numbers of their names, where a sequence is frames of one clip."""
    if not pc.any(pc.match_substring(images.names, "frame=")).as_py():
        return frames
    names = images.names.to_pylist()
    parts = [parse_frame(name) for name in names]
    numbers = np.array([-1 if part is None else part.frame for part in parts])
    clips = [
        name if part is None else name.rpartition("frame=")[0]
        for name, part in zip(names, parts, strict=True)
    ]
    codes = pa.array(clips, pa.string()).dictionary_encode().indices.to_numpy()
    one_clip = np.minimum.reduceat(codes, images.starts) == np.maximum.reduceat(
        codes, images.starts
    )
    named = one_clip & (np.minimum.reduceat(numbers, images.starts) >= 0)
    return np.where(named[images.sequences], numbers, frames)


def _describe(
    images: _Images,
    known: npt.NDArray[np.bool_],
    order: Ints,
    hours: list[tuple[Ints, int]],
    note: Callable[[str], None],
) -> None:
    """Notes on what the order of times and names leaves open."""
    if hours:
        repeated = [int(images.sequences[block[0]]) for block, _ in hours]
        when = (_EPOCH + timedelta(microseconds=hours[0][1])).isoformat(" ", "minutes")
        note(
            f"the clock went back, as at the end of daylight saving ({when}), in "
            f"{_named(images, repeated)}; images of that hour are in the order of their names"
        )
    moved = np.unique(images.sequences[order != np.arange(len(order))])
    ends = np.r_[images.starts[1:], len(known)]
    counted = np.add.reduceat(known, images.starts, dtype=np.int64)
    partly = [int(number) for number in moved if counted[number] < (ends - images.starts)[number]]
    if partly:
        note(
            f"some images of {_named(images, partly)} have no time; each is placed after the "
            "image before it by name"
        )
    restarted = [
        int(number)
        for number in np.flatnonzero(counted == 0)
        if _began_again(images, int(images.starts[number]), int(ends[number]))
    ]
    if restarted:
        first, last = (
            images.names[int(at)].as_py()
            for at in (images.starts[restarted[0]], ends[restarted[0]] - 1)
        )
        note(
            f"{_named(images, restarted)} may have a counter that began again ({last}, then "
            f"{first}); without times this cannot be known and {first} comes first: give a column "
            "'timestamp' or 'frame'"
        )


def _began_again(images: _Images, start: int, end: int) -> bool:
    """Whether the names run from 0 or 1 to 99…9 and leave some numbers between them out."""
    first, last = images.names[start].as_py(), images.names[end - 1].as_py()
    if not _ends_at_nines(last) or re.sub(r"\d+", "", first) != re.sub(r"\d+", "", last):
        return False
    low, high = _counter(first), _counter(last)
    return len(low) == len(high) and int(low) < 2 and end - start <= int(high) - int(low)


def _ends_at_nines(name: str) -> bool:
    return re.fullmatch(r"9{3,9}", _counter(name)) is not None


def _counter(name: str) -> str:
    """The last number of a file name, before its suffix."""
    numbers = re.findall(r"[0-9]+", PurePosixPath(name).stem)
    return numbers[-1] if numbers else ""


def _named(images: _Images, numbers: list[int]) -> str:
    names = [images.sequence_names[number] for number in dict.fromkeys(numbers)]
    shown = ", ".join(map(repr, names[:_NAMED])) + (", …" if len(names) > _NAMED else "")
    return f"{'sequence' if len(names) == 1 else f'{len(names)} sequences'} {shown}"
