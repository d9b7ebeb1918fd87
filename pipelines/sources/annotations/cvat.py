"""CVAT's XML: "CVAT for images" and "CVAT for video", boxes in pixels.

CVAT turns images by EXIF when it shows them, and writes the size of the upright image.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from common.errors import SourceError
from pipelines.frame_names import frame_name
from pipelines.sources.annotations.rows import LABEL, TRACK, Rows, number, whole
from pipelines.sources.boxes import BoxesGiven

_SHAPES = ("polygon", "polyline", "points", "ellipse", "mask", "cuboid", "skeleton")


def read_cvat(root: Element, where: str, folder: Path) -> tuple[Rows, BoxesGiven]:
    """The rows of CVAT's XML.

    Args:
        root: of the document.
        where: the file, for error messages.
        folder: where its images or its video are.

    Raises:
        SourceError: it is no XML of CVAT, or the frames of its tracks are not found.
    """
    if root.tag != "annotations":
        raise SourceError(f"{where}: XML of CVAT begins with <annotations>, not with <{root.tag}>")
    rows = Rows((LABEL, TRACK), layout="xyxy")
    turned = _read_images(root, rows, where)
    if root.find("track") is not None:
        turned += _read_tracks(root, rows, where, folder)
    other = Counter(shape for shape in _SHAPES for _ in root.iter(shape))
    for shape, count in sorted(other.items()):
        rows.note(count, f"annotations are of kind {shape}, not boxes, and no row")
    rows.note(turned, "boxes are rotated; the upright box around each is taken")
    return rows, BoxesGiven("pixels", None, because="as their width and height in the file say")


def _read_images(root: Element, rows: Rows, where: str) -> int:
    turned = empty = whole = 0
    images = root.findall("image")
    for position, image in enumerate(images):
        name = image.get("name")
        if not name:
            raise SourceError(f"{where}: image {position} has no name")
        rows.set_size(name, image.get("width"), image.get("height"))
        boxes, tags = image.findall("box"), image.findall("tag")
        for box in boxes:
            turned += bool(number(box.get("rotation")))
            rows.add(name, _corners(box), **{LABEL: box.get("label")})
        if tags and not boxes:
            whole += 1
            labels = dict.fromkeys(tag.get("label") or "" for tag in tags)
            rows.add(name, **{LABEL: "; ".join(labels)})
        empty += not (boxes or tags)
    rows.note(empty, f"of {len(images)} images have no boxes, and no row")
    rows.note(whole, "images have tags without a box: whole images")
    return turned


def _read_tracks(root: Element, rows: Rows, where: str, folder: Path) -> int:
    name_of = _frames(root, where, folder)
    turned = outside = 0
    for position, track in enumerate(root.findall("track")):
        identity = track.get("id") or str(position)
        for box in track.findall("box"):
            if box.get("outside") == "1":
                outside += 1
                continue
            frame = whole(box.get("frame"))
            if frame is None:
                raise SourceError(f"{where}: a box of track {identity} has no frame")
            turned += bool(number(box.get("rotation")))
            columns: dict[str, Any] = {LABEL: track.get("label"), TRACK: identity}
            rows.add(name_of(frame), _corners(box), frame=frame, **columns)
    rows.note(outside, "boxes are marked as outside of the picture, and no row")
    return turned


def _frames(root: Element, where: str, folder: Path) -> Any:
    """The name of the image of a frame: in a video, or CVAT's own images of its frames."""
    source = next((element.text for element in root.iter("source") if element.text), None)
    video = None if source is None else PurePosixPath(source.replace("\\", "/")).name
    if video is not None and (folder / video).is_file():
        return lambda frame: frame_name(video, frame)
    for suffix in (".PNG", ".png", ".jpg"):
        pattern = f"images/frame_{{:06d}}{suffix}"
        if any((folder / "images").glob(f"frame_*{suffix}")):
            return pattern.format
    raise SourceError(
        f"{where}: the frames of its tracks are neither in {folder / (video or 'its video')} nor in "
        f"{folder / 'images'}; bring them there, or say where with `images='{folder}=FOLDER'`"
    )


def _corners(box: Element) -> Any:
    corners = [number(box.get(side)) for side in ("xtl", "ytl", "xbr", "ybr")]
    angle = number(box.get("rotation"))
    if not angle or None in corners:
        return corners
    left, top, right, bottom = (side or 0.0 for side in corners)
    return enclosing((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, angle)


def enclosing(
    centre_x: float, centre_y: float, width: float, height: float, degrees: float
) -> tuple[float, float, float, float]:
    """The upright box around a box that is rotated about its centre, as x1, y1, x2, y2."""
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    half_x, half_y = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y
