"""Images of requests to class and embedding, by the model that the index was built with.

The model is loaded by the first request that needs it. Every method blocks.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from api.http.errors import ApiError
from common.errors import ModelError
from pipelines.images.header import header_of, image_size
from pipelines.model_info import ModelInfo

if TYPE_CHECKING:  # torch takes seconds to import; only uploads need it
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from pipelines.engines.embed import Embedded, Embedder

logger = logging.getLogger("onepass.api")


class ImageEmbedder:
    """The model of an index; each method raises ``ApiError``.

    422: an image or a box is not valid, or larger than the server takes; or the index has no model
    (None), because its vectors were made elsewhere. 503: the model cannot be loaded on this machine.
    """

    def __init__(self, model: ModelInfo | None) -> None:
        self._model = model
        self._embedder: Embedder | None = None
        self._lock = threading.Lock()

    def embed_images(
        self, images: Sequence[bytes], *, max_pixels: int, item: str | None = None
    ) -> list[Embedded]:
        """Class and embedding of encoded images.

        Args:
            images: the images, encoded.
            max_pixels: bounds the sum of all of them.
            item: what the error message calls each of many.
        """
        total = 0
        for number, image in enumerate(images):
            prefix = f"{item} {number}: with those before it, " if item else ""
            total += _check_pixels(image, max_pixels - total, max_pixels, prefix)
        embedder = self._load()

        def decoded() -> Iterator[torch.Tensor]:
            for number, image in enumerate(images):
                yield _decode(image, f"{item} {number}: " if item else "")

        return embedder.embed_regions(decoded())

    def embed_boxes(
        self, image: bytes, boxes: NDArray[np.float64], *, stored: bool, max_pixels: int
    ) -> tuple[list[Embedded], tuple[int, int], NDArray[np.float64]]:
        """Class and embedding of boxes of an encoded frame, cropped as extraction crops them.

        Args:
            image: the frame.
            boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels.
            stored: they are of the stored pixels, not of the upright frame.
            max_pixels: bounds the frame, and the sum of all crops.

        Returns:
            Class and embedding of each box, the frame's width and height, and the boxes of the
            upright frame.
        """
        _check_pixels(image, max_pixels, max_pixels)
        embedder = self._load()
        from pipelines.images.errors import ImageError
        from pipelines.images.pixels import crop  # late: torch takes seconds

        pixels = _decode(image)
        boxes = _to_upright(image, boxes) if stored else boxes
        regions = []
        for number, box in enumerate(boxes.tolist()):
            try:
                regions.append(crop(pixels, tuple(box)))
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
        return embedder.embed_regions(regions), (pixels.shape[2], pixels.shape[1]), boxes

    def _load(self) -> Embedder:
        if self._model is None:
            raise ApiError(
                422,
                "no_model",
                "this index holds vectors that were made elsewhere, so there is no model to embed an "
                "image with; search by detection_id or vector",
            )
        from pipelines.engines.embed import Embedder  # late: torch takes seconds

        with self._lock:
            if self._embedder is None:
                try:
                    self._embedder = Embedder.load(self._model)
                except ModelError as error:
                    # The text names the checkpoint's folder, which clients must not see.
                    logger.error("the index's model cannot be loaded: %s", error)
                    raise ApiError(
                        503,
                        "model_unavailable",
                        f"this server cannot load the index's model {self._model.request.spec}; "
                        "its log says why. Searching by detection_id or vector needs no model",
                    ) from None
            return self._embedder


def _to_upright(image: bytes, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes ``[N, 4]`` in stored pixels of an encoded image as boxes of the upright one."""
    return header_of(io.BytesIO(image)).to_upright(boxes)


def _decode(image: bytes, prefix: str = "") -> torch.Tensor:
    from pipelines.images.errors import ImageError
    from pipelines.images.formats import decode  # late: torch takes seconds

    try:
        return decode(image).pixels
    except ImageError as error:
        raise ApiError(422, "invalid_image", f"{prefix}{error}") from None


def _check_pixels(image: bytes, left: int, max_pixels: int, prefix: str = "") -> int:
    """Check the size that the image's header states: a small file can decode to gigabytes.

    Args:
        image: encoded.
        left: pixels that it may have.
        max_pixels: what the error message states, of all images together.
        prefix: start of the error message.

    Returns:
        Pixels of the image; 0 where the header cannot be read.
    """
    size = image_size(image)
    if size is None:
        return 0  # the decoder says what is wrong with it
    pixels = size[0] * size[1]
    if pixels > left:
        raise ApiError(
            422,
            "image_too_large",
            f"{prefix}the image has more than this server's {max_pixels} pixels; send it smaller",
        )
    return pixels
