"""Detections in Python: ``detect`` and ``open_detections``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.json_models import configure
from common.moved import Moved, read_pairs
from onepass.arguments import read_path, show_progress, warn
from pipelines.detected.config import DetectConfig
from pipelines.detected.folder import Detections

if TYPE_CHECKING:
    from typing import Unpack

    from onepass.options import DetectOptions


def detect(
    source: str | Path,
    detector: str,
    out: str | Path,
    *,
    checkpoint: str | Path,
    images: Moved = None,
    progress: bool = True,
    **options: Unpack[DetectOptions],
) -> Detections:
    """Find the boxes of every image of a source, for ``extract``.

    An image without boxes is kept as one without, and one that cannot be read as an error. Boxes are
    in pixels as they are stored, before EXIF turns the image. The same call continues what is unfinished.

    Args:
        source: a folder of images or videos, a manifest with a column ``image``, or a database's URL.
        detector: ``ami:2021``, ``ami:2023``, ``ami:mobilenet-2023`` or ``torchvision:NAME``.
        out: the folder.
        checkpoint: the detector's weights.
        images: folders of images that were moved: old folder to new folder.
        progress: show a bar.
        options: fields of ``DetectConfig``: the options of the command ``onepass detect``.

    Returns:
        The finished detections, which ``extract`` takes as a source by their path.

    Raises:
        InputError: source, detector or ``out`` do not fit; nothing was written.
        WorkError: the work failed, and the same call continues it; or not one image can be read.
    """
    from pipelines.detectors.detect import detect as detect_source  # late: torch takes seconds

    config = configure(
        DetectConfig, source=source, detector=detector, checkpoint=checkpoint, **options
    )
    folder, notes = read_path("out", out), list[str]()
    with show_progress(progress) as show:
        detect_source(
            config,
            folder,
            pairs=read_pairs(images),
            report=show,
            note=notes.append,
        )
    warn(notes)
    return Detections(folder)


def open_detections(path: str | Path) -> Detections:
    """Open finished detections.

    Args:
        path: their folder.

    Raises:
        RunError: there are none, or they are unfinished.
    """
    return Detections(read_path("path", path))
