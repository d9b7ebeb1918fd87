"""Manifests as people's programs write them."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import SourceError
from pipelines.sources.manifest import read_manifest
from pipelines.sources.plan import Plan


def plan_of(folder: Path, data: str | bytes, suffix: str = ".csv") -> Plan:
    file = folder / f"rows{suffix}"
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_manifest(file)


def columns_of(folder: Path, data: str | bytes, suffix: str = ".csv") -> dict[str, list[Any]]:
    return plan_of(folder, data, suffix).table.to_pydict()


def test_text_of_sequences_stays_text(tmp_path: Path) -> None:
    rows = "image,sequence\n" + "".join(
        f"{number}.jpg,{name}\n"
        for number, name in enumerate(
            ["001", "01", "1", "1.10", "1.1", "2023-10-29", "1e5", "true"]
        )
    )
    table = columns_of(tmp_path, rows)
    assert table["sequence"] == ["001", "01", "1", "1.10", "1.1", "2023-10-29", "1e5", "true"]
    assert table["frame"] == [0] * 8
    json = '{"image": "1.jpg", "sequence": "2023-10-29"}\n{"image": "2.jpg", "sequence": "001"}\n'
    assert columns_of(tmp_path, json, ".jsonl")["sequence"] == ["2023-10-29", "001"]
    dates = (
        '{"image": "1.jpg", "sequence": "2023-10-29", "night": {"of": ["2023-10-29T02:10:00"]}}\n'
    )
    table = columns_of(tmp_path, dates, ".jsonl")
    assert (table["sequence"], table["night"]) == (
        ["2023-10-29"],
        [{"of": ["2023-10-29T02:10:00"]}],
    )


def test_own_columns_have_the_type_of_all_their_values(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        "image,code,count,weight,good,night,at,long,plot,mixed,none\n"
        "1.jpg,001,1,0.5,true,2023-10-29,2023-10-29 02:10,12345678901234567890,1.10,1,\n"
        "2.jpg,1,,nan,,2023-10-30,2023-10-29 02:11,1,1.1,x,\n",
    )
    table = plan.table.to_pydict()
    assert table["code"] == ["001", "1"]
    assert table["count"] == [1, None]
    assert table["weight"][0] == 0.5
    assert table["weight"][1] != table["weight"][1]
    assert table["good"] == [True, None]
    assert table["night"] == [date(2023, 10, 29), date(2023, 10, 30)]
    assert table["at"] == [datetime(2023, 10, 29, 2, 10), datetime(2023, 10, 29, 2, 11)]
    assert table["long"] == ["12345678901234567890", "1"]
    assert table["plot"] == ["1.10", "1.1"]
    assert table["mixed"] == ["1", "x"]
    assert table["none"] == [None, None]
    assert len(plan.notes) == 1  # of plot


def test_a_type_is_that_of_rows_far_down_as_well(tmp_path: Path) -> None:
    """Readers that look at the first megabyte fail, or lose zeros, after it."""
    rows = "".join(f"{'x' * 90}/{number}.jpg,{number}\n" for number in range(15_000))
    table = plan_of(tmp_path, f"image,site\n{rows}last.jpg,A7\n").table
    assert table["site"].type == pa.string()
    assert table["site"].to_pylist()[:2] == ["0", "1"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"]
)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_spreadsheets_write_is_read(
    tmp_path: Path, encoding: str, separator: str, end: str
) -> None:
    frame = pd.DataFrame(
        {
            "image": ["a.jpg", "b b.jpg"],
            "x1": [1.5, 2.25],
            "y1": [1, 2],
            "x2": [9, 9],
            "y2": [9, 8],
            "site": ["Größe", 'two\nlines; and, a "quote"\t|'],
        }
    )
    text = frame.to_csv(index=False, sep=separator, lineterminator=end)
    for rows in (text, text.rstrip(end), f"{end}{text}{end}"):
        table = columns_of(tmp_path, rows.encode(encoding))
        for name in ("image", "x1", "y1", "x2", "y2"):
            assert table[name] == frame[name].to_list()
        assert [name.replace("\r", "\n") for name in table["site"]] == frame["site"].to_list()
    plan = plan_of(tmp_path, text.encode(encoding))
    guessed = encoding in ("latin-1", "cp1252")
    assert len(plan.notes) == guessed + (separator != ",")


def test_decimal_commas_are_read_and_said(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, "sep=;\nimage;x1;y1;x2;y2;weight;site\na.jpg;1,5;2;3,25;4;0,75;1,2,3\n"
    )
    table = plan.table.to_pydict()
    assert (table["x1"], table["y1"], table["x2"]) == ([1.5], [2.0], [3.25])
    assert (table["weight"], table["site"]) == ([0.75], ["1,2,3"])
    assert len(plan.notes) == 4  # semicolons; x1, x2, weight


def test_an_empty_last_column_is_none(tmp_path: Path) -> None:
    assert "" not in columns_of(tmp_path, "image,site,\na.jpg,x,\n")
    assert columns_of(tmp_path, ",image\n0,a.jpg\n")[""] == [0]  # pandas' numbers of rows


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("image,note\na.jpg,1\nb.jpg,1,2\n", "row 3"),
        ("image,note\na.jpg\n", "row 2"),
        ("image,note,note\na.jpg,1,2\n", "'note' twice"),
        ("image,image\na.jpg,b.jpg\n", "'image' twice"),
        ("image,frame\na.jpg,1\nb.jpg,\n", "1 of 2 rows"),
        ("image,frame\na.jpg,\nb.jpg,1\na.jpg,2\n", "1 of 3 rows"),
        ("image,timestamp\na.jpg,45228\n", "timestamp"),
        ("image,decode:pixels\na.jpg,1\n", "decode:pixels"),
        ("path;x1\na.jpg;1\n", "no column 'image' .it has path, x1."),
        ("", "Empty"),
        ("image,note\na.jpg,é\n".encode("utf-16-le"), "UTF-8"),
        (b"PK\x03\x04\0\0", "no text"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, data: str | bytes, says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        plan_of(tmp_path, data)
    assert "\n" not in str(caught.value)


def test_a_column_twice_is_refused_in_parquet(tmp_path: Path) -> None:
    table = pa.table([["a.jpg"], [1], [2]], ["image", "note", "note"])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(SourceError, match="'note' twice"):
        read_manifest(tmp_path / "rows.parquet")


def test_frames_are_numbered_by_name_where_nothing_else_is_given(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(12, 0, -1)]
    assert columns_of(tmp_path, "\n".join(["image", *names]))["frame"] == list(range(11, -1, -1))
    rows = "".join(f"{name},,\n" for name in names)
    assert columns_of(tmp_path, f"image,frame,timestamp\n{rows}")["frame"][0] == 11
    times = "".join(f"{name},{1698545400 - 60 * at}\n" for at, name in enumerate(names))
    assert columns_of(tmp_path, f"image,timestamp\n{times}")["frame"][0] == 11


def test_several_images_of_one_frame_are_said(tmp_path: Path) -> None:
    assert len(plan_of(tmp_path, "image,frame\na.jpg,1\nb.jpg,1\n").notes) == 1
    assert plan_of(tmp_path, "image,frame\na.jpg,1\na.jpg,1\n").notes == ()
    assert plan_of(tmp_path, "image,frame,sequence\na.jpg,1,x\nb.jpg,1,y\n").notes == ()


def test_contract_columns_have_types_of_their_own(tmp_path: Path) -> None:
    """pandas writes whole numbers beside empty cells as 1.0, cameras write 001."""
    rows = "image,frame,x1,y1,x2,y2\na.jpg,{},08,1e1,12.50,13\nb.jpg,{}, +8 ,.5,12.5,13\n"
    for frames in (("1.0", "2.0"), ("001", "002"), ("1", "2")):
        table = columns_of(tmp_path, rows.format(*frames))
        assert table["frame"] == [1, 2]
        assert (table["x1"], table["y1"], table["x2"]) == ([8, 8], [10, 0.5], [12.5, 12.5])
    with pytest.raises(SourceError, match="'frame'"):
        plan_of(tmp_path, rows.format("1.5", "2"))
