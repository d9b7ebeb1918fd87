"""Real frames of a trap in a database: the same crops as from a manifest, and their tracks back."""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from ami.write_back import write_database
from pipelines.detections import BOX
from pipelines.extract import extract
from pipelines.run import Run
from tests.helpers.ami import DETECTIONS, IMAGES, METADATA, SESSIONS, stored
from tests.helpers.runs import make_config
from tracks.link import link_run
from tracks.store import read_tracks


def fill(url: str, trap: Path) -> list[dict[str, str]]:
    """The trap's manifest as the companion would hold it; detection n is its line n, from 0."""
    with (trap / "detections.csv").open() as file:
        lines = list(csv.DictReader(file))
    sessions = {name: n for n, name in enumerate(dict.fromkeys(line["sequence"] for line in lines))}
    images = {name: n for n, name in enumerate(dict.fromkeys(line["image"] for line in lines))}
    taken = {line["image"]: datetime.fromisoformat(line["timestamp"]) for line in lines}
    session_of = {line["image"]: sessions[line["sequence"]] for line in lines}
    engine = sa.create_engine(url)
    METADATA.create_all(engine)
    with engine.begin() as connection:
        for name, number in sessions.items():
            row = {"id": number, "base_directory": str(trap / name)}
            connection.execute(SESSIONS.insert(), row)
        for name, number in images.items():
            row = {"id": number, "base_path": str(trap), "path": name, "timestamp": taken[name]}
            connection.execute(IMAGES.insert(), row | {"monitoring_session_id": session_of[name]})
        for number, line in enumerate(lines):
            row = {"id": number, "image_id": images[line["image"]]}
            row["bbox"] = [float(line[corner]) for corner in BOX]
            connection.execute(DETECTIONS.insert(), row)
    engine.dispose()
    return lines


def embeddings(run: Run, key: str) -> dict[int, np.ndarray]:
    table = run.to_arrow([key, "embedding", "error"])
    assert table["error"].null_count == 119
    vectors = np.asarray(table["embedding"].combine_chunks().flatten()).reshape(119, -1)
    return dict(zip(table[key].to_pylist(), vectors, strict=True))


def test_nights_in_a_database(data: Path, tmp_path: Path) -> None:
    trap, url = data / "ami-trap", f"sqlite:///{tmp_path}/ami.db"
    lines = fill(url, trap)
    run = extract(make_config(source=url), tmp_path / "run").run
    plain = extract(make_config(source=trap / "detections.csv"), tmp_path / "plain").run

    # A manifest keeps its order, so its rows are numbered as its lines are.
    assert plain.to_arrow(["image"])["image"].to_pylist() == [line["image"] for line in lines]
    actual, expected = embeddings(run, "database_id"), embeddings(plain, "row_id")
    for number in range(119):
        np.testing.assert_array_equal(actual[number], expected[number])

    # The same links as from the manifest, told in the database's own ids.
    link_run(run.path)
    link_run(plain.path)
    assert write_database(run.path, url, write_back=True).updated == 119
    ids = plain.to_arrow(["detection_id"])["detection_id"].to_pylist()
    line_of: dict[str | None, int | None] = {None: None}
    line_of |= {name: line for line, name in enumerate(ids)}
    previous = {
        line_of[row["detection_id"]]: line_of[row["previous_detection_id"]]
        for row in read_tracks(plain.path).to_pylist()
    }
    now = stored(url, "cnn_features", "sequence_id", "sequence_previous_id")
    assert {number: row["sequence_previous_id"] for number, row in now.items()} == previous
    assert sum(before is not None for before in previous.values()) > 20
    for number, row in now.items():
        np.testing.assert_array_equal(np.float32(row["cnn_features"]), actual[number])
    assert write_database(run.path, url, write_back=True).updated == 0
