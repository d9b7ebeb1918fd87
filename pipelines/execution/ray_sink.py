"""The write stage: Ray Data's Parquet files, and the time that they take reported to the board.

A module of its own, which only the processes that write import.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from ray.data._internal.datasource.parquet_datasink import ParquetDatasink

from pipelines.progress.counters import Reporter, Stopwatch, attempt


class TimedParquet(ParquetDatasink):  # type: ignore[misc]
    """What ``Dataset.write_parquet`` writes with; Ray's files and checkpoints stay its own."""

    def __init__(self, path: str, board: Reporter, **how: Any) -> None:
        super().__init__(path, **how)
        self._board = board

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> None:
        # Where an earlier session wrote all rows of a block, Ray passes on one without columns.
        kept = [block for block in blocks if block.num_rows]
        if not kept:
            return
        rows = pa.concat_tables([block.select(["row_id"]) for block in kept])
        watch = Stopwatch("write", self._board.lane)
        with attempt(self._board, "write", rows):
            super().write(kept, ctx)
        self._board.block(watch.block(rows))
