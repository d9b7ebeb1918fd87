"""From a user's source to a complete detections table.

A source is a folder of images, a manifest (Parquet, CSV, JSON Lines) with one row a
detection, a folder of videos, the URL of an AMI database, or a finished run, whose rows are
answered again. No image is opened here: what is wrong with an image becomes that row's error
later, so that a bad file never stops a plan.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
from pyarrow import fs

from common.errors import SourceError, first_line
from common.moved import ImageRoot, Pairs
from common.sampling import spread
from common.storage import (
    SCHEMES,
    arrow,
    is_remote,
    open_parquet,
    read_parquet,
    storage_errors,
    to_path,
)
from pipelines.detections import PLAN_SCHEMA, RESULT_COLUMNS, complete
from pipelines.frame_names import VIDEO_SUFFIXES
from pipelines.run import Run

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".jfif", ".ppm"}
)
MANIFEST_SUFFIXES = frozenset({".parquet", ".csv", ".jsonl", ".ndjson"})
FRAMES = 64  # of a video, where nothing else is asked
_ALL = frozenset(PLAN_SCHEMA.names)


@dataclass(frozen=True)
class Plan:
    """A complete detections table and the folder its relative image names start from.

    A row that is known to be unusable has its ``error`` already.
    """

    table: pa.Table
    root: Path
    skipped: dict[str, int]  # suffix to files of a folder that are not images
    notes: tuple[str, ...] = ()  # remarks on the source, for people
    passing: tuple[str, ...] = ()  # columns that others may change later, as by a write-back
    given: frozenset[str] = frozenset({"image"})  # contract columns that the source has itself
    pairs: Pairs = ()  # of folders of images that were moved
    id_prefix: str | None = None  # of ids that are not made yet

    @property
    def images(self) -> ImageRoot:
        """Where the images are."""
        return ImageRoot(self.root, self.pairs)

    @property
    def ids_given(self) -> bool:
        """Whether the source names its rows; else ids are made of image and box."""
        return "detection_id" in self.given

    @property
    def decisive(self) -> pa.Table:
        """What must be unchanged in a rerun: all rows, without the ``passing`` columns."""
        return self.table.drop_columns(list(self.passing))


def read_source(
    source: str,
    *,
    kind: Literal["images", "video"] = "images",
    frames: int | None = None,
    limit: int | None = None,
    from_run: bool = False,
    pairs: Pairs = (),
    id_prefix: str | None = None,
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
        report: receives items done and items in all.

    Raises:
        SourceError: missing, of an unknown kind, empty, or malformed.
        StorageError: in an object store that cannot be reached.
    """
    if is_database(source):
        if kind == "video":
            raise SourceError(f"{name_source(source)}: `kind='video'` takes a folder or a video")
        plan = _limited(_read_database(source, report), limit)
        return replace(_prefixed(plan, id_prefix), pairs=pairs)
    path = to_path(source)
    with storage_errors(path):
        if not path.exists():
            raise SourceError(
                f"{source}: no such folder or file; give a folder of images or a manifest"
            )
        if from_run:
            return read_run(path, pairs)
        if kind == "video":
            plan = _read_videos(path, FRAMES if frames is None else frames, limit, report)
        else:
            plan = _limited(_read_images(source, path), limit)
        return replace(_prefixed(plan, id_prefix), pairs=pairs)


def _prefixed(plan: Plan, prefix: str | None) -> Plan:
    """The plan with a prefix before ids that the source gives; others get it when they are made."""
    if prefix is None or not plan.ids_given:
        return replace(plan, id_prefix=prefix)
    ids = pc.binary_join_element_wise(prefix, plan.table["detection_id"], "")
    column = plan.table.column_names.index("detection_id")
    return replace(plan, table=plan.table.set_column(column, "detection_id", ids))


def _read_images(source: str, path: Path) -> Plan:
    """The plan of a folder of images or of a manifest."""
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        hint = "; for a video set `kind='video'`" if _is_video(path.name) else ""
        raise SourceError(
            f"{source}: a source is a folder of images or a manifest that ends in "
            f"{', '.join(sorted(MANIFEST_SUFFIXES))}{hint}"
        )
    given = _read_manifest(path)
    table = complete(given, where=source, folder=path.stem)
    return Plan(table, path.parent.resolve(), {}, given=frozenset(given.column_names))


