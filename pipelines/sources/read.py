"""From a user's source to a complete detections table.

A source is a folder of images, a manifest (Parquet, CSV, JSON Lines) with one row a
detection, a file of annotations of another tool, a folder of videos, the URL of an AMI database, or
a finished run, whose rows are answered again. No image is decoded here: what is wrong with an image
becomes that row's error, so that a bad file never stops a plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from common.errors import SourceError
from common.moved import Pairs, apply_pairs
from common.storage import is_remote, storage_errors, to_path
from common.text import escape, is_text
from pipelines.detected.folder import has_detections
from pipelines.detections import PLAN_SCHEMA
from pipelines.frame_names import VIDEO_SUFFIXES
from pipelines.sources.annotations.read import FORMATS, is_annotations, read_annotations
from pipelines.sources.boxes import BoxesGiven, BoxOptions
from pipelines.sources.detected import read_detections
from pipelines.sources.earlier_run import read_run
from pipelines.sources.folder import IMAGE_SUFFIXES, read_folder
from pipelines.sources.manifest import MANIFEST_SUFFIXES, read_manifest
from pipelines.sources.plan import Plan
from pipelines.sources.upright import to_upright

FRAMES = 64  # of a video, where nothing else is asked
_ALL = frozenset(PLAN_SCHEMA.names)
_BOXES = BoxOptions()
_OF_DATABASE = "because the AMI companion reads images without a look at EXIF"


def read_source(
    source: str,
    *,
    kind: Literal["images", "video"] = "images",
    frames: int | None = None,
    limit: int | None = None,
    boxes: BoxOptions = _BOXES,
    from_run: bool = False,
    pairs: Pairs = (),
    id_prefix: str | None = None,
    where: str | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Read a folder, a manifest, videos, a database or a run.

    Args:
        source: a path, or the URL of an object store or a database.
        kind: of a folder: images, or videos and other clips.
        frames: of each video, spread evenly over it; 0: every frame; None: 64.
        limit: images or videos at most, spread evenly over the source.
        boxes: what the user says of them.
        from_run: it is a run, which is read as it read its own source: its rows, once more.
        pairs: of folders of images that were moved.
        id_prefix: put before every id; a run's rows keep the ids that they have.
        where: a condition on the rows, in SQL over the source's columns; ``limit`` is of those
            that match.
        report: receives items done and items in all.

    Raises:
        SourceError: missing, of an unknown kind, empty, or malformed; or no row matches.
        FilterError: ``where`` cannot be used.
        StorageError: in an object store that cannot be reached.
    """
    if is_database(source):
        if kind == "video":
            raise SourceError(f"{name_source(source)}: `kind='video'` takes a folder or a video")
        if boxes.layout or boxes.units:
            raise SourceError("`boxes` and `box_units` are for manifests; a database has its own")
        plan = _chosen(_read_database(source, report), where, name_source(source)).limited(limit)
        # The companion reads images without a look at EXIF, so its boxes are in stored pixels.
        given = BoxesGiven(frame=boxes.frame or "stored", because=_OF_DATABASE)
        root = _moved(plan.root, pairs)
        plan = to_upright(replace(plan, pairs=pairs, boxes=given, root=root), report)
        return plan.prefixed(id_prefix)
    path = to_path(source)
    with storage_errors(path):
        if not is_text(str(path if is_remote(path) else path.resolve())):
            raise SourceError(
                f"{escape(source)}: the name is not UTF-8, so it cannot be written down; rename it"
            )
        if not path.exists():
            raise SourceError(
                f"{source}: no such folder or file; give a folder of images or a manifest"
            )
        if from_run:
            return _chosen(read_run(path, pairs), where, source)
        if kind == "video":
            _refuse_boxes(boxes, source)
            first = limit if where is None else None
            plan = _read_videos(path, FRAMES if frames is None else frames, first, report)
            plan = _chosen(plan, where, source).limited(limit, "sequence")
            if path.is_file():
                plan = replace(plan, root=_moved(plan.root, pairs))
        elif has_detections(path):
            _refuse_boxes(boxes, source)
            plan = _chosen(read_detections(path, pairs), where, source).limited(limit)
        elif path.is_dir():
            _refuse_boxes(boxes, source)
            plan = _chosen(read_folder(path), where, source).limited(limit)
        else:
            plan = _chosen(_read_file(source, path, boxes, pairs), where, source).limited(limit)
        return to_upright(replace(plan, pairs=pairs), report).prefixed(id_prefix)


