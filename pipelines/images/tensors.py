"""Clips stored as tensors: ``[N, T, C, H, W]`` or ``[T, C, H, W]`` in a ``.pt`` file.

The tensor is the file's content, or ``videos`` of a dict. It is mapped into memory, so that only
the used frames are read.
"""

from __future__ import annotations

from pathlib import Path

import torch

from common.untrusted import read_tensors
from pipelines.images.errors import ImageError

KIND = "damaged tensors"


class TensorFile:
    """The clips of one file; ``[T, C, H, W]`` is one clip.

    Raises:
        ImageError: missing, not such a file, or of another shape.
    """

    def __init__(self, file: Path) -> None:
        self._name = file.name
        try:
            data = read_tensors(file, mmap=True)
        except FileNotFoundError:
            raise ImageError("missing file", f"{file.name} does not exist") from None
        except ValueError as error:
            raise ImageError(KIND, f"{file.name} cannot be read as tensors: {error}") from None
        videos = data.get("videos") if isinstance(data, dict) else data
        if not isinstance(videos, torch.Tensor):
            raise ImageError(KIND, f"{file.name} holds no tensor, nor a dict with one in 'videos'")
        if videos.ndim == 4:
            videos = videos[None]
        if videos.ndim != 5 or videos.shape[2] not in (1, 3) or not videos.numel():
            raise ImageError(
                KIND,
                f"{file.name} is {list(videos.shape)}; [N, T, C, H, W] or [T, C, H, W] with 1 or "
                "3 channels is wanted",
            )
        self._videos = videos
        self._scale: dict[int, float] = {}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Clips, frames each, height and width in pixels."""
        clips, frames, _, height, width = self._videos.shape
        return clips, frames, height, width

    def close(self) -> None:
        """Release the file."""
        del self._videos

    def frame(self, number: int, clip: int = 0) -> torch.Tensor:
        """Frame ``number`` of a clip, RGB uint8 ``[3, H, W]``; floats of 0 to 1 are scaled to 0 to 255.

        Raises:
            ImageError: there is no such frame, or its values are no pixels.
        """
        clips, frames, _, _ = self.shape
        if not (0 <= clip < clips and 0 <= number < frames):
            raise ImageError(
                "missing frame", f"{self._name} has {clips} clips of {frames} frames, from 0"
            )
        pixels = self._videos[clip, number]
        if pixels.dtype != torch.uint8:
            pixels = (pixels.float() * self._scale_of(clip)).round().to(torch.uint8)
        return pixels.expand(3, -1, -1)

    def _scale_of(self, clip: int) -> float:
        """The factor to 0..255, from all frames of the clip, because one may be dark."""
        if clip not in self._scale:
            least, most = (float(value) for value in torch.aminmax(self._videos[clip]))
            if not (least >= 0 and most <= 255):  # NaN as well
                raise ImageError(
                    KIND,
                    f"{self._name} has values from {least:.3g} to {most:.3g}, so it is normalised "
                    "already; store pixels, as 0..255 or 0..1",
                )
            is_float = self._videos.dtype.is_floating_point
            self._scale = {clip: 255.0 if is_float and most <= 1 else 1.0}
        return self._scale[clip]
