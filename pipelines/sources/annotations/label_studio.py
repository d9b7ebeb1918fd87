"""Label Studio's JSON: rectangles in percent of the image as a browser shows it.

Browsers turn an image by EXIF, so ``original_width`` and ``original_height`` are of the upright
image; those of predictions that were imported may be of the stored one.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlparse

from common.errors import SourceError
from pipelines.sources.annotations.cvat import enclosing
from pipelines.sources.annotations.rows import LABEL, SCORE, Rows, number, size_of
from pipelines.sources.boxes import BoxesGiven

_RECTANGLES = ("rectanglelabels", "rectangle")
_NOT_SHAPES = ("choices", "labels", "textarea", "rating", "taxonomy")


def is_label_studio(document: Any) -> bool:
    """Whether a JSON document is an export of Label Studio."""
    return (
        isinstance(document, list)
        and bool(document)
        and isinstance(document[0], dict)
        and isinstance(document[0].get("data"), dict)
    )


def read_label_studio(document: Any, where: str, folder: Path) -> tuple[Rows, BoxesGiven]:
    """The rows of an export of Label Studio.

    Args:
        document: a list of tasks.
        where: the file, for error messages.
        folder: where the images are, for names that Label Studio has changed.

    Raises:
        SourceError: a task has no image.
    """
    rows = Rows((LABEL, SCORE), layout="xywh")
    counts: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for position, task in enumerate(document):
        name = _image(task.get("data") or {}, folder)
        if name is None:
            raise SourceError(f"{where}: task {task.get('id', position)} names no image")
        results = _results(task, counts)
        rectangles = [result for result in results if result.get("type") in _RECTANGLES]
        other.update(
            str(result.get("type"))
            for result in results
            if result.get("type") not in (*_RECTANGLES, *_NOT_SHAPES)
        )
        counts["empty"] += not rectangles
        for result in rectangles:
            _add(rows, name, result, counts)
    rows.note(counts["empty"], f"of {len(document)} tasks have no rectangles, and no row")
    rows.note(
        counts["several"],
        "tasks have several annotations; that of the ground truth is taken, else the latest",
    )
    rows.note(counts["rotated"], "rectangles are rotated; the upright box around each is taken")
    for kind, count in sorted(other.items()):
        rows.note(count, f"regions are of type {kind}, not rectangles, and no row")
    because = (
        "because browsers turn images by EXIF, unless their size in the file is the stored one"
    )
    return rows, BoxesGiven("normalised", None, because=because)


def _add(rows: Rows, name: str, result: Any, counts: Counter[str]) -> None:
    value = result.get("value") or {}
    sides = [number(value.get(side)) for side in ("x", "y", "width", "height")]
    size = size_of(result.get("original_width"), result.get("original_height"))
    rows.set_size(name, *(size or (None, None)))
    box: list[Any] = [side if side is None else side / 100 for side in sides]
    problem = None
    if number(result.get("image_rotation")):
        problem = f"image rotated in Label Studio: by {result['image_rotation']} degrees"
    elif (angle := number(value.get("rotation"))) and None not in sides:
        counts["rotated"] += 1
        if size is None:
            problem = "rotated box: its image's original_width and original_height are not given"
        else:
            box = _around(box, angle, size)
    labels = value.get("rectanglelabels") or value.get("labels") or []
    columns = {LABEL: "; ".join(map(str, labels)) or None, SCORE: number(result.get("score"))}
    rows.add(name, box, problem=problem, **columns)


def _around(box: list[Any], angle: float, size: tuple[int, int]) -> list[float]:
    """The upright box around one that is rotated about its left top corner, as shares of the image."""
    width, height = size
    x, y, w, h = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    centre_x, centre_y = x + (w * cos - h * sin) / 2, y + (w * sin + h * cos) / 2
    left, top, right, bottom = enclosing(centre_x, centre_y, w, h, angle)
    return [left / width, top / height, (right - left) / width, (bottom - top) / height]


def _results(task: Any, counts: Counter[str]) -> list[Any]:
    """The regions of one annotation of a task."""
    annotations = [
        each
        for each in task.get("annotations") or task.get("completions") or []
        if isinstance(each, dict) and not each.get("was_cancelled")
    ]
    counts["several"] += len(annotations) > 1
    if not annotations:
        return []
    chosen = max(
        enumerate(annotations),
        key=lambda each: (
            bool(each[1].get("ground_truth")),
            str(each[1].get("updated_at") or each[1].get("created_at") or ""),
            each[0],
        ),
    )[1]
    return [result for result in chosen.get("result") or [] if isinstance(result, dict)]


def _image(data: dict[str, Any], folder: Path) -> str | None:
    """The name of a task's image: as it was imported, or as Label Studio keeps it."""
    values = {key: value for key, value in data.items() if isinstance(value, str) and value}
    value = values.get("image") or next((v for v in values.values() if "." in v), None)
    if value is None:
        return None
    url = urlparse(value)
    if url.path.endswith("/local-files/") and "d" in (query := parse_qs(url.query)):
        return query["d"][0]
    if url.scheme in ("http", "https") or url.path.startswith("/data/upload/"):
        name = PurePosixPath(url.path).name
        # Label Studio puts eight digits and a dash before the names of uploads.
        plain = name[9:] if name[8:9] == "-" else name
        beside = next((each for each in (name, plain) if (folder / each).is_file()), None)
        return beside or (url.path if url.path.startswith("/data/upload/") else name)
    return value