def _chosen(plan: Plan, where: str | None, source: str) -> Plan:
    """The rows of a plan that match, without the columns that are for choosing alone."""
    if where is not None:
        from pipelines.sources.where import matching  # late: DuckDB takes a while

        plan = matching(plan, where, source)
    return replace(plan, table=plan.table.drop_columns(list(plan.only_in_where)))


def _moved(root: Path, pairs: Pairs) -> Path:
    """The folder that relative names of a manifest or a database start from, as it is now."""
    return to_path(apply_pairs(pairs, str(root))) if pairs else root


def _refuse_boxes(boxes: BoxOptions, source: str) -> None:
    if boxes != _BOXES:
        raise SourceError(
            f"{source}: `boxes`, `box_units` and `box_frame` are for manifests and other files of "
            "boxes; here every image is a row as a whole"
        )


def _read_file(source: str, path: Path, boxes: BoxOptions, pairs: Pairs) -> Plan:
    """The plan of a manifest or of a file of annotations, with its boxes as they are given."""
    if not _is_video(path.name) and is_annotations(path):
        return read_annotations(path, boxes, pairs)
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        hint = "; for a video set `kind='video'`" if _is_video(path.name) else ""
        raise SourceError(
            f"{source}: a source is a folder of images, a manifest that ends in "
            f"{', '.join(sorted(MANIFEST_SUFFIXES))}, or annotations of {FORMATS}{hint}"
        )
    plan = read_manifest(path, boxes)
    return replace(plan, root=_moved(plan.root, pairs))


def is_database(source: str) -> bool:
    """Whether a source is a database URL, whose text may hold a password and is not shown."""
    return "://" in source and not is_remote(source)


def name_source(source: str) -> str:
    """A source as stored in runs: an absolute path, or a database URL without its password.

    Raises:
        SourceError: the URL of a database that onepass does not support.
    """
    if is_database(source):
        from pipelines.sources.database.connect import name_of  # late: SQLAlchemy is an extra

        return name_of(source)
    return str(to_path(source).resolve())


def _read_database(source: str, report: Callable[[int, int], None]) -> Plan:
    # late: SQLAlchemy is an extra
    from pipelines.sources.database.connect import folder_of
    from pipelines.sources.database.plan import ONLY_IN_WHERE, PASSED_COLUMNS, plan_database

    table, notes = plan_database(source, report)
    passing = tuple(name for name, _ in PASSED_COLUMNS.values() if name in table.column_names)
    return Plan(table, folder_of(source), {}, notes, passing, _ALL, only_in_where=ONLY_IN_WHERE)


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


def _read_videos(
    path: Path, frames: int, limit: int | None, report: Callable[[int, int], None]
) -> Plan:
    from pipelines.sources.videos import plan_videos  # late: it imports torch

    if is_remote(path):
        raise SourceError(
            f"{path}: videos are not read from object stores, because jumping in them is many "
            "requests a frame; copy them to a folder of every machine and give that"
        )
    if path.is_file() and not _is_video(path.name):
        raise SourceError(
            f"{path}: `kind='video'` takes a folder or a video that ends in "
            f"{', '.join(sorted(VIDEO_SUFFIXES))}"
        )
    table, skipped, notes, unread = plan_videos(path, frames, limit, IMAGE_SUFFIXES, report)
    root = path.parent if path.is_file() else path
    given = _ALL - {"detection_id"}
    return Plan(table, root.resolve(), skipped, notes, given=given, unread=unread)
