"""The plan of a manifest: a table of Parquet, CSV or JSON Lines with one row a detection."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from common.errors import SourceError, first_line
from common.storage import read_parquet
from pipelines.detections import complete
from pipelines.sources.boxes import BoxesGiven, BoxOptions, read_boxes
from pipelines.sources.column_names import match_names
from pipelines.sources.plan import Plan

MANIFEST_SUFFIXES = frozenset({".parquet", ".csv", ".jsonl", ".ndjson"})

_DEFAULTS = BoxOptions()


def read_manifest(path: Path, options: BoxOptions = _DEFAULTS) -> Plan:
    """The plan of the table in ``path``, with its boxes as they are given.

    Args:
        path: the table.
        options: what the user says of the boxes.

    Raises:
        SourceError: it cannot be read, or its columns are not those of detections.
    """
    given, renamed = match_names(_read_table(path))
    given, units, notes = read_boxes(given, options, str(path))
    table = complete(given, where=str(path), folder=path.stem)
    return Plan(
        table,
        path.parent.resolve(),
        {},
        (*renamed, *notes),
        given=frozenset(given.column_names),
        boxes=BoxesGiven(units, options.frame or "upright"),
    )


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return read_parquet(path)
        if path.suffix.lower() == ".csv":
            # An empty field is null; "nan" stays NaN, which is an invalid box and not a missing one.
            convert = pyarrow.csv.ConvertOptions(
                null_values=[""],
                strings_can_be_null=True,
                column_types={"image": pa.string(), "detection_id": pa.string()},
            )
            with path.open("rb") as stream:
                return pyarrow.csv.read_csv(stream, convert_options=convert)
        with path.open("rb") as stream:
            return pyarrow.json.read_json(stream)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read: {first_line(error)}") from None
