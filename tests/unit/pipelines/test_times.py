"""Columns of times: what they are read as, and what is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from pipelines.times import read_times

WHEN = datetime(2023, 10, 29, 2, 10)
SECONDS = int(WHEN.replace(tzinfo=UTC).timestamp())


def read(values: list[Any] | pa.Array) -> tuple[list[datetime | None], list[str]]:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    notes: list[str] = []
    times = read_times(pa.chunked_array([column]), notes.append)
    assert times.type == pa.timestamp("us")
    return times.to_pylist(), notes


@pytest.mark.parametrize(
    "values",
    [
        [SECONDS],
        [SECONDS * 10**3],
        [SECONDS * 10**6],
        [SECONDS * 10**9],
        [float(SECONDS)],
        pa.array([SECONDS], pa.uint32()),
        [20231029021000],
        [202310290210],
        [20231029021000.0],
        [str(SECONDS)],
        [f"{SECONDS}000"],
        ["20231029021000"],
        ["2023:10:29 02:10:00"],
        ["2023:10:29 02:10:00.00"],
        ["2023/10/29 2:10"],
        ["20231029_021000"],
        ["20231029T021000"],
        ["29.10.2023 02:10"],
        ["29/10/2023 02:10:00"],
        ["10/29/2023 2:10 AM"],
        ["2023:10:29 04:10:00+02:00"],
    ],
)
def test_a_time_is_understood_and_said(values: list[Any] | pa.Array) -> None:
    times, notes = read(values)
    assert times == [WHEN]
    assert len(notes) == 1


@pytest.mark.parametrize(
    "values",
    [
        [WHEN],
        ["2023-10-29T02:10:00"],
        ["2023-10-29 02:10"],
        ["2023-10-29T02:10:00Z"],
        ["2023-10-29T04:10:00+02:00"],
        ["2023-10-28 21:10:00.000-0500"],
        [" 2023-10-29 02:10:00 "],
        ["2023-10-29_02:10:00"],
        pa.array([WHEN], pa.timestamp("ns")),
        pa.array([WHEN], pa.timestamp("s", "Europe/Berlin")),
        pa.array(["2023-10-29 02:10"], pa.large_string()),
        pa.array(["2023-10-29 02:10"]).dictionary_encode(),
    ],
)
def test_plain_times_need_no_words(values: list[Any] | pa.Array) -> None:
    assert read(values) == ([WHEN], [])


def test_days_and_parts_of_seconds() -> None:
    assert read([20231029])[0] == read([date(2023, 10, 29)])[0] == [datetime(2023, 10, 29)]
    half = WHEN + timedelta(seconds=0.5)
    assert read([SECONDS + 0.5])[0] == read(["2023:10:29 02:10:00.5"])[0] == [half]
    assert read([SECONDS * 1000 + 500])[0] == [half]


def test_no_time_stays_none() -> None:
    assert (
        read(["2023:10:29 02:10:00", None, "", " ", "0000:00:00 00:00:00"])[0]
        == [WHEN] + [None] * 4
    )
    assert read([SECONDS, None])[0] == [WHEN, None]
    assert read(pa.array([float(SECONDS), float("nan")]))[0] == [WHEN, None]
    assert read(pa.nulls(2))[0] == [None, None]
    assert read(pa.array([None], pa.int64()))[0] == [None]


def test_rows_of_a_column_say_which_number_is_the_day() -> None:
    assert read(["05/06/2023", "25/06/2023"])[0][0] == datetime(2023, 6, 5)
    assert read(["05/06/2023", "06/25/2023"])[0][0] == datetime(2023, 5, 6)
    assert read(["05/05/2023"])[0] == [datetime(2023, 5, 5)]


def test_as_pandas_reads_them() -> None:
    """An implementation that is not ours."""
    texts = ["2023-10-29T02:10:00.123456", "1999-01-01 00:00", "2023-10-29T02:10:00+05:30"]
    for text in texts:
        moment = pd.Timestamp(text)
        utc = moment.tz_convert("UTC").tz_localize(None) if moment.tzinfo else moment
        assert read([text])[0] == [utc.to_pydatetime()]
    for unit, factor in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        for seconds in (631_152_000, SECONDS, 2_208_988_799):
            expected = pd.to_datetime(seconds * factor, unit=unit).to_pydatetime()
            assert read([seconds * factor])[0] == [expected]


@pytest.mark.parametrize(
    "values",
    [
        [0],
        [1, 2, 3],
        [45228],  # Excel's day of 2023-10-29
        [45228.0903],
        [-SECONDS],
        [SECONDS, SECONDS * 1000],
        [20231029021000, SECONDS],
        [2310290210],
        [20231399],
        ["yesterday"],
        ["02:10:00"],
        ["05/06/2023 02:10"],
        ["25/06/2023", "06/25/2023"],
        ["29/10/23 02:10"],
        ["2023-13-01 02:10"],
        ["2023:02:30 02:10:00"],
        ["2023-10-29 02:10", "2023-10-29 02:10Z"],
        ["2023-10-29 02:10", str(SECONDS)],
        ["9" * 40],
        [True],
        [[WHEN]],
    ],
)
def test_what_cannot_be_told_is_refused(values: list[Any]) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read(values)
    assert "\n" not in str(caught.value)
