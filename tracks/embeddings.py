"""Embeddings of a run's rows in the order of linking, a few megabytes at a time.

A run's files hold rows in the order in which they were computed. The plan of linking names the file
and the row of each embedding, so only the row groups that hold one are read; memory is that of the
rows read and one batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.vectors import l1_normalise
from pipelines.embeddings import read_embeddings
from pipelines.run import Run
from tracks.plan import FILE, FILE_ROW

WINDOW_BYTES = 16 * 2**20


class EmbeddingReader:
    """L1-normalised embeddings of the rows of a plan, read when they are needed, in order.

    Args:
        run: that the plan was made of.
        plan: with the columns ``detection_id``, ``file`` and ``file_row`` of ``read_plan``.
        window_bytes: read at once, or the rows of one call if these are more.
    """

    def __init__(self, run: Run, plan: pa.Table, *, window_bytes: int = WINDOW_BYTES) -> None:
        self._run = run
        self._ids = plan["detection_id"].combine_chunks()
        self._files, self._file_rows = plan[FILE].to_numpy(), plan[FILE_ROW].to_numpy()
        self._window_rows = max(1, window_bytes // (4 * run.manifest.model.feature_dim))
        self._first = 0
        self._window = np.empty((0, run.manifest.model.feature_dim), dtype=np.float32)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Embeddings of the plan's rows ``[start, stop)``, as ``[stop - start, D]``.

        Raises:
            InputError: embeddings that are zero or not finite, named.
            RunError: a row has no embedding, although it has no error.
        """
        if start < self._first or stop > self._first + len(self._window):
            part = slice(start, max(stop, min(start + self._window_rows, len(self._ids))))
            raw = read_embeddings(self._run, self._files[part], self._file_rows[part])
            self._window, self._first = l1_normalise(raw, self._ids[part]), start
        return self._window[start - self._first : stop - self._first]
