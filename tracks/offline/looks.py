"""Embeddings made short: centred by their mean, on the axes in which they vary most, of length 1.

The mean is what all detections share, the scene and the kind of animal; cosines without it tell individuals
apart much better. Few axes hold nearly all that varies, and make a sequence fit into memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

AXES = 64
SAMPLE = 2_000  # embeddings that the axes are fitted to


class Shortener:
    """Fitted to a sample of embeddings ``[S, D]``."""

    def __init__(self, sample: npt.NDArray[np.float32]) -> None:
        self._mean = sample.mean(axis=0)
        centred = (sample - self._mean).astype(np.float64)
        count, dim = centred.shape
        axes = min(AXES, count, dim)
        if count < dim:  # the same axes from the smaller matrix
            values, left = eigh(centred @ centred.T, subset_by_index=[count - axes, count - 1])
            basis = centred.T @ left / np.sqrt(np.maximum(values, 1e-12))
        else:
            _, basis = eigh(centred.T @ centred, subset_by_index=[dim - axes, dim - 1])
        self._basis = basis.astype(np.float32)

    def __call__(self, embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Short ones ``[N, R]`` of length 1; 0 where an embedding is the mean itself."""
        short = (embeddings - self._mean) @ self._basis
        length = np.linalg.norm(short, axis=1, keepdims=True)
        unit: npt.NDArray[np.float32] = np.zeros_like(short)
        np.divide(short, length, out=unit, where=length > 0)
        return unit
