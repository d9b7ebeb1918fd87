"""A detector, called on one image at a time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from common.json_models import sha256_file
from pipelines.detected.config import DetectConfig, DetectorInfo
from pipelines.detectors.network import load_network


class Boxes(NamedTuple):
    """What was found in one image, highest score first: N boxes."""

    corners: npt.NDArray[np.float32]  # x1, y1, x2, y2 in pixels of the image [N, 4]
    score: npt.NDArray[np.float32]  # [N]
    label: list[str]  # [N]


class Detector:
    """A network with its weights, on the GPU where there is one.

    Args:
        config: which one, and which of its boxes are kept.

    Raises:
        ModelError: it cannot be built, or its weights do not fit.
    """

    def __init__(self, config: DetectConfig) -> None:
        network = load_network(
            config.detector,
            checkpoint=config.checkpoint,
            labels=config.labels,
            max_boxes=config.max_boxes,
            score=config.score,
        )
        self.info = DetectorInfo(
            spec=config.detector,
            weights_sha256=sha256_file(Path(config.checkpoint)),
            labels=network.labels,
            score=network.score,
            max_boxes=config.max_boxes,
        )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module = network.module.to(self._device)

    def __call__(self, image: torch.Tensor) -> Boxes:
        """The boxes of an RGB image, uint8 ``[3, H, W]``.

        Raises:
            RuntimeError: the device refuses, as where its memory is full.
        """
        with torch.inference_mode():
            pixels = image.to(self._device).float().div_(255)
            (found,) = self._module([pixels])
        score = found["scores"].cpu().numpy()
        corners = found["boxes"].cpu().numpy()
        kept = np.flatnonzero(score >= self.info.score)
        kept = kept[np.argsort(-score[kept], kind="stable")]
        classes = found["labels"].cpu().numpy()[kept]
        # A box without pixels is none; a network in half precision rounds corners together.
        whole = (corners[kept, 2:] > corners[kept, :2]).all(axis=1)
        names = [self.info.labels[number - 1] for number in classes[whole]]
        return Boxes(corners[kept[whole]], score[kept[whole]], names)
