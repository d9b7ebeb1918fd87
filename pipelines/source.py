"""From what a user points at to a complete detections table.

A source is a folder of images, or a manifest (Parquet, CSV, JSON Lines) with one row a
detection. No image is opened here: what is wrong with an image becomes that row's error
later, so that a bad file never stops a plan.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from cluster.errors import SourceError, first_line
from pipelines.detections import complete

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".jfif", ".ppm"}
)
MANIFEST_SUFFIXES = frozenset({".parquet", ".csv", ".jsonl", ".ndjson"})


@dataclass(frozen=True)
class Plan:
    """A complete detections table and the folder its relative image names start from."""

    table: pa.Table
    root: Path
    skipped: dict[str, int]  # suffix to files of a folder that are not images


def read_source(source: str) -> Plan:
    """Read a folder or a manifest.

    Raises:
        SourceError: missing, of an unknown kind, empty, or malformed.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise SourceError(
            f"{source}: no such folder or file; give a folder of images or a manifest"
        )
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        raise SourceError(
            f"{source}: a source is a folder of images or a manifest that ends in "
            f"{', '.join(sorted(MANIFEST_SUFFIXES))}"
        )
    table = complete(_read_manifest(path), where=source, folder=path.stem)
    return Plan(table, path.parent.resolve(), {})


def _read_folder(folder: Path) -> Plan:
    names: list[str] = []
    skipped: Counter[str] = Counter()
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            file = Path(parent, name)
            if file.suffix.lower() in IMAGE_SUFFIXES:
                names.append(file.relative_to(folder).as_posix())
            else:
                skipped[file.suffix.lower() or "no suffix"] += 1
    if not names:
        raise SourceError(
            f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            f"{sum(skipped.values())} other files were found"
        )
    table = complete(pa.table({"image": names}), where=str(folder), folder=folder.resolve().name)
    return Plan(table, folder.resolve(), dict(skipped))


def _read_manifest(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path)
        if path.suffix.lower() == ".csv":
            # An empty field is null; "nan" stays NaN, which is a wrong box and not no box.
            convert = pyarrow.csv.ConvertOptions(
                null_values=[""],
                strings_can_be_null=True,
                column_types={"image": pa.string(), "detection_id": pa.string()},
            )
            return pyarrow.csv.read_csv(path, convert_options=convert)
        return pyarrow.json.read_json(path)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read: {first_line(error)}") from None
