"""Times as people's tables have them: understood or refused, never guessed.

Times are the camera's own, without a zone; those with a zone are turned into UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TIMESTAMP = pa.timestamp("us")
WRITE = "write times as 2023-10-29 02:10:00"

_FIRST, _LAST = 631_152_000, 2_208_988_800  # seconds since 1970: the years 1990 to 2039
_SINCE_1970 = {
    "seconds": 1,
    "milliseconds": 1_000,
    "microseconds": 1_000_000,
    "nanoseconds": 1_000_000_000,
}
_DIGITS = {14: "YYYYMMDDhhmmss", 12: "YYYYMMDDhhmm", 8: "YYYYMMDD"}
_EXCEL_DAYS = 100_000
_CLOCK = (
    r"(?:[T _]+(?P<hour>\d{1,2})[:.](?P<minute>\d\d)(?:[:.](?P<second>\d\d)(?:[.,](?P<part>\d+))?)?"
    r"(?:\s*(?P<half>[AaPp][Mm]))?)?"
    r"\s*(?P<zone>[Zz]|UTC|[+-]\d\d:?\d\d)?"
)
_YEAR_FIRST = re.compile(
    r"(?P<year>\d{4})(?P<mark>[-:/.])(?P<month>\d{1,2})(?P=mark)(?P<day>\d{1,2})" + _CLOCK
)
_PACKED = re.compile(
    r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)"
    r"(?:[T _-](?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<part>\d+))?)?)"
    r"(?P<half>)(?P<zone>[Zz]|[+-]\d\d:?\d\d)?"
)
_YEAR_LAST = re.compile(
    r"(?P<first>\d{1,2})(?P<mark>[-/.])(?P<then>\d{1,2})(?P=mark)(?P<year>\d{4})" + _CLOCK
)
_NOT_SET = "0000:00:00 00:00:00"  # how cameras write that their clock was never set


def iso_time(text: str) -> datetime | None:
    """A time in ISO 8601; with a zone it becomes UTC. None where it is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def read_times(
    column: pa.ChunkedArray, note: Callable[[str], None] = lambda text: None
) -> pa.ChunkedArray:
    """A column of times as ``timestamp[us]``.

    Understood are times and dates, text (ISO 8601 with or without a zone, EXIF's
    ``2023:10:29 02:10:00``, ``20231029_021000``, ``29.10.2023 02:10`` where it cannot be another
    day), whole numbers ``YYYYMMDDhhmmss``, ``YYYYMMDDhhmm`` and ``YYYYMMDD``, and numbers of
    seconds, milliseconds, microseconds or nanoseconds since 1970 that are of 1990 to 2039. All of
    a column is written in one way.

    Args:
        column: of any type; null where there is no time.
        note: receives what numbers and unusual text were read as.

    Raises:
        ValueError: it cannot be told which times are meant; one line.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_null(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _of_timestamps(column)
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    if pa.types.is_integer(kind) or pa.types.is_floating(column.type):
        return _of_numbers(column, note)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _of_texts(column.cast(pa.string()), note)
    raise ValueError(f"{kind} is no time; {WRITE}")


def _of_timestamps(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = column.cast(pa.timestamp("us", tz="UTC"), safe=False)
    return column.cast(TIMESTAMP, safe=False)


def _of_numbers(column: pa.ChunkedArray, note: Callable[[str], None]) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column.cast(pa.float64()))
    known = column.drop_null()
    if not len(known):
        return pa.chunked_array([pa.nulls(len(column), TIMESTAMP)])
    low, high = pc.min_max(known).as_py().values()
    whole = pa.types.is_integer(column.type) or pc.all(pc.equal(known, pc.floor(known))).as_py()
    if whole and len(str(int(low))) == len(str(int(high))) in _DIGITS:
        texts = column.cast(pa.int64()).cast(pa.string())
        try:
            times = texts.combine_chunks().dictionary_encode()
            values = [_packed(text) for text in times.dictionary.to_pylist()]
        except ValueError:
            pass
        else:
            note(f"numbers as {low:.0f} were read as {_DIGITS[len(str(int(low)))]}")
            return pa.chunked_array([pa.array(values, TIMESTAMP).take(times.indices)])
    for unit, a_second in _SINCE_1970.items():
        if low >= _FIRST * a_second and high < _LAST * a_second:
            note(f"numbers as {low} were read as {unit} since 1970 (UTC)")
            return _since_1970(column, a_second)
    hint = ""
    if 0 < low <= high < _EXCEL_DAYS:
        hint = ": they may be Excel's days; give that column the format of a date"
    raise ValueError(
        f"it cannot be known which times the numbers {low} to {high} are{hint}; {WRITE}"
    )


def _packed(text: str) -> datetime:
    formats = {14: "%Y%m%d%H%M%S", 12: "%Y%m%d%H%M", 8: "%Y%m%d"}
    moment = datetime.strptime(text, formats[len(text)])
    if not 1990 <= moment.year < 2100:
        raise ValueError("a number of that length, and no date")
    return moment


def _since_1970(column: pa.ChunkedArray, a_second: int) -> pa.ChunkedArray:
    if pa.types.is_integer(column.type):
        column = column.cast(pa.int64())
        if a_second <= 1_000_000:
            return pc.multiply(column, 1_000_000 // a_second).cast(TIMESTAMP)
        return pc.divide(column, a_second // 1_000_000).cast(TIMESTAMP)
    micros = np.round(column.fill_null(0).to_numpy() * (1e6 / a_second)).astype(np.int64)
    times = pa.array(micros, mask=np.asarray(column.is_null()))
    return pa.chunked_array([times.cast(TIMESTAMP)])


def _of_texts(column: pa.ChunkedArray, note: Callable[[str], None]) -> pa.ChunkedArray:
    try:
        return column.cast(TIMESTAMP)  # ISO 8601 without a zone, as most are
    except pa.ArrowInvalid:
        pass
    encoded = pc.utf8_trim_whitespace(column).combine_chunks().dictionary_encode()
    texts = [text if text and text != _NOT_SET else None for text in encoded.dictionary.to_pylist()]
    given = [text for text in texts if text is not None]
    if given and all(re.fullmatch(r"\d+(\.\d+)?", text) for text in given):
        kind = float if any("." in text for text in given) else int
        try:
            numbers = pa.array([None if text is None else kind(text) for text in texts])
        except (OverflowError, pa.ArrowException):
            raise ValueError(f"{given[0]!r} is no time; {WRITE}") from None
        return _of_numbers(pa.chunked_array([numbers.take(encoded.indices)]), note)
    matches = [None if text is None else _matched(text) for text in texts]
    day_first = _day_first([match for match in matches if match is not None])
    values = [None if match is None else _moment(match, day_first) for match in matches]
    zoned = {value.tzinfo is not None for value in values if value is not None}
    if len(zoned) > 1:
        raise ValueError("some times have a zone and others have none; write all alike")
    for match, value in zip(matches, values, strict=True):
        if match is not None and (match.re is not _YEAR_FIRST or match["mark"] != "-"):
            note(f"times as {match[0]!r} were read as {value:%Y-%m-%d %H:%M:%S}")
            break
    if True in zoned:
        values = [value and value.astimezone(UTC).replace(tzinfo=None) for value in values]
    return pa.chunked_array([pa.array(values, TIMESTAMP).take(encoded.indices)])


def _matched(text: str) -> re.Match[str]:
    for pattern in (_YEAR_FIRST, _PACKED, _YEAR_LAST):
        if match := pattern.fullmatch(text):
            return match
    raise ValueError(f"{text[:60]!r} is no time that can be understood; {WRITE}")


def _day_first(matches: list[re.Match[str]]) -> bool:
    """Whether ``05/06/2023`` is 5 June, judged by all rows of the column.

    Raises:
        ValueError: it could be either, or some rows are one and some the other.
    """
    last = [match for match in matches if match.re is _YEAR_LAST]
    # Dots are always day first.
    open_ones = [m for m in last if m["mark"] != "." and int(m["first"]) != int(m["then"])]
    days = [match for match in open_ones if int(match["first"]) > 12]
    months = [match for match in open_ones if int(match["then"]) > 12]
    if days and months:
        raise ValueError(
            f"{days[0][0]!r} has the day first and {months[0][0]!r} the month; {WRITE}"
        )
    if open_ones and not (days or months):
        raise ValueError(f"{open_ones[0][0]!r} may be two different days; {WRITE}")
    return not months


def _moment(match: re.Match[str], day_first: bool) -> datetime:
    parts: dict[str, Any] = match.groupdict()
    if match.re is _YEAR_LAST:
        day, month = parts["first"], parts["then"]
        if parts["mark"] != "." and not day_first:
            day, month = month, day
        parts |= {"day": day, "month": month}
    hour = int(parts["hour"] or 0)
    if parts["half"]:
        hour = hour % 12 + (12 if parts["half"].lower() == "pm" else 0)
    try:
        return datetime(
            int(parts["year"]),
            int(parts["month"]),
            int(parts["day"]),
            hour,
            int(parts["minute"] or 0),
            int(parts["second"] or 0),
            int((parts["part"] or "0")[:6].ljust(6, "0")),
            _zone(parts["zone"]),
        )
    except ValueError as error:
        raise ValueError(f"{match[0]!r}: {error}; {WRITE}") from None


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text.upper() in ("Z", "UTC"):
        return UTC
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))
