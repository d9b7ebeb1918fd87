"""HDF5 derived from committed Parquet: shards written by tasks, one virtual file over them.

The shards are written from the record itself, so HDF5 can never disagree with
Parquet and memory is bounded by one shard. ``features.h5`` holds no data of its own.

Datasets, row i of each being the same detection:

============  ==================  =========================================
row_id        int64 [N]           position in the plan
detection_id  bytes [N]           UTF-8
features      float32 [N, D]      embedding; NaN where ``valid`` is False
label_index   int32 [N]           -1 where ``valid`` is False
score         float32 [N]         NaN where ``valid`` is False
valid         bool [N]            False: the row has an error instead
logits        float32 [N, C]      only in runs that keep logits
feature_map   float32 [N, …]      only in runs that keep it, as the network shapes it
pyramid/NAME  float32 [N, C,H,W]  only in runs that keep it, one a level
============  ==================  =========================================

``valid`` is False where the row has an error; ``label_index`` is -1 and ``score`` NaN also
where a gate let the row have no class.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.compute as pc

from cluster.tasks import Tasks
from common.json_models import write_atomic
from common.parquet import read_parquet
from common.storage import list_folder, make_folder
from pipelines.embeddings import matrix
from pipelines.model_info import MapInfo
from pipelines.request import Request

# What a reader sees of a missing shard: values that no row has.
_FILL: dict[str, float] = {"f": np.nan, "i": -1}


def shard_name(file: Path) -> str:
    """Name in a run of the HDF5 file with the rows of a file of detections."""
    return f"hdf5/{file.stem}.h5"


def write_hdf5(
    run: Path,
    request: Request,
    tasks: Tasks,
    *,
    files: Sequence[Path] | None = None,
    kept: Collection[str] = (),
    stall_seconds: float | None = None,
) -> None:
    """Write ``hdf5/*.h5`` and ``features.h5`` from ``detections/*.parquet``.

    Args:
        run: the run folder.
        request: of the run.
        tasks: to run on, one for each shard.
        files: of detections; None: all of the run, and shards of others are deleted.
        kept: stems of files whose shards are there already.
        stall_seconds: without a finished shard until the work fails; None: as ``cluster.tasks``.

    Raises:
        StalledError: no shard was finished for ``stall_seconds``.
        WorkError: a task failed; the others are cancelled.
        OSError: a task's own, as of a disk that refused.
    """
    folder = run / "hdf5"
    make_folder(folder)
    if files is None:
        files = list_folder(run / "detections", "*.parquet")
        wanted = {shard_name(file) for file in files}
        for stale in list_folder(folder):  # of a session that was killed
            if f"hdf5/{stale.name}" not in wanted:
                stale.unlink(missing_ok=True)
    width = max(_longest_id(file) for file in files)
    if kept:
        width = max(width, _width(run / "features.h5"))
        kept = {name for name in kept if _width(folder / f"{name}.h5") == width}
    write = partial(_write_shard, folder, width, request.facts.maps, frozenset(kept))
    written = sorted(tasks.run(write, files, stall_seconds=stall_seconds))
    model = request.embeds
    attributes = {
        "rows": sum(rows for _, _, rows in written),
        "feature_dim": model.feature_dim,
        "feature_kind": model.feature_kind,
        "model": model.request.spec,
        "weights_sha256": model.weights_sha256,
        "fingerprint": model.fingerprint,
        "preprocess": json.dumps(model.preprocess.model_dump()),
    }
    reductions = {
        info.name: {"reduction": info.reduction}
        for info in request.facts.maps
        if info.reduction is not None
    }
    shards = {name: rows for _, name, rows in written}
    join(run / "features.h5", shards, attributes, dataset_attributes=reductions)


def datasets_of(file: h5py.File) -> list[tuple[str, h5py.Dataset]]:
    """The datasets of a file with their names, also those in groups, as a pyramid's."""
    names: list[str] = []
    file.visit(names.append)
    return [(name, file[name]) for name in names if isinstance(file[name], h5py.Dataset)]


def _longest_id(file: Path) -> int:
    lengths = pc.binary_length(read_parquet(file, columns=["detection_id"])["detection_id"])
    return int(pc.max(lengths).as_py())


def _width(file: Path) -> int:
    """Bytes of an id in a file; 0 where there is no such file."""
    if not file.is_file():
        return 0
    with file.open("rb") as stream, h5py.File(stream) as opened:
        return int(opened["detection_id"].dtype.itemsize)


@contextmanager
def new_h5(target: Path) -> Iterator[h5py.File]:
    """An HDF5 file to fill, which appears under its name only when complete.

    It is built in memory, because the HDF5 library takes the whole process down with it when
    the disk is full; so memory is that of the file.

    Raises:
        OSError: the disk refused; nothing is left behind.
    """
    with h5py.File(target.name, "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    write_atomic(target, image)


def _write_shard(
    folder: Path, id_bytes: int, maps: tuple[MapInfo, ...], kept: frozenset[str], source: Path
) -> tuple[int, str, int]:
    """Write one Parquet file as HDF5, atomically; its first row_id, its name and its rows."""
    target = folder.parent / shard_name(source)
    if source.stem in kept:
        rows = read_parquet(source, columns=["row_id"])["row_id"].to_numpy()
        return int(rows.min()), shard_name(source), len(rows)
    table = read_parquet(source).combine_chunks()
    valid = np.asarray(table["error"].is_null())
    with new_h5(target) as file:
        file["row_id"] = table["row_id"].to_numpy()
        ids = table["detection_id"].to_pylist()
        file["detection_id"] = np.array([i.encode() for i in ids], dtype=f"S{id_bytes}")
        file["features"] = matrix(table["embedding"].combine_chunks())
        if "logits" in table.column_names:
            file["logits"] = matrix(table["logits"].combine_chunks())
        for info in maps:
            values = matrix(table[info.name].combine_chunks())
            file[info.name] = values.reshape(-1, *info.shape)
        file["label_index"] = pc.fill_null(table["label_index"], -1).to_numpy()
        file["score"] = pc.fill_null(table["score"], np.nan).to_numpy()
        file["valid"] = valid
    rows = table["row_id"].to_numpy()
    return int(rows.min()), f"hdf5/{target.name}", len(rows)


def join(
    target: Path,
    shards: Mapping[str, int],
    attributes: Mapping[str, Any],
    *,
    dataset_attributes: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Concatenate the datasets of all shards as virtual datasets.

    A shard that is missing later reads as NaN and -1.

    Args:
        target: the file to write.
        shards: name to rows, in order; names are relative to ``target``'s folder, so that it can
            be moved.
        attributes: of the file.
        dataset_attributes: of a dataset, by its name.
    """
    total = sum(shards.values())
    with new_h5(target) as joined:
        with (target.parent / next(iter(shards))).open("rb") as stream, h5py.File(stream) as first:
            shapes = {name: (data.shape[1:], data.dtype) for name, data in datasets_of(first)}
        for name, (inner, dtype) in shapes.items():
            layout = h5py.VirtualLayout((total, *inner), dtype)
            start = 0
            for shard, rows in shards.items():
                source = h5py.VirtualSource(shard, name, (rows, *inner), dtype)
                layout[start : start + rows] = source
                start += rows
            joined.create_virtual_dataset(name, layout, fillvalue=_FILL.get(dtype.kind))
        for name, values in (dataset_attributes or {}).items():
            joined[name].attrs.update(values)
        joined.attrs.update(attributes)
