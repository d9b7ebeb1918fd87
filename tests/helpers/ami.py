"""AMI databases with the companion's tables, filled by code, and a PostgreSQL to put them in."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.helpers.pictures import drawn

METADATA = sa.MetaData()

SESSIONS = sa.Table(
    "monitoring_sessions",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("day", sa.Date),
    sa.Column("base_directory", sa.String(255)),
    sa.Column("start_time", sa.DateTime(timezone=True)),
    sa.Column("end_time", sa.DateTime(timezone=True)),
    sa.Column("num_images", sa.Integer),
    sa.Column("num_detected_objects", sa.Integer),
    sa.Column("notes", sa.JSON),
)

IMAGES = sa.Table(
    "images",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("monitoring_session_id", sa.ForeignKey("monitoring_sessions.id")),
    sa.Column("base_path", sa.String(255)),
    sa.Column("path", sa.String(255)),
    sa.Column("timestamp", sa.DateTime(timezone=True)),
    sa.Column("filesize", sa.Integer),
    sa.Column("last_read", sa.DateTime),
    sa.Column("last_processed", sa.DateTime),
    sa.Column("in_queue", sa.Boolean, default=False),
    sa.Column("notes", sa.JSON),
    sa.Column("width", sa.Integer),
    sa.Column("height", sa.Integer),
    sa.Column("num_detected_objects", sa.Integer),
)

DETECTIONS = sa.Table(
    "detections",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("image_id", sa.ForeignKey("images.id")),
    sa.Column("monitoring_session_id", sa.ForeignKey("monitoring_sessions.id")),
    sa.Column("bbox", sa.JSON),
    sa.Column("area_pixels", sa.Integer),
    sa.Column("path", sa.String(255)),
    sa.Column("timestamp", sa.DateTime(timezone=True)),
    sa.Column("source_image_width", sa.Integer),
    sa.Column("source_image_height", sa.Integer),
    sa.Column("source_image_previous_frame", sa.Integer),
    sa.Column("specific_label", sa.String(255)),
    sa.Column("specific_label_score", sa.Numeric(asdecimal=False)),
    sa.Column("binary_label", sa.String(255)),
    sa.Column("binary_label_score", sa.Numeric(asdecimal=False)),
    sa.Column("last_detected", sa.DateTime),
    sa.Column("model_name", sa.String(255)),
    sa.Column("in_queue", sa.Boolean, default=False),
    sa.Column("notes", sa.JSON),
    sa.Column("sequence_id", sa.String(255)),
    sa.Column("sequence_frame", sa.Integer),
    sa.Column("sequence_previous_id", sa.Integer),
    sa.Column("sequence_previous_cost", sa.Float),
    sa.Column("logits", sa.JSON),
    sa.Column("cnn_features", sa.JSON),
    sa.Column("ood_score", sa.Float),
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
        chosen = [DETECTIONS.c[name] for name in ("id", *columns)]
        found = {row.id: dict(row._mapping) for row in connection.execute(sa.select(*chosen))}
    engine.dispose()
    return found
