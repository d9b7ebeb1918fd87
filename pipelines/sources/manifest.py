"""The plan of a manifest: a table of Parquet, CSV or JSON Lines with one row a detection."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from common.errors import DamagedFileError, SourceError, first_line
from common.parquet import open_parquet, read_parquet
from common.storage import is_remote
from common.text import GUESSED, decode
from pipelines.detections import PLAN_SCHEMA, complete, refuse_repeated
from pipelines.sources.boxes import BoxesGiven, BoxOptions, read_boxes
from pipelines.sources.column_names import match_names
from pipelines.sources.column_types import infer_type, read_numbers
from pipelines.sources.plan import Plan

MANIFEST_SUFFIXES = frozenset({".parquet", ".csv", ".tsv", ".jsonl", ".ndjson"})

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_EXCEL_SEPARATOR = re.compile(r"\Asep=(.)\r?\n")
_BLOCK_BYTES = 16 * 2**20  # of JSON or CSV read at once; a row must fit
_TEXTS = frozenset(f.name for f in PLAN_SCHEMA if f.type == pa.string()) | {"timestamp"}

_DEFAULTS = BoxOptions()


def read_manifest(path: Path, options: BoxOptions = _DEFAULTS) -> Plan:
    """The plan of the table in ``path``, with its boxes as they are given.

    Args:
        path: the table.
        options: what the user says of the boxes.

    Raises:
        SourceError: it cannot be read, or its columns are not those of detections.
    """
    notes: list[str] = []
    given, renamed = match_names(read_table(path, notes.append))
    given, units, remarks = read_boxes(given, options, str(path))
    notes += [*renamed, *remarks]
    empty = given["frame"].null_count if "frame" in given.column_names else 0
    if 0 < empty < given.num_rows:
        raise SourceError(
            f"{path}: {empty} of {given.num_rows} rows have no 'frame'; fill it in everywhere, or leave "
            "the column out to have images numbered by time and name"
        )
    table = complete(given, where=str(path), folder=path.stem, note=notes.append)
    columns = zip(given.column_names, given.columns, strict=True)
    filled = frozenset(name for name, column in columns if column.null_count < len(column))
    return Plan(
        table,
        path.parent.resolve(),
        {},
        tuple(notes),
        given=filled | {"image"},
        boxes=BoxesGiven(units, options.frame or "upright"),
    )


def read_table(path: Path, note: Callable[[str], None] = lambda text: None) -> pa.Table:
    """A table of Parquet, CSV or JSON Lines; text stays text.

    Args:
        path: its suffix says which.
        note: receives what was not plain about the file.

    Raises:
        SourceError: it cannot be read.
    """
    if not is_remote(path) and not path.is_file():  # to open a pipe waits for who writes into it
        raise SourceError(f"{path} is no file; give a manifest or a folder of images")
    try:
        if path.suffix.lower() == ".parquet":
            with open_parquet(path) as parquet:
                refuse_repeated(parquet.schema_arrow.names, str(path))
            return read_parquet(path)
        text, encoding = decode(path.read_bytes())
        if encoding == GUESSED:
            note(f"{path.name} is not UTF-8 and was read as Latin-1")
        if path.suffix.lower() in (".csv", ".tsv"):
            return _read_csv(text, note)
        return _read_json_lines(text)
    except DamagedFileError as error:
        raise SourceError(f"{path} cannot be read: {error.reason}") from None
    except (pa.ArrowException, OSError, ValueError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read: {first_line(error)}") from None


def _read_csv(text: str, note: Callable[[str], None]) -> pa.Table:
    text = text.lstrip("\r\n")
    separator = _separator(text)
    text = re.sub(_EXCEL_SEPARATOR, "", text)
    if separator != ",":
        note(f"columns are separated by {_SEPARATORS[separator]}")
    ragged: list[str] = []

    def refuse(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(
            f"row {row.number}, counted with the header, has {row.actual_columns} values in place "
            f"of {row.expected_columns}: {row.text[:60]!r}"
        )
        return "error"

    names = next(csv.reader(io.StringIO(text, newline=None), delimiter=separator), [])
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text.encode()),
            # Rows are counted only by one thread.
            pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            pyarrow.csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, invalid_row_handler=refuse
            ),
            # All as text first: types are those of the whole column, and 001 is not 1. An empty
            # field is null; "nan" stays NaN, which is an invalid box and not a missing one.
            pyarrow.csv.ConvertOptions(
                null_values=[""],
                strings_can_be_null=True,
                column_types={name: pa.string() for name in names},
            ),
        )
    except pa.ArrowException:
        if ragged:
            raise ValueError(ragged[0]) from None
        raise
    if table.column_names and not table.column_names[-1] and table[-1].null_count == len(table):
        table = table.remove_column(table.num_columns - 1)  # each line ends in a separator

    def typed(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        plain = name.strip().casefold()  # as ``match_names`` knows it
        if plain in _TEXTS:
            return column
        # Contract columns have types of their own.
        read = read_numbers if plain in PLAN_SCHEMA.names else infer_type
        return read(name, column, decimal_comma=separator != ",", note=note)

    columns = [typed(*each) for each in zip(table.column_names, table.columns, strict=True)]
    return pa.table(columns, table.column_names)


def _separator(text: str) -> str:
    """What separates the columns: what makes one of them ``image``, or else the most of them."""
    if (named := _EXCEL_SEPARATOR.match(text)) and named[1] in _SEPARATORS:
        return named[1]
    line = re.split(r"[\r\n]", text, maxsplit=1)[0]
    headers = {
        separator: next(csv.reader([line], delimiter=separator), []) for separator in _SEPARATORS
    }
    return max(
        _SEPARATORS,
        key=lambda separator: (
            "image" in (name.strip() for name in headers[separator]),
            len(headers[separator]),
        ),
    )


def _read_json_lines(text: str) -> pa.Table:
    options = pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES)
    data = pa.py_buffer(text.encode())
    table = pyarrow.json.read_json(pa.BufferReader(data), options)
    texts = [pa.field(f.name, _as_text(f.type)) for f in table.schema]
    if any(
        kind != field.type
        for kind, field in zip((f.type for f in texts), table.schema, strict=True)
    ):
        # Arrow takes text that looks like a time for one.
        parse = pyarrow.json.ParseOptions(explicit_schema=pa.schema(texts))
        table = pyarrow.json.read_json(pa.BufferReader(data), options, parse)
    return table


def _as_text(kind: pa.DataType) -> pa.DataType:
    """A type with text in place of times."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_as_text(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _as_text(f.type)) for f in kind])
    return kind
