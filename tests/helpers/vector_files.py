"""The same rows as every source of vectors that an index can be built from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

from tests.helpers.runs import write_run

Write = Callable[[Path, np.ndarray, Sequence[Any], dict[str, Any]], Path]
"""Given a folder, vectors [N, D], ids and other columns: writes a source, returns its path."""


def embedding(vectors: np.ndarray, kind: str = "fixed") -> pa.Array:
    """Vectors as a column of lists; a row of which every value is -1 is null."""
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    missing = pa.array((vectors == -1).all(axis=1))
    rows, dim = vectors.shape
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(values, dim, mask=missing)
    cls, size = (pa.ListArray, "i4") if kind == "list" else (pa.LargeListArray, "i8")
    return cls.from_arrays(pa.array(np.arange(rows + 1, dtype=size) * dim), values, mask=missing)


def _table(vectors: np.ndarray, ids: Any, more: dict[str, Any], kind: str, name: str) -> pa.Table:
    return pa.table({**more, name: pa.array(ids), "embedding": embedding(vectors, kind)})


def parquet(kind: str, dtype: str, name: str = "detection_id") -> Write:
    def write(folder: Path, vectors: np.ndarray, ids: Sequence[Any], more: dict[str, Any]) -> Path:
        table = _table(vectors.astype(dtype), ids, more, kind, name)
        pq.write_table(table, folder / "x.parquet", row_group_size=17)
        return folder / "x.parquet"

    return write


def arrow_file(folder: Path, vectors: np.ndarray, ids: Sequence[Any], more: dict[str, Any]) -> Path:
    table = _table(vectors.astype("f4"), ids, more, "fixed", "id")
    with pa.ipc.new_file(folder / "x.arrow", table.schema) as sink:
        sink.write_table(table, max_chunksize=13)
    return folder / "x.arrow"


def arrow_stream(
    folder: Path, vectors: np.ndarray, ids: Sequence[Any], more: dict[str, Any]
) -> Path:
    table = _table(vectors.astype("f8"), ids, more, "list", "id")
    with pa.ipc.new_stream(folder / "x.arrow", table.schema) as sink:
        sink.write_table(table, max_chunksize=13)
    return folder / "x.arrow"


def feather(folder: Path, vectors: np.ndarray, ids: Sequence[Any], more: dict[str, Any]) -> Path:
    table = _table(vectors.astype("f4"), ids, more, "list", "id")
    pyarrow.feather.write_feather(table, folder / "x.feather", compression="zstd")
    return folder / "x.feather"


def npy(dtype: str, ids_as: str) -> Write:
    def write(folder: Path, vectors: np.ndarray, ids: Sequence[Any], more: dict[str, Any]) -> Path:
        np.save(folder / "x.npy", vectors.astype(dtype))
        if ids_as == "npy":
            np.save(folder / "x.ids.npy", np.array(ids))
        else:
            lines = "".join(f"{each}{ids_as}" for each in ids)
            (folder / "x.ids.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
        return folder / "x.npy"

    return write


def npy_by_columns(
    folder: Path, vectors: np.ndarray, ids: Sequence[Any], more: dict[str, Any]
) -> Path:
    """As ``np.save`` writes a transposed array."""
    np.save(folder / "x.npy", np.asfortranarray(vectors, "f4"))
    np.save(folder / "x.ids.npy", np.array(ids))
    return folder / "x.npy"


def hdf5(folder: Path, vectors: np.ndarray, ids: Sequence[Any], more: dict[str, Any]) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file["features"] = vectors.astype("f4")
        file["valid"] = ~(vectors == -1).all(axis=1)
        file["detection_id"] = np.array([str(each).encode() for each in ids])
        for name, values in more.items():
            file[name] = values
    return folder / "x.h5"


def run(folder: Path, vectors: np.ndarray, ids: Sequence[Any], more: dict[str, Any]) -> Path:
    failed = np.flatnonzero((vectors == -1).all(axis=1)).tolist()
    plan = {"image": [f"{each}.jpg" for each in ids], "detection_id": list(map(str, ids)), **more}
    errors = dict.fromkeys(failed, "torn file")
    return write_run(folder / "x", plan, vectors, errors=errors, files=3).path


KINDS: dict[str, Write] = {
    "run": run,
    "parquet-fixed-f4": parquet("fixed", "f4"),
    "parquet-list-f8": parquet("list", "f8", "id"),
    "parquet-large-f2": parquet("large", "f2"),
    "arrow-file": arrow_file,
    "arrow-stream": arrow_stream,
    "feather-zstd": feather,
    "npy-f4-text": npy("f4", "\n"),
    "npy-f2-windows": npy("f2", "\r\n"),
    "npy-f8-big-endian": npy(">f8", "npy"),
    "npy-by-columns": npy_by_columns,
    "hdf5": hdf5,
}
