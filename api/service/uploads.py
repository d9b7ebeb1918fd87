"""Decodes the images of requests: in a process of their own, within the limits of this server."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

from api.config import Limits
from api.http.errors import ApiError
from common.errors import UnavailableError
from pipelines.images.errors import ImageError
from pipelines.images.isolated import TOO_MUCH_MEMORY, TOO_SLOW, Decode, IsolatedDecoder
from pipelines.images.isolated_child import CRASHED, OVER_LIMIT, Upload, decode_upload

logger = logging.getLogger("onepass.api")


class UploadDecoder:
    """Decodes images that clients send; blocks.

    Args:
        limits: of the server.
        decode: as for ``IsolatedDecoder``.

    Attributes:
        max_pixels: of the images of one request together.
    """

    def __init__(self, limits: Limits, decode: Decode = decode_upload) -> None:
        self.max_pixels = limits.pixels
        self._seconds = limits.decode_seconds
        self._decoder = IsolatedDecoder(limits.pixels, decode)

    def decode(self, images: Sequence[bytes], *, item: str | None = None) -> Iterator[Upload]:
        """Decode the images of one request, each when it is asked for.

        Args:
            images: the images, encoded.
            item: what the error message calls each of many.

        Raises:
            ApiError: 422, one is not valid, or larger than the server takes, in pixels, time or
                memory; 503, this machine cannot start a process.
        """
        pixels, seconds = self.max_pixels, self._seconds
        try:
            self._decoder.start()
            for number, image in enumerate(images):
                prefix = f"{item} {number}: " if item else ""
                began = time.monotonic()
                try:
                    upload = self._decoder.decode(image, max_pixels=pixels, seconds=seconds)
                except ImageError as error:
                    raise self._refusal(error, prefix) from None
                seconds = max(0.0, seconds - (time.monotonic() - began))
                pixels -= upload.pixels.shape[0] * upload.pixels.shape[1]
                yield upload
                del upload  # it may be the server's largest piece of memory
        except UnavailableError as error:
            logger.error("%s", error)
            message = "this server cannot decode images now; try again in a few seconds"
            raise ApiError(503, "unavailable", message, headers={"retry-after": "5"}) from None

    def _refusal(self, error: ImageError, prefix: str) -> ApiError:
        if error.kind == OVER_LIMIT:
            so_far = f"{prefix}with those before it, " if prefix else ""
            return ApiError(
                422,
                "image_too_large",
                f"{so_far}the image has more than this server's {self.max_pixels} pixels; send it "
                "smaller",
            )
        message = str(error)
        if error.kind == TOO_SLOW:
            message = (
                f"{TOO_SLOW}: this server decodes the images of a request for up to "
                f"{self._seconds:g} s; send them smaller, or as JPEG"
            )
        if error.kind in (CRASHED, TOO_MUCH_MEMORY, TOO_SLOW):
            logger.warning("the decoder failed at an upload: %s", message)
        return ApiError(422, "invalid_image", f"{prefix}{message}")

    def close(self) -> None:
        """End the process."""
        self._decoder.close()
