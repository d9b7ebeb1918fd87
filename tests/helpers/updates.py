"""Runs that are updated, compared with runs that were made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from pipelines.extract import Outcome, extract
from pipelines.run import Run
from tests.helpers.pictures import drawn
from tests.helpers.runs import make_config
from tests.integration.pipelines.execution.world import everything, same


def photo(file: Path, seed: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn(seed, width=64, height=48).save(file, quality=90)
    return file


def make_photos(folder: Path) -> Path:
    """Twenty photos of two nights, with gaps between their names."""
    for number in range(20):
        photo(folder / f"night{number % 2}" / f"{10 * number:04d}.jpg", number)
    return folder


def extracted(source: Path | str, out: Path, *, update: bool = False, **fields: Any) -> Outcome:
    config = make_config(**({"source": source, "executor": "local", "logits": True} | fields))
    outcome = extract(config, out, update=update)
    assert outcome.run.verify() == len(outcome.run)
    return outcome


def by_id(run: Run) -> pa.Table:
    """All rows in the order of their images and boxes, without the number of their row."""
    order = [(name, "ascending") for name in ("image", "x1", "detection_id")]
    return everything(run).drop_columns(["row_id"]).sort_by(order).combine_chunks()


def near(first: pa.Table, other: pa.Table) -> bool:
    """``same``, but for the last bits of answers: a network computes one row unlike many."""
    floats = ("embedding", "logits", "score", "topk")
    for name in floats[:3]:
        a, b = (np.array(table[name].to_pylist(), float) for table in (first, other))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    return same(first.drop_columns(floats), other.drop_columns(floats))


def without_ids(run: Run) -> pa.Table:
    return by_id(run).drop_columns(["detection_id"])


def files_of(run: Run) -> set[str]:
    return {
        f"{folder}/{file.name}"
        for folder in ("detections", "plan", "hdf5")
        for file in (run.path / folder).glob("*")
    }


def check_whole(run: Run) -> None:
    """Nothing is left over, and HDF5 has the same rows."""
    assert files_of(run) == {name for name in run.manifest.files if name != "features.h5"}
    assert not list(run.path.glob("update-*"))
    if run.manifest.config and run.manifest.config.hdf5:
        with h5py.File(run.path / "features.h5") as file:
            assert file["row_id"][:].tolist() == list(range(len(run)))
            assert [each.decode() for each in file["detection_id"][:]] == (
                run.to_arrow(["detection_id"])["detection_id"].to_pylist()
            )
            np.testing.assert_array_equal(file["features"][:], run.embeddings())
