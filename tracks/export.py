"""Tracks in the files that other tools open: MOTChallenge text, and JSON like COCO's.

COCO has no tracks; as in its extensions for video, an annotation has a ``track_id``, and an image a
``frame_id`` and the id of its video.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from os import getpid
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from common.errors import InputError
from common.json_models import write_atomic
from common.moved import Pairs
from tracks import motchallenge
from tracks.geometry import upright_size
from tracks.linked_run import LinkedRun, Progress

UNCLASSIFIED = "object"  # the category of detections without a class


@dataclass(frozen=True)
class ExportSummary:
    """Files and counts of an export."""

    files: list[str]  # paths of the written files
    boxes: int  # written boxes
    tracks: int  # written tracks
    left_out: int  # detections in no track: with an error, or weak
    unsized: int  # images whose size could not be read, written without one (COCO)
    repeated: int  # boxes that share a track with another box of their frame
    duplicates: int  # detections that repeat another one, not written


def export_mot(
    run: Path, out: Path, *, first_frame: int = motchallenge.FIRST_FRAME
) -> ExportSummary:
    """Write a folder with one MOTChallenge result file for each sequence.

    A box that holds several individuals is written once for each of them.

    Args:
        run: a linked run.
        out: the folder, new or empty.
        first_frame: number of frame 0 in the files.

    Raises:
        RunError: the run is not linked.
        VerifyError: its tracks differ from their manifest.
        InputError: ``out`` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"`out={str(out)!r}` exists already; give a new folder")
    linked = LinkedRun.open(run)
    draft = out.with_name(f".{out.name}.{getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    names = motchallenge.file_names(linked.sequences)
    tracks = 0
    try:
        for sequence, name in names.items():
            boxes = linked.of(sequence).individuals()
            text = motchallenge.result_lines(replace(boxes, frames=boxes.frames + first_frame))
            (draft / f"{name}.txt").write_text(text, encoding="utf-8")
            tracks += len(np.unique(boxes.ids))
        if out.exists():
            out.rmdir()
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _summary(linked, [str(out / f"{name}.txt") for name in names.values()], tracks)


def export_coco(
    run: Path,
    out: Path,
    *,
    pairs: Pairs = (),
    progress: Progress = lambda done, total: None,
) -> ExportSummary:
    """Write one JSON document: images, annotations with ``track_id`` and ``score``, categories.

    Args:
        run: a linked run.
        out: the file; an existing one is replaced.
        pairs: of folders of images that were moved.
        progress: called with the number of images whose size was read, and of all images.

    Raises:
        RunError: the run is not linked.
        VerifyError: its tracks differ from their manifest.
        InputError: ``out`` is a folder.
    """
    if out.is_dir():
        example = out / "tracks.json"
        raise InputError(f"`out={str(out)!r}` is a folder; give a file, such as {example}")
    linked = LinkedRun.open(run, pairs=pairs)
    labels = sorted({label or UNCLASSIFIED for label in linked.rows["label"].to_pylist()})
    category = {label: number for number, label in enumerate(labels, start=1)}
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    tracks, total = 0, len(linked.rows["image"].unique())
    for video, sequence in enumerate(linked.sequences, start=1):
        part = linked.of(sequence)
        boxes, in_track = part.tracked()
        ids = np.zeros(part.rows.num_rows, dtype=np.int64)  # 0: in no track
        ids[in_track] = tracks + boxes.ids
        tracks += len(np.unique(boxes.ids))
        columns = part.rows.select(["image", "frame", "label", "score", "detection_id"])
        rows = zip(columns.to_pylist(), ids.tolist(), part.boxes.tolist(), strict=True)
        for row, track, corners in rows:
            if row["image"] not in images:
                size = upright_size(linked.run.image_path(row["image"]))
                images[row["image"]] = {
                    "id": len(images) + 1,
                    "file_name": row["image"],
                    **({"width": size[0], "height": size[1]} if size else {}),
                    "video_id": video,
                    "frame_id": row["frame"],
                }
                progress(len(images), total)
            if track:
                x1, y1, x2, y2 = (round(side, 2) for side in corners)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": images[row["image"]]["id"],
                        "category_id": category[row["label"] or UNCLASSIFIED],
                        "track_id": track,
                        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                        "area": round((x2 - x1) * (y2 - y1), 2),
                        "iscrowd": 0,
                        "score": row["score"],
                        "detection_id": row["detection_id"],
                    }
                )
    document = {
        "info": {"description": f"tracks of {run}, written by onepass"},
        "licenses": [],
        "videos": [{"id": at, "name": name} for at, name in enumerate(linked.sequences, start=1)],
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in category.items()],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, orjson.dumps(document))
    unsized = sum("width" not in image for image in images.values())
    return _summary(linked, [str(out)], tracks, unsized=unsized)


def _summary(
    linked: LinkedRun, files: list[str], tracks: int, *, unsized: int = 0
) -> ExportSummary:
    boxes = int(linked.in_track.sum())
    left_out = linked.rows.num_rows - boxes
    repeated = linked.repeated_boxes()
    return ExportSummary(files, boxes, tracks, left_out, unsized, repeated, linked.duplicates)
