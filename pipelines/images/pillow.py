"""Images of a few of Pillow's formats, opened and turned into RGB.

Pillow knows some forty, one of which starts Ghostscript; only those in ``FORMATS`` are tried.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from PIL import (  # each plugin registers its formats
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    DdsImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageCms,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TgaImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from common.errors import first_line
from pipelines.images.errors import (
    DAMAGED,
    MAX_PIXELS,
    TOO_LARGE,
    UNKNOWN_SCALE,
    UNSUPPORTED,
    ImageError,
)
from pipelines.images.scale import to_bytes

_FIRST_BYTES = 16  # that Pillow's formats are told apart by
_CERTAIN = frozenset({"AVIF", "GIF", "JPEG", "JPEG2000", "PNG", "WEBP"})  # by their first bytes
# As Pillow names them: MPO is a JPEG to it, PGM, PBM and PFM are PPM. TGA is the last, because
# hardly anything in a file says that it is one.
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "DIB",
    "AVIF",
    "JPEG2000",
    "PPM",
    "TIFF",
    "DDS",
    "TGA",
)
KNOWN = "known are " + ", ".join(FORMATS)


class _Quiet:
    """Silences warnings while any thread is inside.

    ``catch_warnings`` alone is for one thread: another may have changed the filters it restores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._before.__exit__(None, None, None)


quiet = _Quiet()
_limit_lock = threading.Lock()


def open_image(stream: IO[bytes]) -> Image.Image | None:
    """Open an image as ``Image.open`` does, but of any size; None if it has no known format.

    ``Image.open`` refuses what is over twice ``Image.MAX_IMAGE_PIXELS``, which belongs to the whole
    process; here the caller checks the size.

    Raises:
        ImageError: it begins as a well-known format, and goes on as none; or it is too large.
    """
    damage: ImageError | None = None
    first = stream.read(_FIRST_BYTES)
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        try:
            accepted = _may_be_tga(first) if accept is None else accept(first)
            if accepted and not isinstance(accepted, str):  # a text: Pillow lacks the library
                return _construct(factory, stream)
        except ImageError:
            raise
        except Exception as error:  # of a damaged header: any; perhaps it is another format
            if name in _CERTAIN and damage is None:
                damage = ImageError(DAMAGED, f"{name}: {first_line(error)}")
    if damage is not None:
        raise damage
    return None


def _may_be_tga(first: bytes) -> bool:
    """Whether a file may be a TGA, which has no mark; icons, cursors and MPEG look like one."""
    if len(first) < _FIRST_BYTES:
        return False
    _, has_palette, kind, *palette = first[:8]
    needs_palette = kind in (1, 9)
    return bool(has_palette) if needs_palette else has_palette == 1 or not any(palette)


def _construct(factory: Callable[..., Image.Image], stream: IO[bytes]) -> Image.Image:
    """Open by one format. Those of WebP and MPO check ``MAX_IMAGE_PIXELS`` themselves."""
    stream.seek(0)
    try:
        return factory(stream, "")
    except Image.DecompressionBombError:
        stream.seek(0)
        with _limit_lock:
            usual = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # an error is raised at twice that
            try:
                return factory(stream, "")
            except Image.DecompressionBombError:
                raise ImageError(TOO_LARGE, f"it is over {MAX_PIXELS} pixels") from None
            finally:
                Image.MAX_IMAGE_PIXELS = usual


def to_rgb(image: Image.Image) -> np.ndarray:
    """Pixels of an opened image, uint8 ``[H, W, 3]``; transparency is dropped.

    Raises:
        ImageError: nothing says how its values become colours.
        Exception: Pillow's decoders raise nearly any for damaged files.
    """
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        return np.repeat(_grey(image)[..., None], 3, axis=2)
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
        if converted is None:
            raise ImageError(UNSUPPORTED, "CIELAB colours that cannot be converted")
        image = converted
    if image.mode == "La":
        image = image.convert("LA")  # Pillow has no way from here to RGB
    return np.array(image.convert("RGB"))


def _grey(image: Image.Image) -> np.ndarray:
    """Greys of more than 8 bits. Pillow's own conversion clips them, which turns them white."""
    values = np.asarray(image)
    if image.mode != "F" and image.format in ("PPM", "PNG", "JPEG2000"):
        return (values >> 8).clip(0, 255).astype(np.uint8)  # Pillow has scaled them to 16 bits
    if image.mode == "I":
        raise ImageError(
            UNKNOWN_SCALE, f"{image.format} of 32-bit integers: nothing says which is white"
        )
    return to_bytes(values)
