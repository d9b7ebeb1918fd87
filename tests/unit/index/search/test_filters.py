"""Conditions on rows: the rows that they choose against pandas, and what is refused."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from common.conditions import MAX_WHERE
from common.errors import FilterError
from index.search.filters import Filter, check, matches
from index.storage.columns import ROWS_SCHEMA

ROWS = 60


@pytest.fixture(scope="module")
def table() -> pa.Table:
    random = np.random.default_rng(0)
    start = datetime.datetime(2024, 5, 1, 22, 0)
    plan: dict[str, list[Any]] = {
        "run": [row % 3 for row in range(ROWS)],
        "row_id": list(range(ROWS)),
        "detection_id": [f"d{row}" for row in range(ROWS)],
        "image": [f"trap-{row % 4}/{row:04d}.JPG" for row in range(ROWS)],
        **{
            side: [None if row % 5 == 0 else row * factor for row in range(ROWS)]
            for side, factor in {"x1": 1.5, "y1": 1.5, "x2": 2.5, "y2": 2.5}.items()
        },
        "sequence": [f"trap-{row % 4}" if row % 7 else None for row in range(ROWS)],
        "timestamp": [
            start + datetime.timedelta(minutes=17 * row) if row % 6 else None for row in range(ROWS)
        ],
        "frame": list(range(ROWS)),
        "label": [("moth", "Ölkäfer", "it's", None)[row % 4] for row in range(ROWS)],
        "label_index": [row % 4 if row % 4 < 3 else None for row in range(ROWS)],
        "score": random.random(ROWS).astype(np.float32).tolist(),
    }
    return pa.table(plan, schema=ROWS_SCHEMA)


Fits = Callable[[pd.DataFrame], Any]

CONDITIONS: dict[str, Fits] = {
    "label = 'moth'": lambda t: t.label == "moth",
    "LABEL = 'moth'": lambda t: t.label == "moth",
    "\"label\" = 'moth'": lambda t: t.label == "moth",
    "label <> 'moth'": lambda t: (t.label != "moth") & t.label.notna(),  # null is unknown
    "NOT label = 'moth'": lambda t: (t.label != "moth") & t.label.notna(),
    "label IS NULL": lambda t: t.label.isna(),
    "label IS DISTINCT FROM 'moth'": lambda t: t.label != "moth",
    "label = 'it''s'": lambda t: t.label == "it's",
    "label IN ('moth', 'Ölkäfer')": lambda t: t.label.isin(["moth", "Ölkäfer"]),
    "label NOT IN ('moth')": lambda t: t.label.notna() & (t.label != "moth"),
    "label LIKE '%käfer'": lambda t: t.label == "Ölkäfer",
    "image ILIKE '%.jpg'": lambda t: t.image.notna(),
    "image GLOB 'trap-1/*'": lambda t: t.image.str.startswith("trap-1/"),
    "regexp_matches(image, '000[0-5]')": lambda t: t.row_id <= 5,
    "starts_with(image, 'trap-2')": lambda t: t.image.str.startswith("trap-2"),
    "lower(label) = 'ölkäfer'": lambda t: t.label == "Ölkäfer",
    "score >= 0.5": lambda t: t.score >= 0.5,
    "score BETWEEN 0.2 AND 0.4": lambda t: (t.score >= 0.2) & (t.score <= 0.4),
    "score > 0.5 AND (run = 1 OR run = 2)": lambda t: (t.score > 0.5) & (t.run != 0),
    "sequence = 'trap-1' OR frame < 3": lambda t: (t.sequence == "trap-1") | (t.frame < 3),
    "x1 IS NULL": lambda t: t.x1.isna(),
    "(x2 - x1) * (y2 - y1) > 400": lambda t: (t.x2 - t.x1) * (t.y2 - t.y1) > 400,
    "row_id % 7 = 3": lambda t: t.row_id % 7 == 3,
    "row_id / 0 = 1": lambda t: t.row_id < 0,  # null, not an error
    "abs(frame - 30) < 4": lambda t: (t.frame - 30).abs() < 4,
    "timestamp >= '2024-05-02'": lambda t: t.timestamp >= "2024-05-02",
    "timestamp BETWEEN '2024-05-01 23:00' AND '2024-05-02 01:00'": lambda t: t.timestamp.between(
        "2024-05-01 23:00", "2024-05-02 01:00"
    ),
    "hour(timestamp) < 3": lambda t: t.timestamp.dt.hour < 3,
    "date_trunc('day', timestamp) = TIMESTAMP '2024-05-02'": lambda t: (
        t.timestamp.dt.floor("D") == "2024-05-02"
    ),
    "timestamp + INTERVAL 1 HOUR > '2024-05-02'": lambda t: t.timestamp >= "2024-05-01 23:00:01",
    "CASE WHEN run = 0 THEN score > 0.5 ELSE false END": lambda t: (t.run == 0) & (t.score > 0.5),
    "coalesce(label, 'none') = 'none'": lambda t: t.label.isna(),
    "CAST(score * 10 AS INTEGER) = 5": lambda t: (t.score * 10).round() == 5,
    "true -- all of them": lambda t: t.row_id >= 0,
    "1 = 2": lambda t: t.row_id < 0,
    "NULL = 1": lambda t: t.row_id < 0,
    "label = '); DROP TABLE rows; --'": lambda t: t.row_id < 0,
    "CASE WHEN true THEN " * 150 + "run = 1" + " END" * 150: lambda t: t.run == 1,
    "(" * 300 + "run = 1" + ")" * 300: lambda t: t.run == 1,
    " OR ".join(f"row_id = {row}" for row in range(0, 60, 2)): lambda t: t.row_id % 2 == 0,
}


@pytest.mark.parametrize("where", list(CONDITIONS), ids=lambda where: where[:50])
def test_rows_are_those_that_pandas_finds(table: pa.Table, where: str) -> None:
    frame = table.to_pandas()
    expected = CONDITIONS[where](frame).fillna(False).to_numpy(bool)
    np.testing.assert_array_equal(matches(Filter(where), table), expected)


def test_ids_and_condition_must_both_fit(table: pa.Table) -> None:
    ids = frozenset({"d3", "d4", "d59", "nobody", ""})
    assert np.flatnonzero(matches(Filter(ids=ids), table)).tolist() == [3, 4, 59]
    assert np.flatnonzero(matches(Filter("row_id > 3", ids), table)).tolist() == [4, 59]
    assert not matches(Filter(ids=frozenset()), table).any()
    assert matches(Filter(), table).all()
    assert not Filter()
    assert Filter(ids=frozenset())


REFUSED = {
    "": "is empty",
    " \n ": "is empty",
    "label": "it gives string, not true or false",
    "score + 1": "not true or false",
    "NULL": "not true or false",
    "nothing = 1": "there is no column 'nothing'; there are run, row_id, detection_id",
    "rows.label = 'a'": "there is no column 'rows.label'",
    "rowid = 1": "there is no column 'rowid'",
    "current_date > timestamp": "there is no column 'current_date'",
    "label = 'a": "unterminated",
    "label = ": "syntax error",
    "label == 'a' AND": "syntax error",
    "score = 'abc'": "Could not convert",
    "regexp_matches(label, '(')": "missing )",
    # what reaches beyond a row
    "(SELECT true)": "subquery is not allowed",
    "label IN (SELECT label FROM rows)": "subquery is not allowed",
    "EXISTS (FROM rows)": "subquery is not allowed",
    "EXISTS (SELECT * FROM '/etc/passwd')": "subquery is not allowed",
    "EXISTS (FROM read_csv('/etc/passwd'))": "subquery is not allowed",
    "CASE WHEN true THEN (SELECT true) END": "subquery is not allowed",
    "count(*) > 0": "function 'count_star' is not allowed",
    "sum(score) > 1": "function 'sum' is not allowed",
    "row_number() OVER () > 1": "window is not allowed",
    "max(score) OVER (PARTITION BY label) > 1": "window is not allowed",
    "COLUMNS(*) = 1": "star is not allowed",
    "COLUMNS('x.') > 1": "star is not allowed",
    "*": "star is not allowed",
    "rows.* IS NULL": "not allowed",
    # functions that read, tell of this machine, or fill the memory
    "read_text('/etc/passwd') = ''": "function 'read_text' is not allowed",
    "getenv('HOME') = ''": "function 'getenv' is not allowed",
    "length(repeat('a', 1000000000)) > 1": "function 'repeat' is not allowed",
    "len(range(1000000000)) > 1": "not allowed",
    "label || 'a' = 'b'": "function '||' is not allowed",
    "current_setting('memory_limit') = ''": "function 'current_setting' is not allowed",
    "version() = ''": "function 'version' is not allowed",
    "random() > 0.5": "function 'random' is not allowed",
    "list_filter([1], x -> x > 1) = []": "not allowed",
    "list_filter([1], lambda x: x > 1) = []": "not allowed",
    "[1, 2][1] = 1": "function 'list_value' is not allowed",
    "{'a': 1}.a = 1": "not allowed",
    "label COLLATE NOCASE = 'a'": "collate is not allowed",
    # placeholders that nobody fills
    "label = ?": "parameter is not allowed",
    "label = $1": "parameter is not allowed",
    "label = $name": "parameter is not allowed",
    "#1 = 1": "positional reference is not allowed",
    "default": "default is not allowed",
    # more than one expression, and ways out of the brackets around it
    "true; SELECT true": "syntax error",
    "true;": "syntax error",
    "true, false": "",
    "true), (false": "more than one expression",
    "true) AS matches FROM rows; SELECT (true": "more than one expression",
    "true) AS matches FROM rows; DROP TABLE rows; SELECT (true": "",
    "true) AS matches FROM rows UNION ALL SELECT (true": "more than one expression",
    "true) AS matches FROM rows; COPY rows TO '/tmp/x'; SELECT (true": "",
    "true) AS a FROM rows WHERE (true": "syntax error",
    "true) AS a FROM (SELECT true": "",
    "true) FROM rows AS r, (SELECT true": "",
    "true) FILTER (WHERE true": "syntax error",
    "true) AS matches FROM rows --": "syntax error",
    "true) AS matches FROM rows /*": "unterminated",
    "true) QUALIFY (true": "syntax error",
    ")(": "syntax error",
    "true)": "syntax error",
    "(true": "syntax error",
    # too much
    "label = '" + "a" * MAX_WHERE + "'": f"{MAX_WHERE} are allowed",
    "(" * 1990 + "true" + ")" * 1990: "depth",
    "NOT " * 900 + "true": "nested too deep",
    "+".join(["1"] * 1900) + " > 0": "depth",
    "- " * 1500 + "1 > 0": "depth",
    "label = '\ud800'": "surrogates not allowed",
}


@pytest.mark.parametrize("where", list(REFUSED), ids=lambda where: ascii(where[:50]))
def test_what_is_no_plain_condition_is_refused_on_one_line(table: pa.Table, where: str) -> None:
    with pytest.raises(FilterError) as caught:
        matches(Filter(where), table)
    message = str(caught.value)
    assert REFUSED[where] in message
    assert "\n" not in message
    assert len(message) < 600
    assert __file__ not in message
    assert "site-packages" not in message
    assert caught.value.exit_code == 2


def test_refusals_come_before_anything_is_evaluated() -> None:
    for where in ("EXISTS (FROM read_csv('/etc/passwd'))", "getenv('HOME') = ''", "nothing"):
        with pytest.raises(FilterError):
            check(where, ROWS_SCHEMA.names)
    check("label = 'moth'", ROWS_SCHEMA.names)


def test_id_that_is_no_text_is_refused(table: pa.Table) -> None:
    with pytest.raises(FilterError, match=r"id .* cannot be used: surrogates not allowed"):
        matches(Filter(ids=frozenset({"d1", "\ud800"})), table)
