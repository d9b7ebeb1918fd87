"""What a detector found in a source, on disk.

::

    FOLDER/
      request.json             what was asked for, and of which images
      plan.parquet             the images, in order
      images/part-00000.parquet  a row an image, with its boxes; more parts follow
      manifest.json            written last: the detector, counts, the sha256 of every part

An image without boxes is a row without boxes, and one that cannot be read a row with an error. Boxes are
in pixels as they are stored, neither turned by EXIF nor scaled; those of a frame of a video as it is shown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import RunError, VerifyError
from common.json_models import JsonModel
from common.manifests import MANIFEST, Manifest, verify_files
from common.parquet import read_parquet
from pipelines.detected.config import DetectConfig, DetectorInfo
from pipelines.detections import BOX

PART = "images/part-{:05d}.parquet"
PLAN, REQUEST = "plan.parquet", "request.json"

PLAN_COLUMNS = ("image", "sequence", "timestamp", "frame")
BOX_TYPE = pa.struct(
    [
        *((side, pa.float32()) for side in BOX),
        ("detector_score", pa.float32()),
        ("detector_label", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("number", pa.int64()),  # of the image, from 0
        ("image", pa.string()),
        ("sequence", pa.string()),
        ("timestamp", pa.timestamp("us")),
        ("frame", pa.int64()),
        ("width", pa.int32()),  # of the stored pixels; null where it cannot be read
        ("height", pa.int32()),
        ("orientation", pa.int8()),  # as in EXIF, 1 to 8
        ("boxes", pa.list_(BOX_TYPE)),  # null where there is an error
        ("error", pa.string()),
    ]
)


class DetectRequest(JsonModel):
    """Contents of ``request.json``."""

    config: DetectConfig
    detector: DetectorInfo
    root: str  # relative image names start here
    images: int
    images_of_part: int


class DetectManifest(Manifest):
    """Contents of ``manifest.json``."""

    config: DetectConfig
    detector: DetectorInfo
    root: str
    images: int
    boxes: int
    empty: int  # images without boxes
    failed: int  # images with an error


class Detections:
    """A finished folder of detections.

    Attributes:
        path: the folder.
        manifest: the detector, and counts.

    Raises:
        RunError: there is none, or it is unfinished.

    Example:
        >>> Detections(Path("boxes")).boxes().num_rows
        24
    """

    def __init__(self, path: Path) -> None:
        if not is_finished(path):
            raise RunError(
                f"{path} holds no finished detections; run 'onepass detect' again to finish"
            )
        self.path = path
        self.manifest = DetectManifest.read(path)

    def __len__(self) -> int:
        return self.manifest.boxes

    def __repr__(self) -> str:
        counts = self.manifest
        return (
            f"Detections({str(self.path)!r}: {counts.boxes:,} boxes in {counts.images:,} images, "
            f"{counts.empty:,} without, {counts.failed:,} with errors, {counts.detector.spec})"
        )

    def images(self) -> pa.Table:
        """A row an image, in order; columns as in ``SCHEMA``.

        Raises:
            VerifyError: a file is missing or differs from the manifest.
        """
        verify_files(
            self.path, self.manifest.files, then="; run 'onepass detect' into a new folder"
        )
        parts = [read_parquet(self.path / name) for name in sorted(self.manifest.files)]
        return pa.concat_tables(parts)

    def boxes(self) -> pa.Table:
        """A row a box: its image, ``x1 y1 x2 y2`` in stored pixels, ``detector_score``, ``detector_label``."""
        return flattened(self.images())


def has_detections(path: Path) -> bool:
    """Whether a folder is one of detections, finished or not."""
    return (path / PLAN).is_file() and (path / REQUEST).is_file()


def is_finished(path: Path) -> bool:
    """Whether a folder holds finished detections."""
    return has_detections(path) and (path / MANIFEST).is_file()


def flattened(images: pa.Table) -> pa.Table:
    """Boxes of a table of images, a row each, with the columns of their image."""
    boxes = images["boxes"].combine_chunks()
    rows = pc.list_parent_indices(boxes)
    table = images.drop_columns(["boxes", "error"]).take(rows)
    for field, column in zip(BOX_TYPE, pc.list_flatten(boxes).flatten(), strict=True):
        table = table.append_column(field, column)
    return table


def check_parts(folder: Path, names: list[str], images: int) -> tuple[int, int, int]:
    """Check that parts hold every image exactly once.

    Returns:
        Boxes, images without any, and images with an error.

    Raises:
        VerifyError: they do not.
    """
    columns = ["number", "boxes", "error"]
    table = pa.concat_tables([read_parquet(folder / name, columns=columns) for name in names])
    numbers = table["number"].to_numpy()
    if len(numbers) != images or not np.array_equal(np.sort(numbers), np.arange(images)):
        raise VerifyError(
            f"{images} images, {len(numbers)} written, {len(np.unique(numbers))} distinct; please report this"
        )
    counts = pc.list_value_length(table["boxes"])
    failed = table.num_rows - table["error"].null_count
    empty = pc.sum(pc.equal(counts, 0)).as_py() or 0
    return pc.sum(counts).as_py() or 0, empty, failed
