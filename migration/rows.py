"""The rows of two runs beside each other: row i of one is row i of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import RunError
from common.json_models import read_json
from common.storage import read_parquet
from pipelines.embeddings import read_embeddings
from pipelines.request import Request
from pipelines.run import Run

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_COLUMNS = ("row_id", "detection_id", "label", "label_index", "error")
_FILE, _PLACE = "file", "place"


@dataclass(frozen=True)
class Rows:
    """Everything about a run's rows but their embeddings, by row_id from 0.

    Attributes:
        run: whose rows these are.
        table: ``detection_id``, ``label``, ``label_index``, ``error``, N rows.
        embedded: whether each has an embedding ``[N]``.
    """

    run: Run
    table: pa.Table
    embedded: Bools
    _files: Ints
    _places: Ints

    @classmethod
    def read(cls, run: Run) -> Rows:
        """Read the rows of a run; embeddings stay where they are."""
        tables = []
        for number, file in enumerate(run.files()):
            table = read_parquet(file, columns=list(_COLUMNS))
            where = np.full(table.num_rows, number), np.arange(table.num_rows)
            for name, values in zip((_FILE, _PLACE), where, strict=True):
                table = table.append_column(name, pa.array(values))
            tables.append(table)
        table = pa.concat_tables(tables).sort_by("row_id").combine_chunks()
        return cls(
            run,
            table,
            pc.is_null(table["error"]).to_numpy(),
            table[_FILE].to_numpy(),
            table[_PLACE].to_numpy(),
        )

    @property
    def dim(self) -> int:
        """Numbers of an embedding."""
        return self.run.manifest.model.feature_dim

    def embeddings(self, rows: Ints) -> npt.NDArray[np.float32]:
        """Embeddings ``[R, D]`` of ``rows``, none twice."""
        return read_embeddings(self.run, self._files[rows], self._places[rows])

    def class_names(self) -> frozenset[str] | None:
        """All classes that the run's model tells apart; None where it has no names."""
        file = self.run.path / "request.json"
        if file.is_file():
            names = read_json(file, Request).labels
            return None if names is None else frozenset(names)
        seen = pc.unique(self.table["label"]).drop_null().to_pylist()
        return frozenset(seen) or None


def align_runs(old: Run, new: Run) -> tuple[Rows, Rows]:
    """The rows of both.

    Raises:
        RunError: they are not the same detections in the same order.
    """
    then, now = Rows.read(old), Rows.read(new)
    a, b = then.table["detection_id"], now.table["detection_id"]
    if not a.equals(b):
        what = f"{len(a)} rows and {len(b)} rows"
        if len(a) == len(b):
            row = int(np.argmin(pc.equal(a, b).to_numpy()))
            what = f"row {row} is {a[row].as_py()!r} and {b[row].as_py()!r}"
        raise RunError(
            f"{new.path} is no migration of {old.path}: {what}; give an --out that "
            "'onepass migrate' made from this run"
        )
    return then, now
