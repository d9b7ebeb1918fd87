"""Files of boxes as other tools write them, of images in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def megadetector(file: Path, images: list[dict[str, Any]], **info: Any) -> Path:
    """MegaDetector's JSON of ``images`` (``file``, ``detections``, ``failure``)."""
    categories = {"1": "animal", "2": "person", "3": "vehicle"}
    return _write(file, {"info": info, "detection_categories": categories, "images": images})


def coco(file: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
    """COCO's JSON with the categories moth (1) and empty (2)."""
    categories = [{"id": 1, "name": "moth"}, {"id": 2, "name": "empty"}]
    return _write(file, {"images": images, "annotations": annotations, "categories": categories})


def label_studio(file: Path, tasks: list[dict[str, Any]]) -> Path:
    """Label Studio's JSON."""
    return _write(file, tasks)


def rectangle(percent: tuple[float, ...], size: tuple[int, int], **more: Any) -> dict[str, Any]:
    """A region of Label Studio: x, y, width, height in percent."""
    value = dict(zip(("x", "y", "width", "height"), percent, strict=True))
    return {
        "type": "rectanglelabels",
        "original_width": size[0],
        "original_height": size[1],
        "value": {**value, "rotation": 0, "rectanglelabels": ["moth"]} | more,
    }


def cvat(file: Path, inside: str) -> Path:
    """CVAT's XML with ``inside`` between the tags."""
    file.write_text(
        f"<?xml version='1.0'?>\n<annotations><version>1.1</version>{inside}</annotations>"
    )
    return file


def _write(file: Path, document: Any) -> Path:
    file.write_text(json.dumps(document))
    return file
