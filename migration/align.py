"""Rows of two runs over the same detections: row i of one is row i of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import RunError
from common.json_models import read_json
from index.vectors import Ints
from pipelines.embeddings import read_embeddings
from pipelines.request import Request
from pipelines.run import Run
from tracks.plan import FILE, FILE_ROW, read_rows

Bools = npt.NDArray[np.bool_]

_COLUMNS = ("row_id", "detection_id", "label", "label_index", "error")


@dataclass(frozen=True)
class Rows:
    """The rows of a run by row_id from 0, without their embeddings."""

    run: Run  # whose rows these are
    # Detection_id, label, label_index, error, and where each embedding is stored; N rows.
    table: pa.Table
    embedded: Bools  # whether each has an embedding [N]

    @classmethod
    def read(cls, run: Run) -> Rows:
        """Read the rows of a run, but not their embeddings."""
        table = read_rows(run, list(_COLUMNS)).sort_by("row_id").combine_chunks()
        return cls(run, table, pc.is_null(table["error"]).to_numpy())

    @property
    def dim(self) -> int:
        """Values per embedding."""
        return self.run.manifest.model.feature_dim

    def embeddings(self, rows: Ints) -> npt.NDArray[np.float32]:
        """Embeddings float32 ``[R, D]`` of ``rows`` ``[R]``, of which none is repeated."""
        files, file_rows = (self.table[name].to_numpy()[rows] for name in (FILE, FILE_ROW))
        return read_embeddings(self.run, files, file_rows)

    def class_names(self) -> frozenset[str] | None:
        """All classes of the run's model; None where they have no names."""
        file = self.run.path / "request.json"
        if file.is_file():
            names = read_json(file, Request).labels
            return None if names is None else frozenset(names)
        if self.run.manifest.config is not None:  # then there was one
            raise RunError(f"{file}, which names the classes, is missing; restore it from a copy")
        labels = pc.unique(self.table["label"]).drop_null().to_pylist()
        return frozenset(labels) or None


def align_runs(old: Run, new: Run) -> tuple[Rows, Rows]:
    """Read the rows of both runs and check that they are the same detections.

    Raises:
        RunError: they are not, or not in the same order.
    """
    old_rows, new_rows = Rows.read(old), Rows.read(new)
    old_ids, new_ids = old_rows.table["detection_id"], new_rows.table["detection_id"]
    if not old_ids.equals(new_ids):
        difference = f"{len(old_ids)} rows and {len(new_ids)} rows"
        if len(old_ids) == len(new_ids):
            row = int(np.argmin(pc.equal(old_ids, new_ids).to_numpy()))
            difference = f"row {row} is {old_ids[row].as_py()!r} and {new_ids[row].as_py()!r}"
        raise RunError(
            f"{new.path} is no migration of {old.path}: {difference}; give a folder as `out` that "
            "'onepass migrate' made from this run"
        )
    return old_rows, new_rows
