"""The tables of an AMI database: some columns are required, others optional.

Values are taken as the driver gives them, whatever type a column was declared with, because one
invalid value must fail its row and not the whole read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import NoSuchTableError

from common.errors import SourceError
from pipelines.sources.database.connect import name_of

PREFIX = "ami:"
"""Detection ids of a database are this prefix and its own ids."""

NEEDED = {
    "detections": ("id", "image_id", "bbox"),
    "images": ("id", "path", "timestamp", "monitoring_session_id"),
}


@dataclass(frozen=True)
class Tables:
    """The tables of a database that onepass reads.

    Attributes:
        detections, images: with untyped columns, except the id of detections.
        sessions: monitoring sessions; None where there is no such table.
        types: of the columns of detections, as declared.
    """

    detections: sa.TableClause
    images: sa.TableClause
    sessions: sa.TableClause | None
    types: Mapping[str, sa.types.TypeEngine[Any]]

    def key(self, detection_id: str) -> Any:
        """A detection id as the database's own; None where it cannot be one of them."""
        _, marked, text = detection_id.partition(PREFIX)  # after the run's own ``id_prefix``
        if not marked:
            return None
        kind = self.types["id"]
        try:
            return int(text) if _is_integer(kind) else kind.python_type(text)
        except ValueError:
            return None

    @property
    def whole_ids(self) -> bool:
        """Whether ids are whole numbers."""
        return _is_integer(self.types["id"])


def _is_integer(kind: sa.types.TypeEngine[Any]) -> bool:
    return isinstance(kind, sa.Integer | sa.types.NullType)


def read_tables(connection: sa.Connection, url: str) -> Tables:
    """Reflect the tables and their columns.

    Raises:
        SourceError: a required table or column is missing.
    """
    inspector = sa.inspect(connection)
    columns: dict[str, dict[str, sa.types.TypeEngine[Any]]] = {}
    for table in (*NEEDED, "monitoring_sessions"):
        try:
            columns[table] = {c["name"]: c["type"] for c in inspector.get_columns(table)}
        except NoSuchTableError:
            if table in NEEDED:
                raise SourceError(
                    f"{name_of(url)} has no table {table!r} (it has "
                    f"{', '.join(sorted(inspector.get_table_names())) or 'none'}); "
                    "is it an AMI database?"
                ) from None
            continue
        missing = [name for name in NEEDED.get(table, ("id",)) if name not in columns[table]]
        if missing:
            raise SourceError(
                f"{name_of(url)}: table {table!r} has no column {missing[0]!r} (it has "
                f"{', '.join(columns[table])})"
            )
    # The id is typed, because it is compared with our values; other columns stay untyped.
    ids = {"detections": columns["detections"]["id"]}
    tables = {
        table: sa.table(
            table,
            *(sa.column(n, ids.get(table) if n == "id" else None) for n in names),
        )
        for table, names in columns.items()
    }
    return Tables(
        tables["detections"],
        tables["images"],
        tables.get("monitoring_sessions"),
        columns["detections"],
    )
