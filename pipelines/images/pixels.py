"""What an image is, and from pixels to network input: read, crop the box, resize.

torch's own resize is about twice as fast as Pillow's. torchvision could do the same, but importing
it costs each process three seconds of a core. Pixels stay uint8 until they are on the device,
because float32 is four times as large to transfer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from common.storage import is_access_denied, is_remote, open_file, storage_errors
from pipelines.images.errors import ImageError
from pipelines.model_info import Preprocess


@dataclass(frozen=True)
class Decoded:
    """One decoded image: RGB uint8 ``[3, H, W]``, upright, and its EXIF time if it has one."""

    pixels: torch.Tensor
    taken: datetime | None
    damage: str | None = None  # what is wrong with it, where damaged images are kept


def read(path: Path) -> bytes:
    """Read an image file.

    Raises:
        ImageError: missing, a folder, unreadable, or empty.
        StorageError: an object store did not answer.
    """
    try:
        data = _read_bytes(path)
    except FileNotFoundError:
        raise ImageError("missing file", f"{path.name} does not exist") from None
    except OSError as error:
        if is_remote(path) and not is_access_denied(error):
            with storage_errors(path):
                raise
        reason = error.strerror or "access denied"
        raise ImageError("unreadable file", f"{path.name}: {reason}") from None
    if not data:
        raise ImageError("empty file", f"{path.name} has 0 bytes")
    return data


def _read_bytes(path: Path) -> bytes:
    if is_remote(path):
        return path.read_bytes()
    with open_file(path) as stream:
        return stream.read()


def crop(pixels: torch.Tensor, box: tuple[float | None, ...]) -> torch.Tensor:
    """Crop ``box`` (x1, y1, x2, y2 in pixels; all None: everything) from ``[3, H, W]``.

    The box is rounded outward to whole pixels and clipped to the image.

    Raises:
        ImageError: incomplete, not finite, without area, or wholly outside.
    """
    if all(value is None for value in box):
        return pixels
    if any(value is None for value in box):
        raise ImageError("incomplete box", f"{box} has some corners missing")
    x1, y1, x2, y2 = corners = [float(value) for value in box if value is not None]
    if not all(math.isfinite(value) for value in corners):
        raise ImageError("box not finite", f"{corners}")
    if x2 <= x1 or y2 <= y1:
        raise ImageError("box without area", f"{corners} (x1,y1,x2,y2)")
    height, width = pixels.shape[1:]
    left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
    right, bottom = min(width, math.ceil(x2)), min(height, math.ceil(y2))
    if left >= right or top >= bottom:
        raise ImageError("box outside image", f"{corners} in {width}x{height}")
    return pixels[:, top:bottom, left:right]


def resize(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """Resize uint8 ``[3, h, w]`` to the network's input size, as its weights expect.

    ``squash`` ignores the aspect ratio; ``crop`` resizes the short side to ``size / crop_pct``
    and keeps the centre; ``pad`` keeps the whole image and fills the rest with the mean colour,
    which is zero after normalisation.
    """
    height, width = preprocess.input_size

    def resized(h: int, w: int) -> torch.Tensor:
        size = [max(1, h), max(1, w)]
        if list(pixels.shape[1:]) == size:
            return pixels
        return interpolate(
            pixels[None], size, mode=preprocess.interpolation, align_corners=False, antialias=True
        )[0]

    if preprocess.resize == "squash":
        return resized(height, width)
    if preprocess.resize == "crop":
        pixels = _shorten(pixels, height / width)
        have_h, have_w = pixels.shape[1:]
        crop_pct = preprocess.crop_pct
        scale = max(height / crop_pct / have_h, width / crop_pct / have_w)
        full = resized(
            max(height, int(have_h * scale + 1e-6)), max(width, int(have_w * scale + 1e-6))
        )
        top, left = round((full.shape[1] - height) / 2), round((full.shape[2] - width) / 2)
        return full[:, top : top + height, left : left + width]
    have_h, have_w = pixels.shape[1:]
    scale = min(height / have_h, width / have_w)
    inner = resized(round(have_h * scale), round(have_w * scale))
    fill = torch.tensor([round(255 * value) for value in preprocess.mean], dtype=torch.uint8)
    canvas = fill[:, None, None].expand(3, height, width).clone()
    top, left = (height - inner.shape[1]) // 2, (width - inner.shape[2]) // 2
    canvas[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    return canvas


def _shorten(pixels: torch.Tensor, aspect: float) -> torch.Tensor:
    """Keep the centre of a strip more than four times longer than the crop needs.

    The rest would be resized and then discarded, and a strip of 30,000 x 1 pixels would take
    gigabytes on the way.
    """
    height, width = pixels.shape[1:]
    keep_h = min(height, max(1, math.ceil(4 * width * max(1.0, aspect))))
    keep_w = min(width, max(1, math.ceil(4 * height * max(1.0, 1 / aspect))))
    top, left = (height - keep_h) // 2, (width - keep_w) // 2
    return pixels[:, top : top + keep_h, left : left + keep_w]
