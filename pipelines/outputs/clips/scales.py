"""One clip at several speeds: which stored frames each takes, and their mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_FRAMES = 5  # a clip that is resampled has at least as many
REAL_TIME = 1.0


def scaled_frames(frames: int, scales: Sequence[float]) -> int:
    """Frames of a clip of ``frames`` frames after ``multi_scale``: those of its longest scale."""
    if tuple(scales) == (REAL_TIME,):
        return frames
    return max(_length(frames, scale) for scale in scales)


def multi_scale(clip: NDArray[np.float32], scales: Sequence[float]) -> NDArray[np.float32]:
    """The mean over ``scales`` of a clip resampled to each and zero-padded to the longest.

    The network sees one frame at a time, so resampling the stored rows equals running it on
    resampled frames. A padded zero counts in the mean. The single scale 1.0 gives the clip itself.

    Args:
        clip: ``[T, D]``, embeddings of the frames in order; at least one.
        scales: frames in the result for one in the clip, each above 0; at least one.

    Returns:
        ``[scaled_frames(T, scales), D]``
    """
    if tuple(scales) == (REAL_TIME,):
        return clip
    frames, dim = clip.shape
    padded = np.zeros((len(scales), scaled_frames(frames, scales), dim), dtype=np.float32)
    for at_scale, scale in zip(padded, scales, strict=True):
        taken = np.linspace(0, frames - 1, _length(frames, scale)).astype(int)
        at_scale[: len(taken)] = clip[taken]
    mean: NDArray[np.float32] = padded.mean(axis=0)
    return mean


def _length(frames: int, scale: float) -> int:
    return max(int(frames * scale), MIN_FRAMES)
