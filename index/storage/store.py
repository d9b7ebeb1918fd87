"""Every vector of a segment, exact, in one file that is memory-mapped: the truth behind a search.

The file is a FAISS flat index, a header and then the rows as float32, so FAISS searches it
without a copy. It is created at its full size and filled slice by slice: processes on several
nodes write their own rows into one file, and none of them ever holds all.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.metrics import Metric, faiss_metric

_FLOAT = 4
# Where FAISS writes the counts into a flat index: after its four-letter kind and the dimension,
# and at the end of the header. ``create`` proves that it still does.
_NTOTAL_AT = 8
_COUNT_BYTES = 8


def create(file: Path, rows: int, dim: int, metric: Metric) -> None:
    """Make the file for ``rows`` vectors of ``dim``; all of them zero, none of them on the disk.

    Raises:
        OSError: the disk refused.
    """
    header = _header(rows, dim, metric)
    with file.open("xb") as stream:
        stream.write(header)
        stream.truncate(len(header) + rows * dim * _FLOAT)


def write(file: Path, first_row: int, vectors: NDArray[np.float32], metric: Metric) -> None:
    """Write ``vectors`` [N, D], prepared for ``metric``, as the rows from ``first_row`` on.

    Raises:
        OSError: the disk refused.
    """
    if not len(vectors):
        return
    dim = vectors.shape[1]
    at = len(_header(0, dim, metric)) + first_row * dim * _FLOAT
    data = memoryview(np.ascontiguousarray(vectors, "<f4").view(np.uint8).reshape(-1).data)
    handle = os.open(file, os.O_WRONLY)
    try:
        while data:
            written = os.pwrite(handle, data, at)
            data, at = data[written:], at + written
    finally:
        os.close(handle)


def open_store(file: Path) -> Any:
    """The file as a FAISS flat index, memory-mapped.

    Raises:
        RuntimeError: FAISS's own, for a file that is none or is cut short.
    """
    return faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)


def _header(rows: int, dim: int, metric: Metric) -> bytes:
    def written(vectors: int) -> bytes:
        index = faiss.IndexFlat(dim, faiss_metric(metric))
        index.add(np.zeros((vectors, dim), np.float32))
        return bytes(faiss.serialize_index(index))

    def patched(vectors: int) -> bytes:
        header = bytearray(written(0))
        header[_NTOTAL_AT : _NTOTAL_AT + _COUNT_BYTES] = vectors.to_bytes(_COUNT_BYTES, "little")
        header[-_COUNT_BYTES:] = (vectors * dim).to_bytes(_COUNT_BYTES, "little")
        return bytes(header)

    if written(2) != patched(2) + bytes(2 * dim * _FLOAT):
        raise RuntimeError(f"FAISS {faiss.__version__} lays a flat index out in another way")
    return patched(rows)
