"""COCO's JSON, and COCO Camera Traps: images, annotations with a box in pixels, categories.

An annotation of camera traps may have no box: then the image is a row as a whole. Sequences are
``seq_id``, ``frame_num`` and ``datetime``, or ``video_id`` and ``frame_id`` of COCO for video.
COCO does not say whether boxes are of the stored or of the upright image; the ``width`` and
``height`` of an image do, unless it is rotated by 180 degrees.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from common.errors import SourceError
from pipelines.sources.annotations.rows import (
    LABEL,
    NO_IMAGE,
    SCORE,
    TRACK,
    Rows,
    number,
    text,
    time_of,
    whole,
)
from pipelines.sources.boxes import BoxesGiven


def is_coco(document: Any) -> bool:
    """Whether a JSON document is of COCO."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("images"), list)
        and isinstance(document.get("annotations"), list)
    )


def read_coco(document: Any, where: str) -> tuple[Rows, BoxesGiven]:
    """The rows of a document of COCO.

    Raises:
        SourceError: an image has no name, or two have the same id.
    """
    own = {
        SCORE: any("score" in each for each in document["annotations"]),
        TRACK: any({"track_id", "instance_id"} & each.keys() for each in document["annotations"]),
    }
    rows = Rows((LABEL, *(name for name, has in own.items() if has)))
    categories = {
        entry.get("id"): text(entry.get("name")) for entry in document.get("categories") or []
    }
    images = _images(document, where)
    labels: dict[Any, list[str]] = defaultdict(list)  # of images as a whole
    boxed = set()
    for annotation in document["annotations"]:
        key = annotation.get("image_id")
        label = categories.get(annotation.get("category_id"), text(annotation.get("category_id")))
        box = annotation.get("bbox")
        if box is None and not annotation.get("segmentation"):
            labels[key].append(label or "")
            if key in images:
                continue
        boxed.add(key)
        image = images.get(key)
        rows.add(
            NO_IMAGE if image is None else image["image"],
            () if box is None else box,
            problem=f"no image: annotation {annotation.get('id')} is of image {key}, which is not there"
            if image is None
            else None,
            **{
                LABEL: label,
                SCORE: number(annotation.get("score")),
                TRACK: text(annotation.get("track_id", annotation.get("instance_id"))),
            },
            **({} if image is None else image["columns"]),
        )
    for key, names in labels.items():
        if key in images and key not in boxed:
            joined = "; ".join(dict.fromkeys(name for name in names if name)) or None
            rows.add(images[key]["image"], **{LABEL: joined}, **images[key]["columns"])
    for image in images.values():
        rows.set_size(image["image"], *image["size"])
    without = len(images.keys() - boxed - labels.keys())
    rows.note(without, f"of {len(images)} images have no annotations, and no row")
    rows.note(
        len((labels.keys() & images.keys()) - boxed),
        "images have labels without a box: whole images",
    )
    rows.note(
        len(labels.keys() & boxed), "images have boxes, and labels without a box that are left out"
    )
    return rows, BoxesGiven("pixels", None, because="as their width and height in the file say")


def _images(document: Any, where: str) -> dict[Any, dict[str, Any]]:
    videos = {entry.get("id"): text(entry.get("name")) for entry in document.get("videos") or []}
    images: dict[Any, dict[str, Any]] = {}
    for position, entry in enumerate(document["images"]):
        name = text(entry.get("file_name")) if isinstance(entry, dict) else None
        if name is None:
            raise SourceError(f"{where}: image {position} has no 'file_name'")
        if entry.get("id") in images:
            raise SourceError(f"{where}: two images have the id {entry.get('id')!r}")
        video = entry.get("video_id")
        sequence = text(entry.get("seq_id")) or (None if video is None else videos.get(video))
        images[entry.get("id")] = {
            "image": name,
            "size": (entry.get("width"), entry.get("height")),
            "sequence": sequence,
            "frame": whole(entry.get("frame_num", entry.get("frame_id"))),
            "timestamp": time_of(entry.get("datetime")),
        }
    _number_frames(images)
    for image in images.values():
        kept = ("sequence", "frame", "timestamp")
        image["columns"] = {key: image[key] for key in kept if image[key] is not None}
    return images


def _number_frames(images: dict[Any, dict[str, Any]]) -> None:
    """Keep numbers of frames only where every image has its own in its sequence."""
    places = [(image["sequence"], image["frame"]) for image in images.values()]
    whole = all(sequence is not None and frame is not None for sequence, frame in places)
    if not whole or len(set(places)) < len(places):
        for image in images.values():
            image["frame"] = None
