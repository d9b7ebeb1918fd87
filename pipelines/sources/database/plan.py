"""From an AMI database to a plan: one row per detection, with its frame in the session.

A sequence is a monitoring session of one deployment. Its frames count every image of the session,
also those without a detection: a moth that is missed in two images is missed in two frames. A
detection whose box or image cannot be used is a row with an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from common.errors import SourceError
from pipelines.detections import BOX, complete
from pipelines.frame_numbers import number_frames
from pipelines.images.errors import ImageError
from pipelines.sources.database.connect import name_of, open_database
from pipelines.sources.database.schema import PREFIX, Tables, read_tables
from pipelines.times import iso_time

CHUNK_ROWS = 5000
NO_IMAGE = "(no image)"

PASSED_COLUMNS = {
    "path": ("crop_path", pa.string()),
    "specific_label": ("specific_label", pa.string()),
    "specific_label_score": ("specific_label_score", pa.float64()),
    "binary_label": ("binary_label", pa.string()),
    "binary_label_score": ("binary_label_score", pa.float64()),
    "sequence_id": ("sequence_id", pa.string()),
}
"""Optional columns of detections that are copied into the run: their name and type there."""

ONLY_IN_WHERE = ("deployment", "night")
"""Columns of a plan for choosing rows by; both are in ``sequence`` already."""


def plan_database(url: str, report: Callable[[int, int], None]) -> tuple[pa.Table, tuple[str, ...]]:
    """The plan of every detection, in the order of images and ids.

    Args:
        url: an SQLAlchemy URL.
        report: receives detections read and detections in all.

    Returns:
        A complete detections table with ``database``, ``database_id`` and
        ``database_image_id``, those of ``PASSED_COLUMNS`` that exist, those of ``ONLY_IN_WHERE``,
        and ``error``; notes for people.

    Raises:
        SourceError: the database cannot be read, is not an AMI database, or has no detections.
        WorkError: it is locked, or failed while it was read.
    """
    name = name_of(url)
    with open_database(url) as connection:
        tables = read_tables(connection, url)
        total = _count(connection, tables.detections)
        if total == 0:
            raise SourceError(f"{name} holds no detections; there is nothing to extract")
        reader = _Reader(name, tables, connection)
        parts = []
        done = 0
        for part in reader.parts():
            parts.append(part)
            done += part.num_rows
            report(done, total)
        notes = tuple(reader.notes())
    table = complete(pa.concat_tables(parts), where=name)
    return table.rename_columns({"problem": "error"}), notes


def _count(connection: sa.Connection, table: sa.FromClause) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


class _Reader:
    def __init__(self, name: str, tables: Tables, connection: sa.Connection) -> None:
        self._name = name
        self._tables = tables
        self._connection = connection
        self._deployments: dict[str, str] = {}
        self._frames: dict[Any, int] = {}
        self._order_notes: list[str] = []
        self._unread_times = 0
        present = tables.detections.c
        self._passed = {new: kind for old, (new, kind) in PASSED_COLUMNS.items() if old in present}
        ids = pa.int64() if tables.whole_ids else pa.string()
        self._schema = pa.schema(
            [
                ("detection_id", pa.string()),
                ("image", pa.string()),
                *((corner, pa.float32()) for corner in BOX),
                ("sequence", pa.string()),
                ("timestamp", pa.timestamp("us")),
                ("frame", pa.int64()),
                ("database", pa.string()),
                ("database_id", ids),
                ("database_image_id", pa.string()),
                *self._passed.items(),
                ("deployment", pa.string()),
                ("night", pa.date32()),
                ("problem", pa.string()),
            ]
        )

    def parts(self) -> Iterator[pa.Table]:
        images = self._tables.images.c
        if "base_path" in images:
            bases = self._connection.execute(sa.select(images.base_path).distinct()).scalars()
            self._deployments = deployment_names(str(base) for base in bases if base is not None)
        self._frames = self._number_images()
        rows = self._connection.execute(self._query().execution_options(yield_per=CHUNK_ROWS))
        for chunk in rows.partitions():
            yield pa.Table.from_pylist([self._row(row) for row in chunk], schema=self._schema)

    def _query(self) -> sa.Select[Any]:
        """Detections with their image, its frame, and its session; rows come image by image."""
        detections, sessions = self._tables.detections, self._tables.sessions
        images = self._images()
        session: sa.ColumnElement[Any] = images.c.session
        if "monitoring_session_id" in detections.c:
            session = sa.func.coalesce(session, detections.c.monitoring_session_id)
        joined = detections.outerjoin(images, images.c.id == detections.c.image_id)
        of_session: list[sa.ColumnElement[Any]] = []
        if sessions is not None:
            joined = joined.outerjoin(sessions, sessions.c.id == session)
            columns = {"day": "day", "base_directory": "directory"}
            of_session = [
                sa.cast(sessions.c[old], sa.Text).label(new)
                for old, new in columns.items()
                if old in sessions.c
            ]
        return (
            sa.select(
                detections.c.id,
                detections.c.image_id,
                detections.c.bbox,
                images.c.timestamp,
                session.label("session"),
                images.c.id.label("joined_image"),
                images.c.path.label("image_path"),
                images.c.base,
                *of_session,
                *(
                    detections.c[old].label(new)
                    for old, (new, _) in PASSED_COLUMNS.items()
                    if old in detections.c
                ),
            )
            .select_from(joined)
            .order_by(detections.c.image_id, detections.c.id)
        )

    def _images(self) -> sa.Subquery:
        images = self._tables.images.c
        base = images.get("base_path")
        return sa.select(
            images.id,
            images.path,
            (sa.null() if base is None else base).label("base"),
            images.monitoring_session_id.label("session"),
            # PostgreSQL has times that Python has not, as 'infinity'; as text they fail no query.
            sa.cast(images.timestamp, sa.Text).label("timestamp"),
        ).subquery("images")

    def _number_images(self) -> dict[Any, int]:
        """The frame of every image of every session, by its id: by time, then by natural name."""
        images = self._images()
        rows = self._connection.execute(sa.select(images).execution_options(yield_per=CHUNK_ROWS))
        ids: list[Any] = []
        sequences, names, times = list[str](), list[str](), list[datetime | None]()
        for row in rows:
            ids.append(row.id)
            sequences.append(f"{row.session}/{row.base}")
            names.append(f"{row.path}\0{row.id}")  # two images may have one path
            times.append(iso_time(row.timestamp or ""))
        if not ids:
            return {}
        keys = pa.table(
            {
                "sequence": pa.array(sequences, pa.string()),
                "image": pa.array(names, pa.string()),
                "timestamp": pa.array(times, pa.timestamp("us")),
            }
        )
        return dict(
            zip(ids, number_frames(keys, self._order_notes.append).to_pylist(), strict=True)
        )

    def _row(self, row: sa.Row[Any]) -> dict[str, Any]:
        values = row._mapping
        base = values["base"] if values["base"] is not None else values.get("directory")
        image, box, problem = NO_IMAGE, None, None
        try:
            if values["joined_image"] is None or not values["image_path"]:
                why = "it names none" if row.image_id is None else f"{row.image_id} is not there"
                raise ImageError("no image", why)
            image = str(PurePosixPath(str(base or ""), str(values["image_path"])))
            box = box_of(row.bbox)
        except ImageError as error:
            problem = f"{error} [{image}]"
        columns: dict[str, Any] = {
            "detection_id": f"{PREFIX}{row.id}",
            "image": image,
            **dict(zip(BOX, box or (None,) * 4, strict=True)),
            "sequence": self._sequence(base, values.get("day"), row.session),
            "deployment": self._deployment(base),
            "night": _date(values.get("day")),
            "timestamp": self._time(row.timestamp),
            "frame": self._frames.get(row.joined_image),
            "database": self._name,
            "database_id": row.id if self._tables.whole_ids else str(row.id),
            "database_image_id": _text(row.image_id),
            "problem": problem,
        }
        for name, kind in self._passed.items():
            columns[name] = _text(values[name]) if kind == pa.string() else _number(values[name])
        return columns

    def _sequence(self, base: object, day: object, session: object) -> str:
        when = "" if day is None else str(day)[:10].replace("-", "") + "-"
        return f"{self._deployment(base)}/{when}{'no-session' if session is None else session}"

    def _deployment(self, base: object) -> str:
        known = self._deployments.get(_clean(str(base or "")))
        return known if known is not None else PurePosixPath(str(base or "")).name or "deployment"

    def _time(self, raw: str | None) -> datetime | None:
        time = iso_time(raw or "")
        self._unread_times += raw is not None and time is None
        return time

    def notes(self) -> Iterator[str]:
        """Remarks for people, once all parts are read."""
        yield from self._order_notes
        images, detections = self._tables.images, self._tables.detections
        total = _count(self._connection, images)
        # The companion has no index on image_id, so one join over all detections, not one an image.
        same_image = images.c.id == detections.c.image_id
        used = sa.select(detections.c.image_id).join(images, same_image).distinct()
        without = total - _count(self._connection, used.subquery())
        if without:
            yield f"{without} of {total} images have no detections; they count as frames"
        if self._unread_times:
            yield f"{self._unread_times} detections have an invalid timestamp; it is left out"


def box_of(raw: object) -> tuple[float, float, float, float]:
    """The corners in a ``bbox``: a list, or its JSON text.

    Raises:
        ImageError: not four finite numbers.
    """
    if isinstance(raw, str | bytes):
        try:
            raw = json.loads(raw)
        except ValueError:
            raise ImageError("unreadable box", f"{raw!r:.60} is no JSON") from None
    if raw is None:
        raise ImageError("no box", "bbox is null")
    if not isinstance(raw, list) or len(raw) != 4:
        raise ImageError("incomplete box", f"{raw!r:.60}, not [x1, y1, x2, y2]")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in raw):
        raise ImageError("box not numbers", f"{raw!r:.60}")
    x1, y1, x2, y2 = (float(value) for value in raw)
    if not all(math.isfinite(value) for value in (x1, y1, x2, y2)):
        raise ImageError("box not finite", f"{raw!r:.60}")
    return x1, y1, x2, y2


def deployment_names(bases: Iterable[str]) -> dict[str, str]:
    """A unique name for each folder of images: as few of its last parts as possible."""
    parts = {clean: PurePosixPath(clean).parts for clean in {_clean(base) for base in bases}}
    names: dict[str, str] = {}
    for base, own in parts.items():
        for depth in range(1, len(own) + 1):
            same_end = sum(other[-depth:] == own[-depth:] for other in parts.values())
            if same_end == 1 or depth == len(own):
                break
        names[base] = "/".join(own[-depth:]).strip("/") if own else "deployment"
    return names


def _clean(base: str) -> str:
    return str(PurePosixPath(base))


def _date(raw: object) -> date | None:
    try:
        return date.fromisoformat(str(raw)[:10])
    except ValueError:
        return None


def _text(raw: object) -> str | None:
    return None if raw is None else str(raw)


def _number(raw: Any) -> float | None:
    try:
        return None if raw is None else float(raw)
    except (TypeError, ValueError):
        return None
