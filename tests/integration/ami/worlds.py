"""A database and a linked run of its detections, made without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.model_info import ModelInfo
from pipelines.run import Run
from pipelines.sources.read import read_source
from tests.helpers.ami import fill
from tests.helpers.runs import write_run
from tracks.link import link_run
from tracks.store import read_tracks

DIM = 24


@dataclass
class World:
    url: str
    run: Run
    vectors: dict[int, np.ndarray]  # embeddings by the database's id

    @property
    def path(self) -> Path:
        return self.run.path

    def tracks(self) -> dict[int, dict[str, Any]]:
        """The tracks as ``detections`` should say them, by its id."""

        def own(name: str | None) -> int | None:
            return None if name is None else int(name.removeprefix("ami:"))

        return {
            int(row["detection_id"].removeprefix("ami:")): {
                "sequence_id": row["track_id"],
                "sequence_frame": row["position"],
                "sequence_previous_id": own(row["previous_detection_id"]),
                "sequence_previous_cost": row["cost"],
            }
            for row in read_tracks(self.path).to_pylist()
        }


def run_of(
    url: str,
    path: Path,
    *,
    errors: tuple[int, ...] = (),
    dim: int = DIM,
    link: bool = True,
    facts: ModelInfo | None = None,
) -> World:
    """A run of every detection in a database; those with ids in ``errors`` failed."""
    plan = read_source(url).table
    columns = {
        name: plan[name].to_pylist()
        for name in plan.column_names
        if name not in ("row_id", "error")
    }
    keys = columns["database_id"]
    vectors = np.random.default_rng(5).normal(size=(len(keys), dim)).astype(np.float32)
    failed = {keys.index(key): "missing file: gone [x]" for key in errors}
    run = write_run(path, columns, vectors, errors=failed, facts=facts)
    if link:
        link_run(path)
    return World(url, run, dict(zip(keys, vectors, strict=True)))


def world_of(url: str, folder: Path, **given: Any) -> World:
    """Two nights of sixteen detections in all, and their run."""
    fill(url, folder / "traps")
    return run_of(url, folder / "run", **given)
