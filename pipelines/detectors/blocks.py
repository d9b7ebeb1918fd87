"""Answers a part of the images: reads each, calls the detector, writes their rows."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from common.json_models import write_atomic
from common.moved import ImageRoot
from common.parquet import parquet_bytes
from pipelines.detected.config import DetectConfig
from pipelines.detected.folder import PLAN_COLUMNS, SCHEMA
from pipelines.detections import BOX
from pipelines.detectors.detector import Boxes, Detector
from pipelines.frame_names import parse_frame
from pipelines.images.errors import ImageError
from pipelines.images.header import ImageHeader, read_header
from pipelines.images.reader import ImageReader


@dataclass(frozen=True)
class Block:
    """A task: images of one part."""

    file: Path  # to write
    images: pa.Table  # number, and PLAN_COLUMNS
    root: ImageRoot
    config: DetectConfig


def answer(block: Block) -> int:
    """Find the boxes of every image of a block, and write its part.

    Returns:
        The number of images.
    """
    detector = detector_of(block.config)
    rows = block.images.to_pylist()
    upcoming = [row["image"] for row in rows]
    with closing(ImageReader(block.root, upcoming)) as reader:
        answers = [row | _of_image(row["image"], block.root, reader, detector) for row in rows]
    table = pa.Table.from_pylist(answers, SCHEMA)
    write_atomic(block.file, parquet_bytes(table).to_pybytes())
    return len(rows)


@lru_cache(maxsize=1)
def detector_of(config: DetectConfig) -> Detector:
    """The detector, which a process loads once, however many blocks it answers."""
    return Detector(config)


def _of_image(
    name: str, root: ImageRoot, reader: ImageReader, detector: Detector
) -> dict[str, Any]:
    """The columns that the image adds to its row of the plan."""
    try:
        upright = reader.read(name).pixels
        height, width = upright.shape[1:]
        is_frame = parse_frame(name) is not None  # which is shown as it is stored
        header = ImageHeader(width, height) if is_frame else read_header(root, name)
    except ImageError as error:
        return {"error": str(error)}
    found = detector(as_stored(upright, header))
    size = {"width": header.width, "height": header.height, "orientation": header.orientation}
    return size | {"boxes": _structs(found)}


def as_stored(upright: torch.Tensor, header: ImageHeader) -> torch.Tensor:
    """Pixels ``[3, H, W]`` as they are in the file, before EXIF turns them."""
    turned = upright if header.orientation < 5 else upright.transpose(1, 2)
    flips = {2: (2,), 3: (1, 2), 4: (1,), 6: (1,), 7: (1, 2), 8: (2,)}.get(header.orientation)
    return turned if flips is None else turned.flip(flips)


def _structs(found: Boxes) -> list[dict[str, Any]]:
    return [
        dict(zip(BOX, corners, strict=True)) | {"detector_score": score, "detector_label": label}
        for corners, score, label in zip(
            found.corners.tolist(), found.score.tolist(), found.label, strict=True
        )
    ]


def blocks_of(
    plan: pa.Table, config: DetectConfig, root: ImageRoot, folder: Path, names: list[str], size: int
) -> list[Block]:
    """The blocks of a plan whose parts are not there yet.

    Args:
        plan: the images, in order.
        config: of the detection.
        root: where the images are.
        folder: of the detections.
        names: of all parts.
        size: images of a part.
    """
    columns = ["number", *PLAN_COLUMNS]
    return [
        Block(
            folder / name,
            plan.select(columns).slice(at * size, size).combine_chunks(),
            root,
            config,
        )
        for at, name in enumerate(names)
        if not (folder / name).is_file()
    ]
