"""MegaDetector's JSON: boxes as shares of the image, with a score; failures become error rows.

Its loader (``open_image`` of ``visualization_utils``) turns an image by EXIF before it is detected
in, so its boxes are of the upright image.
"""

from __future__ import annotations

from typing import Any

from common.errors import SourceError
from pipelines.frame_names import frame_name
from pipelines.sources.annotations.rows import LABEL, SCORE, Rows, number, text, whole
from pipelines.sources.boxes import BoxesGiven

_USUAL_THRESHOLD = 0.2  # MegaDetector 5's own, where the file does not say one


def is_megadetector(document: Any) -> bool:
    """Whether a JSON document is of MegaDetector."""
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        return False
    first: Any = next(iter(document["images"]), {})
    return "detection_categories" in document or (
        isinstance(first, dict) and "file" in first and "detections" in first
    )


def read_megadetector(document: Any, where: str) -> tuple[Rows, BoxesGiven]:
    """The rows of a document of MegaDetector.

    Raises:
        SourceError: an image has no name.
    """
    rows = Rows((LABEL, SCORE))
    categories = document.get("detection_categories") or {}
    threshold = _threshold(document)
    empty = failed = low = 0
    for position, image in enumerate(document["images"]):
        if not isinstance(image, dict) or not text(image.get("file")):
            raise SourceError(f"{where}: image {position} has no 'file'")
        name = str(image["file"])
        detections = image.get("detections")
        if image.get("failure") or detections is None:
            failed += 1
            rows.add(name, problem=f"detector failed: {image.get('failure') or 'no detections'}")
            continue
        empty += not detections
        for detection in detections:
            score = number(detection.get("conf"))
            low += score is not None and score < threshold
            category = text(detection.get("category"))
            frame = detection.get("frame_number")  # of a video
            label = text(categories.get(category, category))
            box, columns = detection.get("bbox") or (), {LABEL: label, SCORE: score}
            if frame is None:
                rows.add(name, box, problem=None, **columns)
            elif (place := whole(frame)) is not None:
                rows.add(frame_name(name, place), box, problem=None, **columns)
            else:
                problem = f"missing frame: {frame!r:.60} is no number of a frame"
                rows.add(name, problem=problem, **columns)
    rows.note(empty, f"of {len(document['images'])} images have no detections, and no row")
    rows.note(failed, "images failed in the detector; they are rows with an error")
    rows.note(
        low,
        f"of {len(rows)} detections have a score below {threshold:g}, the detector's own threshold; "
        f"they are rows as well (column {SCORE})",
    )
    return rows, BoxesGiven("normalised", because="because MegaDetector turns images by EXIF")


def _threshold(document: Any) -> float:
    info = document.get("info") or {}
    metadata = info.get("detector_metadata") or {} if isinstance(info, dict) else {}
    stated = metadata.get("typical_detection_threshold") if isinstance(metadata, dict) else None
    return number(stated) or _USUAL_THRESHOLD
