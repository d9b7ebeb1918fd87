"""Finished run folders written from tables, file by file: what an index is built from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.json_models import sha256_file, write_atomic
from pipelines.detections import PLAN_SCHEMA, result_fields
from pipelines.model_info import ModelInfo
from pipelines.run import RowCounts, Run, RunManifest


class RunWriter:
    """Writes RUN/detections a file at a time and the manifest last; one table is in memory."""

    def __init__(self, path: Path, facts: ModelInfo, *, source: str, root: str = ".") -> None:
        self._path, self._facts, self._source, self._root = path, facts, source, root
        self._files: dict[str, str] = {}
        self._rows = 0
        shutil.rmtree(path, ignore_errors=True)  # one that was not finished
        (path / "detections").mkdir(parents=True)

    def add(self, table: pa.Table) -> None:
        """Write ``table`` as the next file; columns it lacks (``topk``, ``error``) are null."""
        fields = [*PLAN_SCHEMA, *result_fields(self._facts.feature_dim)]
        columns = {
            field.name: table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
            for field in fields
        }
        file = self._next()
        pq.write_table(pa.table(columns), file)
        self._count(file, table.num_rows, sha256_file(file))

    def link(self, other: Path, sha256: str) -> None:
        """Take another run's file as the next one, without a copy."""
        file = self._next()
        os.link(other, file)
        self._count(file, pq.ParquetFile(file).metadata.num_rows, sha256)

    def finish(self) -> Run:
        """Write the manifest."""
        manifest = RunManifest(
            source=self._source,
            root=self._root,
            model=self._facts,
            fingerprint=self._facts.fingerprint,
            precision="fp32",
            precision_audit=None,
            rows=RowCounts(planned=self._rows, written=self._rows, failed=0),
            errors={},
            versions={"numpy": np.__version__, "pyarrow": pa.__version__},
            seconds=0.0,
            files=self._files,
        )
        write_atomic(self._path / "manifest.json", manifest.model_dump_json(indent=2).encode())
        return Run.open(self._path)

    def _next(self) -> Path:
        return self._path / "detections" / f"part-{len(self._files):04d}.parquet"

    def _count(self, file: Path, rows: int, sha256: str) -> None:
        self._files[f"detections/{file.name}"] = sha256
        self._rows += rows
