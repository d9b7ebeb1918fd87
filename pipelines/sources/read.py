"""From a user's source to a complete detections table.

A source is a folder of images, a manifest (Parquet, CSV, JSON Lines) with one row a
detection, a folder of videos, the URL of an AMI database, or a finished run, whose rows are
answered again. No image is opened here: what is wrong with an image becomes that row's error
later, so that a bad file never stops a plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from common.errors import SourceError
from common.moved import Pairs, apply_pairs
from common.storage import is_remote, storage_errors, to_path
from pipelines.detections import PLAN_SCHEMA
from pipelines.frame_names import VIDEO_SUFFIXES
from pipelines.sources.earlier_run import read_run
from pipelines.sources.folder import IMAGE_SUFFIXES, read_folder
from pipelines.sources.manifest import MANIFEST_SUFFIXES, read_manifest
from pipelines.sources.plan import Plan

FRAMES = 64  # of a video, where nothing else is asked
_ALL = frozenset(PLAN_SCHEMA.names)


def read_source(
    source: str,
    *,
    kind: Literal["images", "video"] = "images",
    frames: int | None = None,
    limit: int | None = None,
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
        plan = _chosen(_read_database(source, report), where, name_source(source)).limited(limit)
        return replace(plan.prefixed(id_prefix), pairs=pairs, root=_moved(plan.root, pairs))
    path = to_path(source)
    with storage_errors(path):
        if not path.exists():
            raise SourceError(
                f"{source}: no such folder or file; give a folder of images or a manifest"
            )
        if from_run:
            return _chosen(read_run(path, pairs), where, source)
        if kind == "video":
            first = limit if where is None else None
            plan = _read_videos(path, FRAMES if frames is None else frames, first, report)
            plan = _chosen(plan, where, source).limited(limit, "sequence")
        else:
            plan = _chosen(_read_images(source, path), where, source).limited(limit)
        root = plan.root if path.is_dir() else _moved(plan.root, pairs)
        return replace(plan.prefixed(id_prefix), pairs=pairs, root=root)


def _chosen(plan: Plan, where: str | None, source: str) -> Plan:
    """The rows of a plan that match, without the columns that are for choosing alone."""
    if where is not None:
        from pipelines.sources.where import matching  # late: DuckDB takes a while

        plan = matching(plan, where, source)
    return replace(plan, table=plan.table.drop_columns(list(plan.only_in_where)))


def _moved(root: Path, pairs: Pairs) -> Path:
    """The folder that relative names of a manifest or a database start from, as it is now."""
    return to_path(apply_pairs(pairs, str(root))) if pairs else root


def _read_images(source: str, path: Path) -> Plan:
    """The plan of a folder of images or of a manifest."""
    if path.is_dir():
        return read_folder(path)
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        hint = "; for a video set `kind='video'`" if _is_video(path.name) else ""
        raise SourceError(
            f"{source}: a source is a folder of images or a manifest that ends in "
            f"{', '.join(sorted(MANIFEST_SUFFIXES))}{hint}"
        )
    return read_manifest(path)


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
    table, skipped, notes = plan_videos(path, frames, limit, IMAGE_SUFFIXES, report)
    root = path.parent if path.is_file() else path
    return Plan(table, root.resolve(), skipped, notes, given=_ALL - {"detection_id"})
