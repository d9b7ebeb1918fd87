"""An opened snapshot with its tracks and its model.

The snapshot is opened before the first answer; tracks and model are loaded by the first request
that needs them, because many servers never need them and a model costs seconds and memory.
Every method here blocks (FAISS, torch, files): routes call it from worker threads only.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from api.http.errors import ApiError
from api.service.answers import DETECTION_COLUMNS, detection_rows
from api.service.tracks import TrackTable
from common.errors import ModelError, RunError
from index.search.snapshot import Snapshot
from tracks.store import read_tracks

if TYPE_CHECKING:  # torch takes seconds to import; only uploads need it
    import torch

    from pipelines.engines.embed import Embedded, Embedder

logger = logging.getLogger("onepass.api")


class ServedIndex:
    """One opened snapshot, its tracks and its model."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._tracks: TrackTable | None = None
        self._tracks_lock = threading.Lock()
        self._embedder: Embedder | None = None
        self._embedder_lock = threading.Lock()

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
            snapshot.neighbours(snapshot.columns(np.array([row]))["detection_id"][0], 1)
        opened = cls(snapshot)
        if before is not None:
            if before.snapshot.manifest.model == snapshot.manifest.model:
                opened._embedder = before._embedder
            if before._tracks is not None:
                with contextlib.suppress(ApiError):  # no run of this snapshot was linked
                    opened.tracks()
        return opened

    @property
    def version(self) -> str:
        """The snapshot's version."""
        return self.snapshot.manifest.version

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

    def embed(self, image: bytes, *, max_pixels: int) -> Embedded:
        """Class and embedding of an image, from the model the snapshot was built with.

        Raises:
            ApiError: 422, not an image, or one of more than ``max_pixels``; 503, the model
                cannot be loaded on this machine.
        """
        _check_pixels(image, max_pixels)
        embedder = self._load_embedder()
        from pipelines.images.pixels import ImageError  # late: torch takes seconds

        try:
            return embedder.embed_bytes(image)
        except ImageError as error:
            raise ApiError(422, "invalid_image", str(error)) from None

    def embed_crops(self, images: Sequence[bytes], *, max_pixels: int) -> list[Embedded]:
        """Class and embedding of encoded crops of a frame.

        Raises:
            ApiError: as for ``embed``; ``max_pixels`` bounds the sum of all crops.
        """
        total = 0
        for number, image in enumerate(images):
            prefix = f"detection {number}: with those before it, "
            total += _check_pixels(image, max_pixels, prefix, before=total)
        embedder = self._load_embedder()
        from pipelines.images.pixels import ImageError, decode  # late: torch

        def decoded() -> Iterator[torch.Tensor]:
            for number, image in enumerate(images):
                try:
                    yield decode(image).pixels
                except ImageError as error:
                    raise ApiError(422, "invalid_image", f"detection {number}: {error}") from None

        return embedder.embed_regions(decoded())

    def embed_boxes(
        self, image: bytes, boxes: Sequence[tuple[float, ...]], *, max_pixels: int
    ) -> tuple[list[Embedded], tuple[int, int]]:
        """Class and embedding of boxes of an encoded frame, cropped as extraction crops them.

        Args:
            image: the frame.
            boxes: x1, y1, x2, y2 in pixels of each.
            max_pixels: bounds the frame, and the sum of all crops.

        Returns:
            Class and embedding of each box, and the frame's width and height.

        Raises:
            ApiError: as for ``embed``.
        """
        _check_pixels(image, max_pixels)
        embedder = self._load_embedder()
        from pipelines.images.pixels import ImageError, crop, decode  # late: torch

        try:
            pixels = decode(image).pixels
        except ImageError as error:
            raise ApiError(422, "invalid_image", str(error)) from None
        regions = []
        for number, box in enumerate(boxes):
            try:
                regions.append(crop(pixels, box))
            except ImageError as error:
                raise ApiError(422, "invalid_box", f"detection {number}: {error}") from None
        covered = sum(region.shape[1] * region.shape[2] for region in regions)
        if covered > max_pixels:
            raise ApiError(
                422,
                "image_too_large",
                f"the boxes cover {covered} pixels in all; this server crops up to {max_pixels} of "
                "a frame: send fewer or smaller boxes, or a smaller frame",
            )
        return embedder.embed_regions(regions), (pixels.shape[2], pixels.shape[1])

    def _load_embedder(self) -> Embedder:
        from pipelines.engines.embed import Embedder  # late: torch

        with self._embedder_lock:
            if self._embedder is None:
                model = self.snapshot.manifest.model
                try:
                    self._embedder = Embedder.load(model)
                except ModelError as error:
                    # The text names the checkpoint's folder, which clients must not see.
                    logger.error("the index's model cannot be loaded: %s", error)
                    raise ApiError(
                        503,
                        "model_unavailable",
                        f"this server cannot load the index's model {model.request.spec}; its log "
                        "says why. Searching by detection_id or vector needs no model",
                    ) from None
            return self._embedder


def _check_pixels(image: bytes, max_pixels: int, prefix: str = "", *, before: int = 0) -> int:
    """Check the size that the image's header states: a small file can decode to gigabytes.

    Args:
        image: encoded.
        max_pixels: of all images together.
        prefix: start of the error message.
        before: pixels of the images before it.

    Returns:
        Pixels of the image; 0 where the header cannot be read.

    Raises:
        ApiError: 422, more than ``max_pixels``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, higher bound
        try:
            with Image.open(io.BytesIO(image)) as header:
                width, height = header.size
        except Image.DecompressionBombError:
            width = height = max_pixels  # far more than any sensible limit
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
            return 0  # the decoder says what is wrong with it
    if before + width * height > max_pixels:
        raise ApiError(
            422,
            "image_too_large",
            f"{prefix}the image has more than this server's {max_pixels} pixels; send it smaller",
        )
    return width * height
