"""Embeddings of a run's rows in the order of linking, a few megabytes at a time.

A run's files hold rows in the order in which they were answered. A reader is told the file and
place of each row it is asked for, opens the files these stand in, and goes through the row
groups that hold one; memory is that of the rows asked for and one batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.vectors import l1_normalise
from pipelines.embeddings import read_embeddings
from pipelines.run import Run
from tracks.sequences import FILE, PLACE

WINDOW_BYTES = 16 * 2**20


class EmbeddingReader:
    """L1-normalised embeddings of the rows of a plan, read as they are asked for, in order.

    Args:
        run: whose rows these are.
        plan: with the columns ``detection_id``, ``file`` and ``place`` of ``sequences``.
        window_bytes: read at once; what is asked for at once may be more.
    """

    def __init__(self, run: Run, plan: pa.Table, *, window_bytes: int = WINDOW_BYTES) -> None:
        self._run = run
        self._ids = plan["detection_id"].combine_chunks()
        self._files, self._places = plan[FILE].to_numpy(), plan[PLACE].to_numpy()
        self._rows = max(1, window_bytes // (4 * run.manifest.model.feature_dim))
        self._first = 0
        self._window = np.empty((0, run.manifest.model.feature_dim), dtype=np.float32)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Of the rows ``[start, stop)`` of the plan, ``[stop - start, D]``.

        Raises:
            InputError: embeddings that are zero or not finite, named.
            RunError: a row has no embedding, although it has no error.
        """
        if start < self._first or stop > self._first + len(self._window):
            part = slice(start, max(stop, min(start + self._rows, len(self._ids))))
            raw = read_embeddings(self._run, self._files[part], self._places[part])
            self._window, self._first = l1_normalise(raw, self._ids[part]), start
        return self._window[start - self._first : stop - self._first]
