"""Images of requests to class and embedding, by the model that the index was built with.

The model is loaded by the first request that needs it. Every method blocks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from api.http.errors import ApiError
from api.service.uploads import UploadDecoder
from common.errors import ModelError
from pipelines.model_info import ModelInfo

if TYPE_CHECKING:  # torch takes seconds to import; only uploads need it
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from pipelines.engines.embed import Embedded, Embedder
    from pipelines.images.isolated_child import Upload

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
        self, images: Sequence[bytes], decoder: UploadDecoder, *, item: str | None = None
    ) -> list[Embedded]:
        """Class and embedding of encoded images.

        Args:
            images: the images, encoded.
            decoder: has the limits of all of them together.
            item: what the error message calls each of many.
        """
        self._check_model()
        uploads = decoder.decode(images, item=item)
        first = next(uploads)  # an image that is refused loads no model
        embedder = self._load()
        return embedder.embed_regions(map(_to_tensor, chain([first], uploads)))

    def embed_boxes(
        self, image: bytes, boxes: NDArray[np.float64], decoder: UploadDecoder, *, stored: bool
    ) -> tuple[list[Embedded], tuple[int, int], NDArray[np.float64]]:
        """Class and embedding of boxes of an encoded frame, cropped as extraction crops them.

        Args:
            image: the frame.
            boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels.
            decoder: its pixels bound the frame, and the sum of all crops.
            stored: the boxes are of the stored pixels, not of the upright frame.

        Returns:
            Class and embedding of each box, the frame's width and height, and the boxes of the
            upright frame.
        """
        self._check_model()
        (upload,) = decoder.decode([image])
        if stored:
            if upload.header is None:
                raise ApiError(422, "invalid_image", "the frame's rotation cannot be read")
            boxes = upload.header.to_upright(boxes)
        embedder = self._load()
        from pipelines.images.errors import ImageError
        from pipelines.images.pixels import crop  # late: torch takes seconds

        pixels = _to_tensor(upload)
        regions = []
        for number, box in enumerate(boxes.tolist()):
            try:
                regions.append(crop(pixels, tuple(box)))
            except ImageError as error:
                raise ApiError(422, "invalid_box", f"detection {number}: {error}") from None
        covered = sum(region.shape[1] * region.shape[2] for region in regions)
        if covered > decoder.max_pixels:
            raise ApiError(
                422,
                "image_too_large",
                f"the boxes cover {covered} pixels in all; this server crops up to "
                f"{decoder.max_pixels} of a frame: send fewer or smaller boxes, or a smaller frame",
            )
        return embedder.embed_regions(regions), (pixels.shape[2], pixels.shape[1]), boxes

    def _check_model(self) -> ModelInfo:
        if self._model is None:
            raise ApiError(
                422,
                "no_model",
                "this index holds vectors that were made elsewhere, so there is no model to embed an "
                "image with; search by detection_id or vector",
            )
        return self._model

    def _load(self) -> Embedder:
        model = self._check_model()
        from pipelines.engines.embed import Embedder  # late: torch takes seconds

        with self._lock:
            if self._embedder is None:
                try:
                    self._embedder = Embedder.load(model)
                except ModelError as error:
                    # The text names the checkpoint's folder, which clients must not see.
                    logger.error("the index's model cannot be loaded: %s", error)
                    raise ApiError(
                        503,
                        "model_unavailable",
                        f"this server cannot load the index's model {model.request.spec}; "
                        "its log says why. Searching by detection_id or vector needs no model",
                    ) from None
            return self._embedder


def _to_tensor(upload: Upload) -> torch.Tensor:
    import torch  # late: it takes seconds

    return torch.from_numpy(upload.pixels).permute(2, 0, 1)
