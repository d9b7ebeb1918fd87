"""Images by name: from an image file, a video or a file of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import first_line
from common.moved import ImageRoot
from common.storage import is_remote
from pipelines.config import OnDamage
from pipelines.frame_names import parse_frame
from pipelines.images.errors import ImageError
from pipelines.images.formats import decode
from pipelines.images.pixels import Decoded
from pipelines.images.prefetch import Prefetcher

if TYPE_CHECKING:
    from pipelines.images.tensors import TensorFile
    from pipelines.images.video import VideoFile

TENSOR_SUFFIXES = frozenset({".pt", ".pth"})


class ImageReader:
    """Reads images of one folder by name; keeps the video of the last name open.

    Args:
        root: where the images are: the folder that relative names start from, or all of it.
        upcoming: names that will be read, in this order. A request to an object store takes
            tens of milliseconds, so the next images are fetched while one is decoded.
        damaged: ``keep`` reads as much of a damaged image file as its decoder gives.
    """

    def __init__(
        self,
        root: Path | ImageRoot,
        upcoming: Iterable[str] = (),
        *,
        damaged: OnDamage = "error",
    ) -> None:
        self._root = root if isinstance(root, ImageRoot) else ImageRoot(root)
        self._prefetcher = Prefetcher(
            file
            for name in upcoming
            if parse_frame(name) is None and is_remote(file := self._root.path(name))
        )
        self._damaged = damaged
        self._name: str | None = None
        self._open: VideoFile | TensorFile | ImageError | None = None

    def read(self, name: str) -> Decoded:
        """The image called ``name``.

        Raises:
            ImageError: it cannot be read, for whatever reason.
            StorageError: an object store did not answer.
        """
        frame = parse_frame(name)
        if frame is None:
            return decode(self._prefetcher.read(self._root.path(name)), damaged=self._damaged)
        if frame.file != self._name:
            self._close_video()
            self._name, self._open = frame.file, _opened(self._root.path(frame.file))
        if isinstance(self._open, ImageError):  # the same for every frame of the video
            raise self._open
        assert self._open is not None
        with image_errors(frame.file):
            return Decoded(self._open.frame(frame.frame, frame.clip or 0), taken=None)

    def close(self) -> None:
        """Close the open video, if any, and stop fetching."""
        self._prefetcher.close()
        self._close_video()

    def _close_video(self) -> None:
        if self._open is not None and not isinstance(self._open, ImageError):
            with suppress(Exception):  # of a damaged video
                self._open.close()
        self._name = self._open = None


def _opened(file: Path) -> VideoFile | TensorFile | ImageError:
    if is_remote(file):
        return ImageError("unreadable file", f"{file.name}: a video in an object store")
    if file.exists() and not file.is_file():  # to open a pipe waits for who writes into it
        return ImageError("unreadable file", f"{file.name}: not a file")
    # late: PyAV loads FFmpeg, which a run of photos does not need
    from pipelines.images.tensors import TensorFile
    from pipelines.images.video import VideoFile

    try:
        with image_errors(file.name):
            return TensorFile(file) if file.suffix.lower() in TENSOR_SUFFIXES else VideoFile(file)
    except ImageError as error:
        return error


@contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Whatever a decoder raises as an ``ImageError``, because one file must not end a run.

    Raises:
        MemoryError: the machine has too little memory.
    """
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError("damaged video", f"{name} cannot be read: {first_line(error)}") from None


def read_image(root: Path | ImageRoot, name: str) -> Decoded:
    """One image by name, to show it: of a damaged one as much as its decoder gives.

    For many images of one video an ``ImageReader`` opens it once.

    Raises:
        ImageError: it cannot be read, for whatever reason.
    """
    with closing(ImageReader(root, damaged="keep")) as reader:
        return reader.read(name)
