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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.http.errors import ApiError
from api.service.answers import DETECTION_COLUMNS, detection_rows
from api.service.embedding import ImageEmbedder
from api.service.mapped_files import MappedFiles
from api.service.tracks import TRACK, TrackTable, read_steps
from common.errors import VerifyError
from index.config import Direction
from index.search.columns import count_values, sort_rows
from index.search.filters import Filter
from index.search.groups import Grouping, group_by_column
from index.search.snapshot import Snapshot

CACHED_FILTERS, CACHED_ORDERS = 8, 4  # 4 bytes a row each
CACHED_GROUPINGS = 4  # 8 bytes a row each, used by the threads that search
CACHED_COUNTS = 16

logger = logging.getLogger("onepass.api")


class ServedIndex:
    """One opened snapshot, its tracks and its model.

    Attributes:
        snapshot: as it was opened.
        files: those that it maps.
        embedder: the model that the snapshot was built with.
        own_columns: as the snapshot has them.
        matching_rows: the rows that match a filter (None: every row), ascending; raises
            ``FilterError``. A filter over a million rows takes 200 ms, and whoever browses turns
            from page to page, so the last few are cached.
        sorted_rows: as ``index.search.columns.sort_rows``, the last few cached.
        counted_values: given a column, a filter or None, and a limit, what
            ``index.search.columns.count_values`` gives, the last few cached.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.files = MappedFiles(snapshot.path.parent, snapshot.manifest)
        self.embedder = ImageEmbedder(snapshot.manifest.model)
        # Of the snapshot, not of a method: a cycle would keep the snapshot's memory.
        self.matching_rows = lru_cache(CACHED_FILTERS)(partial(_matching_rows, snapshot))
        self.sorted_rows = lru_cache(CACHED_ORDERS)(partial(_sorted_rows, snapshot))
        self.counted_values = lru_cache(CACHED_COUNTS)(partial(count_values, snapshot))
        self.own_columns = snapshot.own_columns
        self._groupings: dict[str, Grouping] = {}  # the last few, oldest first
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

    def rows_of(self, detection_ids: list[str]) -> NDArray[np.int64]:
        """The row of each detection, [N]; -1 where the snapshot does not hold it."""
        return self.snapshot.rows_of(detection_ids)

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
        fields = iter(
            detection_rows(
                self.snapshot.columns(rows[present], (*DETECTION_COLUMNS, *self.own_columns))
            )
        )
        return [next(fields) if is_present else None for is_present in present.tolist()]

    def unknown_ids(self, filter: Filter | None) -> list[str]:
        """The ids of a filter that are not in this snapshot, sorted."""
        if filter is None or not filter.ids:
            return []
        ids = sorted(filter.ids)
        return [ids[at] for at in np.flatnonzero(self.snapshot.rows_of(ids) < 0).tolist()]

    def grouping(self, name: str) -> Grouping:
        """The group of each row by a column, or by the tracks where no column is called so.

        Raises:
            ApiError: 404, by tracks, and no run was linked.
            ColumnError: there is no such column, or it cannot be grouped by.
        """
        grouping = self._groupings.pop(name, None)
        if grouping is None:
            if name == TRACK and TRACK not in self.own_columns:
                grouping = self.tracks().grouping(self.snapshot)
            else:
                grouping = group_by_column(self.snapshot, name)
        self._groupings[name] = grouping
        while len(self._groupings) > CACHED_GROUPINGS:
            del self._groupings[next(iter(self._groupings))]
        return grouping

    def tracks(self) -> TrackTable:
        """The tracks of all linked runs of the snapshot; read once.

        Raises:
            ApiError: 404, none was linked; 503, a file of them is damaged.
        """
        with self._tracks_lock:
            if self._tracks is None:
                self._tracks = self._read_tracks()
            return self._tracks

    def _read_tracks(self) -> TrackTable:
        try:
            steps = read_steps(self.snapshot.manifest)
        except VerifyError as error:
            logger.error("tracks: %s", error)
            raise ApiError(
                503, "tracks_damaged", "a file of the tracks is damaged; the server's log names it"
            ) from None
        if steps is None:
            raise ApiError(
                404,
                "no_tracks",
                "no run of this index has tracks; run 'onepass link RUN' and try again",
            )
        return TrackTable(steps)


def _matching_rows(snapshot: Snapshot, filter: Filter | None) -> NDArray[np.uint32]:
    return snapshot.matching(filter).astype(np.uint32)


def _sorted_rows(snapshot: Snapshot, column: str, direction: Direction) -> NDArray[np.uint32]:
    return sort_rows(snapshot, column, direction).astype(np.uint32)
