"""Why an image has no pixels."""

from __future__ import annotations

MAX_PIXELS = 300_000_000  # 900 MB decoded: past that a header is more likely a bomb than a photo

DAMAGED = "damaged image"  # kinds of errors that several decoders raise
UNSUPPORTED = "unsupported image"
UNKNOWN_SCALE = "unknown scale"
TOO_LARGE = "too large"


class ImageError(ValueError):
    """This image or box has no pixels to embed; errors are counted by ``kind``."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
