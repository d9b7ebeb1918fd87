"""AMI databases with the companion's tables, filled by code, and a PostgreSQL to put them in."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.helpers.pictures import drawn

METADATA = sa.MetaData()


def _table(name: str, **types: str) -> sa.Table:
    """A table; ``types`` has the names of columns by their type."""
    kinds: dict[str, Any] = {
        "integer": sa.Integer(),
        "text": sa.String(255),
        "time": sa.DateTime(timezone=True),
        "day": sa.Date(),
        "json": sa.JSON(),
        "number": sa.Numeric(asdecimal=False),
        "real": sa.Float(),
        "session": sa.ForeignKey("monitoring_sessions.id"),
        "image": sa.ForeignKey("images.id"),
    }
    columns = [
        sa.Column(each, kinds[kind]) for kind, names in types.items() for each in names.split()
    ]
    return sa.Table(name, METADATA, sa.Column("id", sa.Integer, primary_key=True), *columns)


SESSIONS = _table(
    "monitoring_sessions",
    day="day",
    text="base_directory",
    time="start_time end_time",
    integer="num_images num_detected_objects",
    json="notes",
)
IMAGES = _table(
    "images",
    session="monitoring_session_id",
    text="base_path path",
    time="timestamp last_read last_processed",
    integer="filesize width height num_detected_objects",
    json="notes",
)
DETECTIONS = _table(
    "detections",
    image="image_id",
    session="monitoring_session_id",
    json="bbox notes logits cnn_features",
    integer="area_pixels source_image_width source_image_height source_image_previous_frame "
    "sequence_frame sequence_previous_id",
    text="path specific_label binary_label model_name sequence_id",
    time="timestamp last_detected",
    number="specific_label_score binary_label_score",
    real="sequence_previous_cost ood_score",
)

NIGHT = datetime(2022, 6, 21, 22, 0)
SIZE = (160, 120)


def fill(
    url: str, base: Path, *, frames: int = 5, boxes: int = 2, empty: tuple[int, ...] = (2,)
) -> None:
    """Two cameras a night each, whose pictures stand below ``base``.

    Each image has ``boxes`` detections, but for the frames ``empty``. Image ids run against time,
    and detection ids from 1 through the images in the order of time.
    """
    engine = sa.create_engine(url)
    METADATA.create_all(engine)
    with engine.begin() as connection:
        detection = 1
        for session, camera in enumerate(("north", "south"), start=1):
            folder = base / camera
            folder.mkdir(parents=True, exist_ok=True)
            about = {"id": session, "day": date(2022, 6, 21), "base_directory": str(folder)}
            connection.execute(SESSIONS.insert().values(about))
            for frame in range(frames):
                name, image = f"shot{frame}.jpg", session * 100 - frame
                time = NIGHT + timedelta(minutes=frame)
                drawn(frame + 50 * session, width=SIZE[0], height=SIZE[1]).save(folder / name)
                connection.execute(
                    IMAGES.insert().values(
                        id=image,
                        monitoring_session_id=session,
                        base_path=str(folder),
                        path=name,
                        timestamp=time,
                    )
                )
                for box in range(0 if frame in empty else boxes):
                    left = 5 + 60 * box + 2 * frame
                    connection.execute(
                        DETECTIONS.insert().values(
                            id=detection,
                            image_id=image,
                            monitoring_session_id=session,
                            bbox=[left, 10, left + 50, 70 + box],
                            path=str(folder / f"crop{detection}.jpg"),
                            timestamp=time,
                            specific_label="Noctua pronuba",
                            specific_label_score=0.5,
                            binary_label="moth",
                            binary_label_score=0.75,
                        )
                    )
                    detection += 1
    engine.dispose()


def change(url: str, *statements: str | sa.Executable) -> None:
    """Do something to a database, committed."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement) if isinstance(statement, str) else statement)
    engine.dispose()


def stored(url: str, *columns: str) -> dict[int, dict[str, Any]]:
    """What detections hold now, by id."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        select = sa.select(*(DETECTIONS.c[name] for name in ("id", *columns)))
        rows = {row.id: dict(row._mapping) for row in connection.execute(select)}
    engine.dispose()
    return rows
