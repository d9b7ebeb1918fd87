"""Own columns: which are kept, as what and by which name; what two segments have in common."""

from __future__ import annotations

import datetime
import json
import re
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from common.errors import SnapshotError
from index.storage.columns import (
    ROWS_SCHEMA,
    OwnColumns,
    is_rows_schema,
    payload,
    payload_schema,
    rows_schema,
    to_type,
    unify,
)

UTC = datetime.UTC
NOON = datetime.datetime(2024, 5, 1, 12, 0, 0, 250)

KEPT: list[tuple[pa.Array, str, list[Any]]] = [
    (pa.array(["a", None]), "string", ["a", None]),
    (pa.array(["a", None], pa.large_string()), "string", ["a", None]),
    (pa.array(["a", None], pa.string_view()), "string", ["a", None]),
    (pa.array(["a", None]).dictionary_encode(), "string", ["a", None]),
    (pa.array([7, None, 7]).dictionary_encode(), "int64", [7, None, 7]),
    (pa.array([True, None]), "bool", [True, None]),
    (pa.array([1, None], pa.int8()), "int8", [1, None]),
    (pa.array([2**64 - 1], pa.uint64()), "uint64", [2**64 - 1]),
    (pa.array([0.5, None], pa.float16()), "float", [0.5, None]),
    (pa.array([0.1, None]), "double", [0.1, None]),
    (pa.array([Decimal("1.25"), None]), "double", [1.25, None]),
    (pa.array([NOON.date(), None]), "date32[day]", [NOON.date(), None]),
    (pa.array([NOON.date()], pa.date64()), "date32[day]", [NOON.date()]),
    (pa.array([NOON.time(), None]), "time64[us]", [NOON.time(), None]),
    (pa.array([3600], pa.time32("s")), "time64[us]", [datetime.time(1)]),
    (pa.array([NOON, None]), "timestamp[us]", [NOON, None]),
    (pa.array([1_714_564_800_000_250_999], pa.timestamp("ns")), "timestamp[us]", [NOON]),
    (pa.array([NOON], pa.timestamp("us", "Asia/Tokyo")), "timestamp[us]", [NOON]),
    (pa.array([NOON], pa.timestamp("ns", "+03:00")), "timestamp[us]", [NOON]),
]

LEFT_OUT = [
    pa.list_(pa.string()),
    pa.struct([("a", pa.int64())]),
    pa.map_(pa.string(), pa.int64()),
    pa.binary(),
    pa.duration("s"),
    pa.list_(pa.float32(), 3),
    pa.dictionary(pa.int32(), pa.binary()),
]


@pytest.mark.parametrize(("column", "kind", "values"), KEPT, ids=lambda part: str(part)[:30])
def test_simple_columns_are_kept_with_their_values(
    column: pa.Array, kind: str, values: list[Any]
) -> None:
    own = OwnColumns.choose(pa.schema([("mine", column.type)]), ())
    assert (payload_schema(own.schema), own.left_out) == ({"mine": kind}, {})
    stored = to_type(column, own.schema.field("mine").type, "mine")
    assert stored.to_pylist() == values
    assert rows_schema({"mine": kind}).field("mine").type == stored.type
    json.dumps(payload({"mine": stored.to_pylist()}, ["mine"]), allow_nan=False)


@pytest.mark.parametrize("kind", LEFT_OUT, ids=str)
def test_others_are_left_out_and_told(kind: pa.DataType) -> None:
    own = OwnColumns.choose(pa.schema([("a", pa.string()), ("tags", kind)]), ())
    assert (own.schema.names, own.left_out) == (["a"], {"tags": str(kind)})


def test_a_column_without_a_value_is_not_kept() -> None:
    own = OwnColumns.choose(
        pa.schema([("empty", pa.null()), ("of the run", pa.int64())]), ["of the run"]
    )
    assert (len(own.schema), own.left_out) == (0, {})


def test_names_of_the_index_get_a_prefix_and_are_given_back_plain() -> None:
    names = [
        "camera",
        "run",
        "Label",
        "SCORE",
        "payload",
        "Payload.x",
        "with space",
        'a"b',
        "",
        "ß",
    ]
    own = OwnColumns.choose(pa.schema([(name, pa.string()) for name in names]), ())
    stored = own.schema.names
    assert stored == [
        "camera",
        *("payload.run", "payload.Label", "payload.SCORE", "payload.payload", "payload.Payload.x"),
        *("with space", 'a"b', "", "ß"),
    ]
    assert list(payload({name: [1] for name in stored}, stored)[0]) == names


def test_what_json_cannot_hold_is_null() -> None:
    rows = payload({"a": [float("nan"), float("inf"), 0.5]}, ["a"])
    assert rows == [{"a": None}, {"a": None}, {"a": 0.5}]
    assert payload({"detection_id": ["x", "y"]}, []) == [{}, {}]


INT, DOUBLE, TEXT = pa.int64(), pa.float64(), pa.string()


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (TEXT, TEXT, TEXT),
        (pa.int8(), INT, INT),
        (pa.uint8(), pa.int16(), INT),
        (pa.float32(), pa.float32(), pa.float32()),
        (pa.float32(), DOUBLE, DOUBLE),
        (INT, DOUBLE, DOUBLE),
        (pa.uint64(), INT, DOUBLE),
    ],
    ids=str,
)
def test_numbers_of_two_types_have_a_common_one(
    one: pa.DataType, other: pa.DataType, common: pa.DataType
) -> None:
    for first, second in ((one, other), (other, one)):
        schemas = [("a", pa.schema([("x", first)])), ("b", pa.schema([("x", second), ("y", TEXT)]))]
        assert unify(schemas) == pa.schema([("x", common), ("y", TEXT)])


@pytest.mark.parametrize(
    ("one", "other"),
    [(TEXT, INT), (pa.bool_(), INT), (pa.date32(), pa.timestamp("us")), (TEXT, pa.date32())],
    ids=str,
)
def test_types_without_a_common_one_are_refused_with_both_places(
    one: pa.DataType, other: pa.DataType
) -> None:
    said = re.escape(f"'run' is {other} in b and {one} in a")
    with pytest.raises(SnapshotError, match=said) as caught:
        unify(
            [("a", pa.schema([("payload.run", one)])), ("b", pa.schema([("payload.run", other)]))]
        )
    assert "\n" not in str(caught.value)


def test_a_time_that_cannot_be_held_is_refused_by_its_column() -> None:
    far = pa.array([10**13], pa.timestamp("s"))
    with pytest.raises(SnapshotError, match="'mine' is timestamp"):
        to_type(far, pa.timestamp("us"), "mine")


def test_rows_have_the_columns_of_the_index_first() -> None:
    assert is_rows_schema(ROWS_SCHEMA)
    assert is_rows_schema(rows_schema({"camera": "string"}))
    assert not is_rows_schema(pa.schema([("camera", TEXT), *ROWS_SCHEMA]))
