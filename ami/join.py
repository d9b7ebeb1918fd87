"""The rows of a run joined with the database's rows, a bounded number at a time.

An id alone does not identify a detection: the companion deletes those of an image that it processes
again, and SQLite gives freed ids to new ones. So image and box are compared as well. The database has
boxes in stored pixels and a run in those of the upright image, which differ where EXIF rotates it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow.compute as pc
import sqlalchemy as sa
from numpy.typing import NDArray

from common.errors import RunError
from common.moved import ImageRoot
from common.parquet import open_parquet
from pipelines.detections import BOX
from pipelines.embeddings import matrix
from pipelines.images.errors import ImageError
from pipelines.images.header import ImageHeader, read_header
from pipelines.run import Run
from pipelines.sources.database.plan import box_of
from pipelines.sources.database.schema import Tables

CHUNK_ROWS = 500
"""Rows of a chunk: the parameters of one SELECT, and the updates of one transaction."""

NAMED = 5
"""Detections that a ``DetectionCount`` names."""


@dataclass
class DetectionCount:
    """Number of some detections, and the ids of the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(name)

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.first) else ""
        return f"{', '.join(self.first)}{more}"


@dataclass(frozen=True)
class RowPair:
    """A row of the run and the database's row with the same id."""

    key: Any  # the database's id
    run_row: dict[str, Any]  # columns of the run, without the embedding
    embedding: NDArray[np.float32]  # [D] float32; NaN where the row has an error
    stored: sa.Row[Any] | None  # the database's row; None where it was deleted
    # Whether its image or box is another by now, so that it is another detection.
    changed: bool = False


def require_source(run: Run, name: str) -> None:
    """Check that every row of a run was read from the database ``name``.

    Raises:
        RunError: one was not.
    """
    with open_parquet(run.check(run.files()[0])) as parquet:
        columns = parquet.schema_arrow.names
    if "database" not in columns:
        raise RunError(
            f"{run.path} was not extracted from a database but from {run.manifest.source}; its ids "
            f"mean nothing in {name}"
        )
    databases: set[str | None] = set()
    for batch in run.iter_batches(65536, columns=["database"]):
        databases.update(pc.unique(batch["database"]).to_pylist())
    if databases != {name}:
        others = ", ".join(sorted(map(str, databases - {name})))
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
    """Every row of the run with the database's row, ``CHUNK_ROWS`` at a time.

    Args:
        run: extracted from this database.
        connection: to the database.
        tables: of the database.
        columns: of the run to read, besides id, image, box, embedding and error.
        stored: columns of the database's detections to read, besides id, image and box.
        lock: prevent others from changing these detections until the transaction ends.

    Raises:
        RunError: an id that cannot be one of this database.
    """
    detections = tables.detections.c
    read = ["detection_id", "image", "database_image_id", *BOX, "error", "embedding", *columns]
    for batch in run.iter_batches(CHUNK_ROWS, columns=read):
        ids = batch["detection_id"].to_pylist()
        keys = [tables.key(detection_id) for detection_id in ids]
        if None in keys:
            raise RunError(
                f"{run.path}: detection {ids[keys.index(None)]!r} has no id of an AMI database"
            )
        names = dict.fromkeys(("id", "image_id", "bbox", *stored))
        select = sa.select(*(detections[name] for name in names)).where(detections.id.in_(keys))
        select = select.with_for_update() if lock else select  # SQLite ignores it: it locks files
        stored_rows = {row.id: row for row in connection.execute(select)}
        run_rows = batch.drop_columns(["embedding"]).to_pylist()
        chunk = []
        for key, row, vector in zip(keys, run_rows, matrix(batch["embedding"]), strict=True):
            stored_row = stored_rows.get(key)
            changed = stored_row is not None and not _same_detection(stored_row, row, run)
            chunk.append(RowPair(key, row, vector, stored_row, changed))
        yield chunk


def _same_detection(stored: sa.Row[Any], run_row: dict[str, Any], run: Run) -> bool:
    """Whether image and box are those of the run's row; not checked for rows with an error."""
    if run_row["error"] is not None:
        return True
    try:
        stored_box = np.array(box_of(stored.bbox), np.float32)
    except ImageError:
        return False
    box = np.array([run_row[side] for side in BOX], np.float32)
    if str(stored.image_id) != run_row["database_image_id"]:
        return False
    return np.array_equal(stored_box, box) or np.array_equal(
        _to_upright(stored_box, run_row["image"], run), box
    )


def _to_upright(box: NDArray[np.float32], image: str, run: Run) -> NDArray[np.float32]:
    """A box in stored pixels as the run has it; as it was where the image cannot be read."""
    header = _header(run.images, image)
    if header is None:
        return box
    turned: NDArray[np.float32] = header.to_upright(box[None].astype(np.float64))[0].astype(
        np.float32
    )
    return turned


@lru_cache(maxsize=1)  # rows of one image are neighbours
def _header(images: ImageRoot, image: str) -> ImageHeader | None:
    try:
        return read_header(images, image)
    except ImageError:
        return None


def features_of(raw: object) -> NDArray[np.float64]:
    """The numbers of a ``cnn_features``: a list, or one as JSON text.

    Raises:
        ValueError: it is no list of finite numbers that are not all zero; the reason in a few words.
    """
    parsed = _parsed(raw) if isinstance(raw, str | bytes) else raw
    if not isinstance(parsed, list):
        raise ValueError("no list")
    if not parsed:
        raise ValueError("empty")
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in parsed):
        raise ValueError("not numbers")
    values = np.array(parsed, np.float64)
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
            return json.loads(text)  # NaN is not JSON, but Python's json writes it
        except ValueError:
            raise ValueError("no JSON") from None


def is_null(raw: object) -> bool:
    """Whether a JSON column holds SQL's NULL or JSON's null."""
    return raw is None or raw in ("null", b"null")
