"""What the service holds: an opened snapshot, and the tracks and model that go with it.

The snapshot is opened before the first answer; tracks and model wait for the first request
that needs them, because many servers are never asked and a model costs seconds and memory.
Every method here blocks (FAISS, torch, files): routes call it from worker threads only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa

from api.errors import ApiError
from api.tracks import TrackBook
from cluster.errors import ModelError, OnepassError, RunError, SnapshotError, WorkError
from index.snapshot import Hits, Snapshot
from index.tracks import read_tracks

if TYPE_CHECKING:  # torch takes seconds to import; only uploads need it
    from pipelines.embed import Embedded, Embedder

logger = logging.getLogger("onepass.api")


class Holdings:
    """One opened snapshot and what is read along with it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._tracks: TrackBook | None = None
        self._tracks_lock = threading.Lock()
        self._embedder: Embedder | None = None
        self._embedder_lock = threading.Lock()

    @classmethod
    def open(cls, index: Path) -> Holdings:
        """Open the index's current snapshot and see one search of it answer.

        Raises:
            SnapshotError: there is no index there, or it is damaged.
        """
        snapshot = Snapshot.open(index)
        # By id, so that the ids are sorted now and not while the first client waits.
        snapshot.neighbours(snapshot.rows["detection_id"][0].as_py(), 1)
        return cls(snapshot)

    def row_of(self, detection_id: str) -> int:
        """The row of a detection.

        Raises:
            ApiError: 404, it is not in this snapshot.
        """
        try:
            return self.snapshot.row_of(detection_id)
        except SnapshotError:
            version = self.snapshot.manifest.version
            raise ApiError(
                404,
                "detection_not_found",
                f"no detection {detection_id[:100]!r} in snapshot {version} of this index",
            ) from None

    def detection(self, row: int) -> dict[str, Any]:
        """The columns of one row."""
        found: dict[str, Any] = self.snapshot.rows.slice(row, 1).to_pylist()[0]
        return found

    def detections(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """The columns of ``rows``, in their order."""
        # Not rows.take: on a large index it joins whole columns first.
        return [self.detection(row) for row in rows.tolist()]

    def search(self, vector: np.ndarray, k: int, *, exact: bool) -> Hits:
        """The ``k`` rows nearest to one vector.

        Raises:
            ApiError: 422, the vector is not one of this index's.
        """
        dim = self.snapshot.manifest.dim
        if vector.shape != (dim,):
            raise ApiError(
                422, "invalid_vector", f"the vector has {vector.size} numbers, this index has {dim}"
            )
        if not np.isfinite(vector).all():
            raise ApiError(422, "invalid_vector", "the vector has numbers that are not finite")
        if not vector.any():
            raise ApiError(422, "invalid_vector", "the vector is all zeros and points nowhere")
        # Requests already run side by side, one worker thread each. FAISS's own threads on top
        # of that wait for each other. OpenMP keeps this per thread, so it is set where it counts.
        faiss.omp_set_num_threads(1)
        return self.snapshot.search(vector[None], k, exact=exact)

    def neighbours(self, row: int, k: int, *, exact: bool) -> Hits:
        """The ``k`` rows nearest to a row, itself left out."""
        found = self.search(self.snapshot.vector(row), k + 1, exact=exact)
        # An approximate search may miss the row itself: then the farthest hit is the one over.
        keep = np.flatnonzero(found.rows[0] != row)[:k]
        return Hits(rows=found.rows[:, keep], scores=found.scores[:, keep])

    def known(self, detection_ids: list[str]) -> list[dict[str, Any] | None]:
        """The columns of each detection, or None where the snapshot does not hold it."""
        found: list[dict[str, Any] | None] = []
        for detection_id in detection_ids:
            try:
                found.append(self.detection(self.snapshot.row_of(detection_id)))
            except SnapshotError:
                found.append(None)
        return found

    def tracks(self) -> TrackBook:
        """The tracks of all the snapshot's runs that were linked; read once.

        Raises:
            ApiError: 404, none was linked.
        """
        with self._tracks_lock:
            if self._tracks is None:
                self._tracks = self._read_tracks()
            return self._tracks

    def _read_tracks(self) -> TrackBook:
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
                "no run of this index has tracks; run 'onepass link RUN' and ask again",
            )
        return TrackBook(pa.concat_tables(parts).combine_chunks())

    def embed(self, image: bytes) -> Embedded:
        """Class and embedding of an image, from the model the snapshot was made with.

        Raises:
            ApiError: 422, not an image; 503, the model cannot be loaded on this machine.
        """
        embedder = self._load_embedder()
        from pipelines.images import ImageError

        try:
            return embedder.embed_bytes(image)
        except ImageError as error:
            raise ApiError(422, "invalid_image", str(error)) from None

    def _load_embedder(self) -> Embedder:
        from pipelines.embed import Embedder

        with self._embedder_lock:
            if self._embedder is None:
                facts = self.snapshot.manifest.model
                try:
                    self._embedder = Embedder.load(facts)
                except ModelError as error:
                    # Its text names the checkpoint's folder: for the log, not for the client.
                    logger.error("the index's model cannot be loaded: %s", error)
                    raise ApiError(
                        503,
                        "model_unavailable",
                        f"this server cannot load the index's model {facts.request.spec}; its log "
                        "says why. Searching by detection_id or vector needs no model",
                    ) from None
            return self._embedder


class Service:
    """Opens the holdings while the server already answers ``/livez``."""

    def __init__(self, index: Path, *, on_failure: Callable[[OnepassError], None]) -> None:
        self.index = index
        self._on_failure = on_failure
        self._holdings: Holdings | None = None
        self._failed = False

    @property
    def holdings(self) -> Holdings:
        """What is served.

        Raises:
            ApiError: 503, it is not open, or not yet.
        """
        if self._failed:
            raise ApiError(503, "not_ready", "the index cannot be opened; the log says why")
        if self._holdings is None:
            raise ApiError(
                503, "not_ready", "the index is still being opened; ask again when /readyz says ok"
            )
        return self._holdings

    def load(self) -> None:
        """Open the index; a failure is told to ``on_failure``, since nobody awaits this."""
        try:
            self._holdings = Holdings.open(self.index)
        except OnepassError as error:
            self._failed = True
            self._on_failure(error)
        except Exception as error:
            logger.exception("the index cannot be opened")
            self._failed = True
            self._on_failure(WorkError(f"{self.index} cannot be opened: {error}"))
