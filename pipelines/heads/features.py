"""Training examples: labelled rows of a run or of a clip file, in one float32 array."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError, RunError
from common.sampling import evenly
from pipelines.detections import BOX
from pipelines.embeddings import matrix
from pipelines.frame_names import ALL, SPLITS, split_and_category
from pipelines.heads.config import Kind
from pipelines.model_info import ModelInfo
from pipelines.run import Run

BATCH_BYTES = 64 * 2**20
COPIES = 3  # of all features in memory at once: as stored, the parts, scaled or of unit length


@dataclass(frozen=True)
class Examples:
    """N labelled rows with their features, in the order of their source.

    ``images`` and ``boxes`` locate a row's picture: ``boxes`` is ``[N, 4]`` in pixels, NaN for a
    whole image. A clip file has neither.
    """

    features: npt.NDArray[np.float32]  # [N, D], flattened
    labels: npt.NDArray[np.str_]  # [N]
    parts: npt.NDArray[np.str_] | None  # [N], of Part; None: not divided yet
    kind: Kind
    shape: tuple[int, ...]  # of one row's features, before they were flattened
    spec: str  # the model whose features these are, for people
    fingerprint: str
    left_out: dict[str, int]  # reason to rows
    images: npt.NDArray[np.str_] | None = None
    boxes: npt.NDArray[np.float64] | None = None


def model_of(run: Run, kind: Kind) -> ModelInfo:
    """The model of the run's features of this kind; embeddings may be a gate's."""
    manifest = run.manifest
    return (manifest.classifier or manifest.model) if kind == "map" else manifest.model


def column_of(run: Run, kind: Kind) -> tuple[str, tuple[int, ...]]:
    """The column that holds features of this kind, and the shape of one row's.

    Raises:
        RunError: the run has kept no map.
    """
    model = model_of(run, kind)
    if kind == "pooled":
        return "embedding", (model.feature_dim,)
    for info in model.maps:
        if info.name == "feature_map":
            return info.name, info.shape
    raise RunError(
        f"{run.path} holds no feature maps; extract again with `features='map'`, or train on "
        "`features='pooled'`"
    )


def read_run(
    run: Run, *, labels: str, kind: Kind, split_by: str | None = None, limit: int | None = None
) -> Examples:
    """Read the labelled rows of a finished run, without those that have an error.

    Args:
        run: the run.
        labels: the column with the classes.
        kind: which features.
        split_by: the column with the part of each row.
        limit: rows at most, spread evenly.

    Raises:
        RunError: the run has no such column or features.
        InputError: no row has a label, a value of ``split_by`` is unknown, features are not
            finite, or they do not fit in memory.
    """
    column, shape = column_of(run, kind)
    model = model_of(run, kind)
    label_column = label_values(run, labels)
    split_column = None if split_by is None else label_values(run, split_by, "split_by")
    plan = run.to_arrow(["image", *BOX, "label_index", "error"])
    unusable = {
        "with an error": plan["error"].is_valid(),
        f"without a value in {labels!r}": label_column.is_null(),
    }
    if split_column is not None:
        unusable[f"without a value in {split_by!r}"] = split_column.is_null()
    gate = run.manifest.gate
    if kind == "map" and gate is not None and gate.embed == "gate":
        # The model ran only on rows that passed: the others have no map.
        unusable["that the gate did not let pass"] = plan["label_index"].is_null()
    left_out: dict[str, int] = {}
    keep = np.ones(plan.num_rows, dtype=bool)
    for reason, mask in unusable.items():
        dropped = keep & np.asarray(mask)
        if dropped.any():
            left_out[reason] = int(dropped.sum())
        keep &= ~dropped
    rows = np.flatnonzero(keep)
    rows = limit_rows(limit, rows, left_out, f"`labels={labels!r}`: {run.path} has no row")
    indices = pa.array(rows)
    parts = None
    if split_column is not None:
        parts = _parts(split_column.take(indices).to_pylist(), str(split_by))
    return Examples(
        features=_scatter(run, column, rows, math.prod(shape)),
        labels=_strings(label_column.take(indices)),
        parts=parts,
        kind=kind,
        shape=shape,
        spec=model.request.spec,
        fingerprint=model.fingerprint,
        left_out=left_out,
        images=_strings(plan["image"].take(indices)),
        boxes=np.stack([_floats(plan[name].take(indices)) for name in BOX], axis=1),
    )


def limit_rows(
    limit: int | None, rows: npt.NDArray[np.int64], left_out: dict[str, int], none: str
) -> npt.NDArray[np.int64]:
    """At most ``limit`` rows, spread evenly.

    Args:
        limit: None: all rows.
        rows: ``[N]``, indices.
        left_out: reason to rows; receives the number beyond the limit.
        none: start of the message where there are no rows.

    Raises:
        InputError: there are no rows.
    """
    if not len(rows):
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise InputError(f"{none} to train on ({reasons})")
    if limit is None or limit >= len(rows):
        return rows
    left_out["beyond --limit"] = len(rows) - limit
    return rows[evenly(len(rows), limit)]


def label_values(run: Run, column: str, parameter: str = "labels") -> pa.ChunkedArray:
    """A column's values as text, in the order of row_id; null for missing or empty ones.

    ``category`` and ``split`` are read from image names laid out ``SPLIT/CATEGORY/…/FILE`` where
    the run has no such column.

    Args:
        run: to read.
        column: its name.
        parameter: that named it, for messages.

    Raises:
        RunError: no such column, or one that holds no classes.
    """
    given = f"`{parameter}={column!r}`"
    if column in run.columns:
        kind = run.schema.field(column).type
        if not _holds_names(kind):
            raise RunError(
                f"{given}: {run.path} holds {kind} there; give a column of words, whole numbers or "
                "true and false"
            )
        values = run.to_arrow([column])[column].cast(pa.string())
        return pc.if_else(pc.equal(values, ""), None, values)
    if column not in ("category", "split"):
        others = ", ".join(field.name for field in run.schema if _holds_names(field.type))
        raise RunError(f"{given}: {run.path} has no such column; it has {others}")
    images = run.to_arrow(["image"])["image"].to_pylist()
    values = [split_and_category(name)[column == "category"] for name in images]
    if column == "split":
        values = [None if name == ALL else name for name in values]
    if not any(values):
        raise RunError(
            f"{given}: {run.path} has no such column, and {images[0]} is not laid out as "
            "SPLIT/CATEGORY/FILE; extract from the folder above, or a manifest with the column"
        )
    return pa.chunked_array([pa.array(values, pa.string())])


def _holds_names(kind: pa.DataType) -> bool:
    types = pa.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    allowed = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean)
    return any(is_kind(kind) for is_kind in allowed)


def _parts(values: list[str], column: str) -> npt.NDArray[np.str_]:
    parts = [SPLITS.get(name.strip().lower()) for name in values]
    if None in parts:
        unknown = values[parts.index(None)]
        raise InputError(
            f"`split_by={column!r}`: {unknown!r} is no part; allowed are {', '.join(SPLITS)}"
        )
    return np.array(parts, dtype=np.str_)


def batch_rows(width: int) -> int:
    """Rows of ``width`` float32 numbers to read at a time."""
    return max(1, min(4096, BATCH_BYTES // (4 * width)))


def allocate(rows: int, width: int) -> npt.NDArray[np.float32]:
    """An array for all features.

    Raises:
        InputError: training, which copies it twice, would need more memory than is free.
    """
    need, free = COPIES * rows * width * 4, free_bytes()
    if need > free:
        raise InputError(
            f"{rows} rows of {width} numbers need {need / 2**30:.1f} GiB to train on, and "
            f"{free / 2**30:.1f} GiB are free here; give a `limit` or `features='pooled'`"
        )
    return np.empty((rows, width), dtype=np.float32)


def free_bytes() -> int:
    """Memory available without swapping; the total where the system does not report it."""
    meminfo = Path("/proc/meminfo")
    available = re.search(r"MemAvailable:\s+(\d+)", meminfo.read_text() if meminfo.exists() else "")
    if available:
        return int(available[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _scatter(
    run: Run, column: str, rows: npt.NDArray[np.int64], width: int
) -> npt.NDArray[np.float32]:
    """Stream ``column`` of ``rows`` into one array, in their order."""
    features = allocate(len(rows), width)
    slot = np.full(run.manifest.rows.planned, -1, dtype=np.int64)
    slot[rows] = np.arange(len(rows))
    for batch in run.iter_batches(batch_rows(width), columns=["row_id", column]):
        targets = slot[batch["row_id"].to_numpy()]
        features[targets[targets >= 0]] = matrix(batch[column])[targets >= 0]
    check_finite(features, f"{run.path}: row_id", rows)
    return features


def check_finite(features: npt.NDArray[np.float32], where: str, names: Any) -> None:
    """Check that all features are finite.

    Args:
        features: ``[N, D]``
        where: start of the message, before the row's name.
        names: ``[N]``, of the rows.

    Raises:
        InputError: naming the first row that is not.
    """
    # One sum for each row, so that no second array of all features is needed.
    bad = np.flatnonzero(~np.isfinite(features.sum(1, dtype=np.float64)))
    if len(bad):
        raise InputError(
            f"{where} {names[bad[0]]} has features that are not finite and no error; extract "
            "again, or check the file with 'onepass inspect RUN --verify'"
        )


def _strings(column: pa.ChunkedArray) -> npt.NDArray[np.str_]:
    return np.array(column.to_pylist(), dtype=np.str_)


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = pc.fill_null(column, np.nan).to_numpy().astype(np.float64)
    return values
