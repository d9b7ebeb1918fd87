"""HDF5 derived from committed Parquet: one shard a file, one virtual dataset over them.

The shards are written by Ray tasks from the record itself, so HDF5 can never disagree with
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
import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.facts import MapFacts
from pipelines.request import Request


class Shard(NamedTuple):
    """A written shard: its name under the run, its rows and where it starts in the plan."""

    name: str
    rows: int
    first_row_id: int


def write_hdf5(run: Path, request: Request, *, cpus_per_task: float) -> None:
    """Write ``hdf5/*.h5`` and ``features.h5`` from ``detections/*.parquet``."""
    import ray

    files = sorted((run / "detections").glob("*.parquet"))
    folder = run / "hdf5"
    folder.mkdir(exist_ok=True)
    wanted = {file.with_suffix(".h5").name for file in files}
    for stale in folder.iterdir():  # of a session that was killed in the middle
        if stale.name not in wanted:
            stale.unlink()
    width = max(_longest_id(file) for file in files)
    task = ray.remote(num_cpus=cpus_per_task)(write_shard)
    shards = ray.get(
        [
            task.remote(file, folder / file.with_suffix(".h5").name, width, request.facts.maps)
            for file in files
        ]
    )
    join(run, sorted(shards, key=lambda shard: shard.first_row_id), request)


def _longest_id(file: Path) -> int:
    lengths = pc.binary_length(pq.read_table(file, columns=["detection_id"])["detection_id"])
    return int(pc.max(lengths).as_py())


def write_shard(
    source: Path, target: Path, id_bytes: int, maps: tuple[MapFacts, ...] = ()
) -> Shard:
    """Write one Parquet file as HDF5; appears under its name only when complete."""
    table = pq.read_table(source).combine_chunks()
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    valid = np.asarray(table["error"].is_null())
    with h5py.File(draft, "w") as file:
        file["row_id"] = table["row_id"].to_numpy()
        ids = table["detection_id"].to_pylist()
        file["detection_id"] = np.array([i.encode() for i in ids], dtype=f"S{id_bytes}")
        file["features"] = _matrix(table["embedding"])
        if "logits" in table.column_names:
            file["logits"] = _matrix(table["logits"])
        for known in maps:
            file[known.name] = _matrix(table[known.name]).reshape(-1, *known.shape)
        file["label_index"] = pc.fill_null(table["label_index"], -1).to_numpy()
        file["score"] = pc.fill_null(table["score"], np.nan).to_numpy()
        file["valid"] = valid
    draft.replace(target)
    rows = table["row_id"].to_numpy()
    return Shard(f"hdf5/{target.name}", len(rows), int(rows.min()))


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """FixedSizeList ``[N, D]`` as float32; rows with an error hold NaN already."""
    array = column.combine_chunks()
    values: np.ndarray = array.flatten().to_numpy().reshape(len(array), array.type.list_size)
    return values


def join(run: Path, shards: list[Shard], request: Request) -> None:
    """Write ``features.h5``: every dataset of the shards, end to end, as one."""
    total = sum(shard.rows for shard in shards)
    draft = run / f".features.h5.{os.getpid()}"
    with h5py.File(draft, "w") as joined:
        with h5py.File(run / shards[0].name) as first:
            names: list[str] = []
            first.visit(names.append)
            datasets = {name: first[name] for name in names}
            shapes = {
                name: (found.shape[1:], found.dtype)
                for name, found in datasets.items()
                if isinstance(found, h5py.Dataset)  # a pyramid's group is none
            }
        for name, (inner, dtype) in shapes.items():
            layout = h5py.VirtualLayout((total, *inner), dtype)
            at = 0
            for shard in shards:
                source = h5py.VirtualSource(shard.name, name, (shard.rows, *inner), dtype)
                layout[at : at + shard.rows] = source
                at += shard.rows
            joined.create_virtual_dataset(name, layout)
        for known in request.facts.maps:
            if known.reduction is not None:
                joined[known.name].attrs["reduction"] = known.reduction
        facts = request.embeds
        joined.attrs.update(
            {
                "rows": total,
                "feature_dim": facts.feature_dim,
                "feature_kind": facts.feature_kind,
                "model": facts.request.spec,
                "weights_sha256": facts.weights_sha256,
                "fingerprint": facts.fingerprint,
                "preprocess": json.dumps(facts.preprocess.model_dump()),
            }
        )
    draft.replace(run / "features.h5")
