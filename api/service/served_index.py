"""An opened snapshot with its tracks and its model.

The snapshot is opened before the first answer; tracks and model are loaded by the first request
that needs them, because many servers never need them and a model costs seconds and memory.
Every method here blocks (FAISS, torch, files): routes call it from worker threads only.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from api.http.errors import ApiError
from api.service.answers import DETECTION_COLUMNS, detection_rows
from api.service.embedding import ImageEmbedder
from api.service.tracks import TrackTable
from common.errors import RunError
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from tracks.store import read_tracks

CACHED_FILTERS = 8  # 4 bytes a row each

logger = logging.getLogger("onepass.api")


class ServedIndex:
    """One opened snapshot, its tracks and its model.

    Attributes:
        snapshot: as it was opened.
        embedder: the model that the snapshot was built with.
        matching_rows: the rows that match a filter (None: every row), ascending; raises
            ``FilterError``. A filter over a million rows takes 200 ms, and whoever browses turns
            from page to page, so the last few are cached.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.embedder = ImageEmbedder(snapshot.manifest.model)
        # Of the snapshot, not of a method: a cycle would keep the snapshot's memory.
        self.matching_rows = lru_cache(CACHED_FILTERS)(partial(_matching_rows, snapshot))
        self._tracks: TrackTable | None = None
        self._tracks_lock = threading.Lock()

    @classmethod
    def open(cls, snapshot: Snapshot, *, before: ServedIndex | None = None) -> ServedIndex:
        """Serve ``snapshot`` after one search of it has answered.

        Args:
            snapshot: just opened.
            before: the index served until now. Its model is kept if the snapshot has the same;
                tracks that it had loaded are loaded again now, so that no client waits for them.

        Raises:
            SnapshotError: its files are damaged.
        """
        # By id, so that the ids are sorted now and not while the first client waits.
        for row in snapshot.matching()[:1]:  # the first that is not deleted
            snapshot.neighbors(snapshot.columns(np.array([row]))["detection_id"][0], 1)
        opened = cls(snapshot)
        if before is not None:
            if before.snapshot.manifest.model == snapshot.manifest.model:
                opened.embedder = before.embedder
            if before._tracks is not None:
                with contextlib.suppress(ApiError):  # no run of this snapshot was linked
                    opened.tracks()
        return opened

    @property
    def version(self) -> str:
        """The snapshot's version."""
        return self.snapshot.manifest.version

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.snapshot.manifest.dim

    def not_found(self, detection_id: str, prefix: str = "") -> ApiError:
        """404 for an id that is not in this snapshot; ``prefix`` says where it was given."""
        return ApiError(
            404,
            "detection_not_found",
            f"{prefix}no detection {detection_id[:100]!r} in snapshot {self.version} of this index",
        )

    def row_of(self, detection_id: str) -> int:
        """The row of a detection.

        Raises:
            ApiError: 404, it is not in this snapshot.
        """
        row = int(self.snapshot.rows_of([detection_id])[0])
        if row < 0:
            raise self.not_found(detection_id)
        return row

    def detections(self, detection_ids: list[str]) -> list[dict[str, Any] | None]:
        """The fields of each detection; None where the snapshot does not hold it."""
        rows = self.snapshot.rows_of(detection_ids)
        present = rows >= 0
        fields = iter(detection_rows(self.snapshot.columns(rows[present], DETECTION_COLUMNS)))
        return [next(fields) if is_present else None for is_present in present.tolist()]

    def tracks(self) -> TrackTable:
        """The tracks of all linked runs of the snapshot; read once.

        Raises:
            ApiError: 404, none was linked.
        """
        with self._tracks_lock:
            if self._tracks is None:
                self._tracks = self._read_tracks()
            return self._tracks

    def _read_tracks(self) -> TrackTable:
        parts = []
        for number, run in enumerate(self.snapshot.manifest.runs):
            try:
                steps = read_tracks(Path(run.path))
            except RunError as error:
                logger.warning("no tracks: %s", error)
                continue
            column = pa.array(np.full(steps.num_rows, number, np.int32))
            parts.append(steps.append_column("run", column))
        if not parts:
            raise ApiError(
                404,
                "no_tracks",
                "no run of this index has tracks; run 'onepass link RUN' and try again",
            )
        return TrackTable(pa.concat_tables(parts).combine_chunks())


def _matching_rows(snapshot: Snapshot, where: str | None) -> NDArray[np.uint32]:
    return snapshot.matching(None if where is None else Filter(where=where)).astype(np.uint32)
