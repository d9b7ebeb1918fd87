"""The rows of a run beside the database's own, a bounded number at a time.

An id alone does not tell a detection: the companion deletes those of an image that it looks at
again, and SQLite gives freed ids to new ones. So image and box are compared as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow.compute as pc
import sqlalchemy as sa
from numpy.typing import NDArray

from common.errors import RunError
from common.storage import open_parquet
from pipelines.detections import BOX
from pipelines.images.pixels import ImageError
from pipelines.run import Run
from pipelines.sources.database.plan import box_of
from pipelines.sources.database.schema import Tables

CHUNK_ROWS = 500
"""Rows at once: the parameters of one SELECT, and what one transaction writes."""

NAMED = 5
"""Detections that are named; the others are counted."""


@dataclass
class DetectionCount:
    """How many, and the first of them by name."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(name)

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.first) else ""
        return f"{', '.join(self.first)}{more}"


@dataclass(frozen=True)
class RowPair:
    """A row of the run and the database's own of the same detection."""

    key: Any  # the database's id
    ours: dict[str, Any]  # the embedding apart
    embedding: NDArray[np.float32]  # NaN where the row has an error
    theirs: sa.Row[Any] | None  # None: gone
    other: bool = False  # the id is another detection's by now


def require_source(run: Run, name: str) -> None:
    """See that every row of a run came out of the database ``name``.

    Raises:
        RunError: it did not.
    """
    with open_parquet(run.files()[0]) as parquet:
        columns = parquet.schema_arrow.names
    if "database" not in columns:
        raise RunError(
            f"{run.path} was not extracted from a database but from {run.manifest.source}; its ids "
            f"mean nothing in {name}"
        )
    seen: set[str | None] = set()
    for batch in run.batches(["database"], batch_rows=65536):
        seen.update(pc.unique(batch["database"]).to_pylist())
    if seen != {name}:
        others = ", ".join(sorted(str(one) for one in seen - {name}))
        raise RunError(
            f"{run.path} was extracted from {others}, not from {name}: the same id may be another "
            "detection there"
        )


def read_pairs(
    run: Run,
    connection: sa.Connection,
    tables: Tables,
    *,
    columns: Sequence[str],
    stored: Sequence[str],
    lock: bool = False,
) -> Iterator[list[RowPair]]:
    """Every row of the run beside the database's, ``CHUNK_ROWS`` at a time.

    Args:
        run: extracted from this database.
        connection: of the database.
        tables: of the database.
        columns: wanted of the run, beside its id, place, embedding and error.
        stored: wanted of detections.
        lock: keep others from changing these detections until the transaction ends.

    Raises:
        RunError: an id that cannot be one of this database.
    """
    found = tables.detections.c
    wanted = ["detection_id", "database_image_id", *BOX, "error", "embedding", *columns]
    for batch in run.batches(wanted, batch_rows=CHUNK_ROWS):
        names = batch["detection_id"].to_pylist()
        keys = [tables.key(name) for name in names]
        if None in keys:
            raise RunError(
                f"{run.path}: detection {names[keys.index(None)]!r} has no id of an AMI database"
            )
        names_there = dict.fromkeys(("id", "image_id", "bbox", *stored))
        asked = sa.select(*(found[name] for name in names_there)).where(found.id.in_(keys))
        asked = asked.with_for_update() if lock else asked  # SQLite locks the file, and ignores it
        theirs = {row.id: row for row in connection.execute(asked)}
        ours = batch.drop_columns(["embedding"]).to_pylist()
        flat = batch["embedding"].flatten().to_numpy()
        rows = flat.reshape(batch.num_rows, -1)
        yield [
            RowPair(key, mine, row, its, its is not None and not _same_detection(its, mine))
            for key, mine, row, its in zip(
                keys, ours, rows, (theirs.get(key) for key in keys), strict=True
            )
        ]


def _same_detection(theirs: sa.Row[Any], ours: dict[str, Any]) -> bool:
    """Whether a stored detection is in the image and box of a row; of a failed row it is."""
    if ours["error"] is not None:
        return True
    try:
        box = np.array(box_of(theirs.bbox), np.float32)
    except ImageError:
        return False
    mine = np.array([ours[corner] for corner in BOX], np.float32)
    return str(theirs.image_id) == ours["database_image_id"] and np.array_equal(box, mine)


def features_of(raw: object) -> NDArray[np.float64]:
    """Numbers in a ``cnn_features``: a list, or the text of one in JSON.

    Raises:
        ValueError: it is no list of finite numbers with one that is not zero; why, in a few words.
    """
    found = _parsed(raw) if isinstance(raw, str | bytes) else raw
    if not isinstance(found, list):
        raise ValueError("no list")
    if not found:
        raise ValueError("empty")
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in found):
        raise ValueError("not numbers")
    values = np.array(found, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("not finite")
    if not values.any():
        raise ValueError("all zero")
    return values


def _parsed(text: str | bytes) -> object:
    try:
        return orjson.loads(text)
    except ValueError:
        try:
            return json.loads(text)  # NaN is no JSON, but Python's own json writes it
        except ValueError:
            raise ValueError("no JSON") from None


def is_null(raw: object) -> bool:
    """Whether a column of JSON holds nothing: SQL's NULL, or JSON's."""
    return raw is None or raw in ("null", b"null")
