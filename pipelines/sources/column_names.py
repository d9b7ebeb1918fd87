"""Columns whose names differ from those of detections by case or spaces alone."""

from __future__ import annotations

import pyarrow as pa

from pipelines.detections import BOX, PLAN_SCHEMA

_NAMES = [name for name in PLAN_SCHEMA.names if name not in (*BOX, "row_id")]


def match_names(table: pa.Table) -> tuple[pa.Table, tuple[str, ...]]:
    """A table with such columns renamed, and a remark on each.

    Those of boxes are another matter: ``sources/boxes.py``.

    Args:
        table: of a manifest, as it was read.
    """
    names, notes = list(table.column_names), []
    for contract_name in _NAMES:
        same = [name for name in names if name.strip().casefold() == contract_name]
        if len(same) == 1 and same[0] != contract_name:
            names[names.index(same[0])] = contract_name
            notes.append(f"column {same[0]!r} is read as {contract_name!r}")
    return table.rename_columns(names), tuple(notes)
