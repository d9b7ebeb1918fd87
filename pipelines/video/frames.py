"""Images by name, whatever they stand in: an image file, a video, a file of tensors."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.images import Decoded, ImageError, decode, read
from pipelines.video.layout import parse_frame

if TYPE_CHECKING:
    from pipelines.video.container import VideoFile
    from pipelines.video.tensors import TensorFile

TENSOR_SUFFIXES = frozenset({".pt", ".pth"})


class ImageReader:
    """Reads images of one folder by name; keeps the video of the last name open.

    Args:
        root: folder that relative names start from.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name: str | None = None
        self._open: VideoFile | TensorFile | ImageError | None = None

    def read(self, name: str) -> Decoded:
        """The image called ``name``.

        Raises:
            ImageError: it cannot be read, for whatever reason.
        """
        frame = parse_frame(name)
        if frame is None:
            return decode(read(self._root / name))
        if frame.file != self._name:
            self.close()
            self._name, self._open = frame.file, self._opened(self._root / frame.file)
        if isinstance(self._open, ImageError):  # every frame of such a video says the same
            raise self._open
        assert self._open is not None
        return Decoded(self._open.frame(frame.frame, frame.clip or 0), taken=None)

    @staticmethod
    def _opened(file: Path) -> VideoFile | TensorFile | ImageError:
        # PyAV loads FFmpeg, which a run of photos never needs.
        from pipelines.video.container import VideoFile
        from pipelines.video.tensors import TensorFile

        try:
            return TensorFile(file) if file.suffix.lower() in TENSOR_SUFFIXES else VideoFile(file)
        except ImageError as error:
            return error

    def close(self) -> None:
        """Close the video that is open, if one is."""
        if self._open is not None and not isinstance(self._open, ImageError):
            self._open.close()
        self._name = self._open = None


def open_image(root: Path, name: str) -> Decoded:
    """One image by name; for many of one video an ``ImageReader`` opens it once.

    Raises:
        ImageError: it cannot be read, for whatever reason.
    """
    with closing(ImageReader(root)) as reader:
        return reader.read(name)