def read_run(path: Path, pairs: Pairs = ()) -> Plan:
    """The rows of a finished run as a plan: the same ids, order and user columns.

    A failed row is tried again, because its image may be readable now. A row that failed when the
    run was planned names a whole clip and no frame, and keeps its error.

    Raises:
        RunError: not a finished run.
        SourceError: the folder that its images start from is gone.
    """
    run = Run.open(path, pairs)
    models = [run.manifest.model, run.manifest.classifier]
    results = {*RESULT_COLUMNS, *(info.name for model in models if model for info in model.maps)}
    table = run.to_arrow([name for name in run.columns if name not in results])
    relative = pc.invert(pc.match_substring_regex(table["image"], f"^(/|({'|'.join(SCHEMES)})://)"))
    if not run.root.is_dir() and pc.any(relative).as_py():
        raise SourceError(
            f"{path}: its images start from {run.manifest.root}, which is not there; bring that "
            f"folder back, or say where it is ({run.where_images_are})"
        )
    table = table.replace_schema_metadata(None)  # Ray's and pandas' own
    errors = _errors_of_plan(run)
    if errors is not None:
        table = table.append_column("error", errors)
    return Plan(table.combine_chunks(), run.root, {}, given=_ALL, pairs=run.images.pairs)


def _errors_of_plan(run: Run) -> pa.ChunkedArray | None:
    """The errors in a run's plan, by row_id; None where its plan has no column for them."""
    parts = [open_parquet(file) for file in run.plan_files()]
    if not parts or "error" not in parts[0].schema_arrow.names:
        return None
    table = pa.concat_tables([part.read(columns=["row_id", "error"]) for part in parts])
    return table.sort_by("row_id")["error"]


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
    from pipelines.sources.database.plan import PASSED_COLUMNS, plan_database

    table, notes = plan_database(source, report)
    passing = tuple(name for name, _ in PASSED_COLUMNS.values() if name in table.column_names)
    return Plan(table, folder_of(source), {}, notes, passing, _ALL)


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


def _limited(plan: Plan, limit: int | None) -> Plan:
    """The rows of ``limit`` images, spread evenly over the plan; None: every row."""
    if limit is None:
        return plan
    table = plan.table
    chosen = spread(pc.unique(table["image"]).to_pylist(), limit)
    table = table.filter(pc.is_in(table["image"], pa.array(chosen, pa.string())))
    column = table.column_names.index("row_id")
    table = table.set_column(column, "row_id", pa.array(np.arange(table.num_rows, dtype=np.int64)))
    return replace(plan, table=table.combine_chunks())


def _read_folder(folder: Path) -> Plan:
    names: list[str] = []
    skipped: Counter[str] = Counter()
    for name in _walk(folder):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            names.append(name)
        else:
            skipped[suffix or "no suffix"] += 1
    if not names:
        hint = "; for videos set `kind='video'`" if skipped.keys() & VIDEO_SUFFIXES else ""
        raise SourceError(
            f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            f"{sum(skipped.values())} other files were found{hint}"
        )
    table = complete(pa.table({"image": names}), where=str(folder), folder=folder.resolve().name)
    return Plan(table, folder.resolve(), dict(skipped))


def _walk(folder: Path) -> Iterator[str]:
    """Names of all files below, in the same order on a disk and in an object store."""
    if is_remote(folder):
        system, base = arrow(folder)
        infos = system.get_file_info(fs.FileSelector(base, recursive=True))
        names = [info.path[len(base) :].strip("/") for info in infos if info.is_file]
        # The files of a folder come before the folders in it.
        yield from sorted(names, key=lambda name: (*_folder_keys(name), (0, name)))
        return
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            yield Path(parent, name).relative_to(folder).as_posix()


def _folder_keys(name: str) -> list[tuple[int, str]]:
    return [(1, part) for part in name.split("/")[:-1]]


def _read_manifest(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return read_parquet(path)
        if path.suffix.lower() == ".csv":
            # An empty field is null; "nan" stays NaN, which is an invalid box and not a missing one.
            convert = pyarrow.csv.ConvertOptions(
                null_values=[""],
                strings_can_be_null=True,
                column_types={"image": pa.string(), "detection_id": pa.string()},
            )
            with path.open("rb") as stream:
                return pyarrow.csv.read_csv(stream, convert_options=convert)
        with path.open("rb") as stream:
            return pyarrow.json.read_json(stream)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read: {first_line(error)}") from None
