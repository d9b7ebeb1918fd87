"""A finished run as a source of vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import SnapshotError
from common.json_models import sha256_file
from common.manifests import MANIFEST, check_file
from common.parquet import open_parquet
from index.build.sources.source import BATCH_ROWS, Batch
from index.storage.columns import ROWS_SCHEMA, OwnColumns
from index.storage.layout import RunEntry
from pipelines.detections import IMAGE_DAMAGE, IMAGE_HASH, RESULT_COLUMNS
from pipelines.embeddings import matrix
from pipelines.model_info import ModelInfo
from pipelines.run import Run

# Results that an index does not know, but people ask for.
_ASKED = ("gate_label", "gate_score", IMAGE_DAMAGE)
_NOT_OWN = {*ROWS_SCHEMA.names, *RESULT_COLUMNS, IMAGE_HASH} - {"run", *_ASKED}


@dataclass(frozen=True)
class Selection:
    """A run, and which of its rows are indexed: a ``VectorSource``."""

    run: Run
    row_ids: NDArray[np.int64] | None = None  # ascending; None: all

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.run.path.resolve()

    @property
    def dim(self) -> int:
        """Values of a vector."""
        return self.run.manifest.model.feature_dim

    @property
    def model(self) -> ModelInfo:
        """What made the vectors."""
        return self.run.manifest.model

    @property
    def fingerprint(self) -> str:
        """That of the model."""
        return self.run.manifest.fingerprint

    @property
    def rows(self) -> int:
        """Rows, those with an error included."""
        return self.run.manifest.rows.written

    @cached_property
    def own_columns(self) -> OwnColumns:
        """The columns of the plan that an index does not know."""
        maps = {info.name for info in self.run.manifest.model.maps}
        return OwnColumns.choose(self.run.schema, _NOT_OWN | maps)

    @property
    def index_columns(self) -> frozenset[str]:
        """All but ``run``, which would be the user's."""
        return frozenset(ROWS_SCHEMA.names) - {"run"}

    @property
    def notes(self) -> Sequence[str]:
        """None."""
        return ()

    def select(self, row_ids: NDArray[np.int64] | None) -> Selection:
        """The same run with other ``row_ids``."""
        return Selection(self.run, row_ids)

    def readers(self) -> list[_RunFile]:
        """One for each file."""
        files = {file: file.relative_to(self.run.path).as_posix() for file in self.run.files()}
        hashes = self.run.manifest.files
        return [_RunFile(file.resolve(), hashes[name]) for file, name in files.items()]

    def digest(self) -> str:
        """That of the manifest, which has those of all files."""
        return sha256_file(self.run.path / MANIFEST)

    def entry(self, rows: int) -> RunEntry:
        """The manifest's entry of the run."""
        return RunEntry(
            path=str(self.path),
            root=str(self.run.root),
            moved=self.run.images.pairs,
            rows=rows,
            manifest_sha256=self.digest(),
        )


@dataclass(frozen=True)
class _RunFile:
    """Reads one Parquet file of a run."""

    file: Path
    sha256: str

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """As the contract says."""
        with open_parquet(check_file(self.file, self.sha256)) as parquet:
            there = set(parquet.schema_arrow.names)
            own = [name for name in columns if name in there]
            read = list(dict.fromkeys(["row_id", "detection_id", "error", "embedding", *own]))
            for batch in parquet.iter_batches(BATCH_ROWS, columns=read):
                has_vector = np.asarray(pc.is_null(batch["error"]))
                yield Batch(
                    batch["row_id"].to_numpy(),
                    batch["detection_id"].cast(pa.string()),
                    batch.select(own),
                    self._vectors(batch["embedding"], has_vector),
                    has_vector,
                )

    def _vectors(self, column: pa.Array, has_vector: NDArray[np.bool_]) -> NDArray[np.floating]:
        if not pa.types.is_fixed_size_list(column.type):
            why = f"column 'embedding' is {column.type}"
        elif column.null_count and not np.asarray(column.is_valid())[has_vector].all():
            why = "rows without an error have no embedding"
        elif column.null_count:
            vectors = np.full((len(column), column.type.list_size), np.nan, np.float32)
            vectors[np.asarray(column.is_valid())] = matrix(column.drop_null())
            return vectors
        else:
            return matrix(column)
        raise SnapshotError(
            f"{self.file}: {why}; the run is damaged: check with 'onepass inspect RUN --verify'"
        )
