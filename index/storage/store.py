"""The exact vectors of a segment, in one memory-mapped file.

The file is a FAISS flat index, a header and then the rows as float32, so FAISS searches it
without a copy. It is created at its full size and filled slice by slice: processes on several
nodes write their own rows into it, and none holds all of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.config import Metric
from index.metrics import faiss_metric

_FLOAT_BYTES = 4
# Offset of the number of vectors in FAISS's format: after the four-letter kind and the dimension.
# The number of values is at the end of the header. ``create`` checks that the format is unchanged.
_NTOTAL_OFFSET = 8
_COUNT_BYTES = 8


def create(file: Path, rows: int, dim: int, metric: Metric) -> None:
    """Create a sparse file of zero vectors.

    Args:
        file: a new file.
        rows: number of vectors.
        dim: values per vector.
        metric: how vectors are compared.

    Raises:
        OSError: the disk refused, or ``file`` exists.
    """
    header = _header(rows, dim, metric)
    with file.open("xb") as stream:
        stream.write(header)
        stream.truncate(len(header) + rows * dim * _FLOAT_BYTES)


def write(file: Path, first_row: int, vectors: NDArray[np.float32], metric: Metric) -> None:
    """Write consecutive rows.

    Args:
        file: what ``create`` made.
        first_row: row number of the first vector.
        vectors: [N, D], prepared for ``metric``.
        metric: that of the file.

    Raises:
        OSError: the disk refused.
    """
    if not len(vectors):
        return
    dim = vectors.shape[1]
    offset = len(_header(0, dim, metric)) + first_row * dim * _FLOAT_BYTES
    data = memoryview(np.ascontiguousarray(vectors, "<f4").view(np.uint8).reshape(-1).data)
    handle = os.open(file, os.O_WRONLY)
    try:
        while data:
            written = os.pwrite(handle, data, offset)
            data, offset = data[written:], offset + written
    finally:
        os.close(handle)


def open_store(file: Path) -> Any:
    """The file as a FAISS flat index, memory-mapped.

    Raises:
        RuntimeError: FAISS cannot read the file, or it is cut short.
    """
    return faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)


def has_header(file: Path, rows: int, dim: int, metric: Metric) -> bool:
    """Whether a file begins as ``create`` begins it.

    Raises:
        OSError: it cannot be read.
    """
    header = _header(rows, dim, metric)
    with file.open("rb") as stream:
        return stream.read(len(header)) == header


def _header(rows: int, dim: int, metric: Metric) -> bytes:
    def written(vectors: int) -> bytes:
        index = faiss.IndexFlat(dim, faiss_metric(metric))
        index.add(np.zeros((vectors, dim), np.float32))
        return bytes(faiss.serialize_index(index))

    def patched(vectors: int) -> bytes:
        header = bytearray(written(0))
        header[_NTOTAL_OFFSET : _NTOTAL_OFFSET + _COUNT_BYTES] = vectors.to_bytes(
            _COUNT_BYTES, "little"
        )
        header[-_COUNT_BYTES:] = (vectors * dim).to_bytes(_COUNT_BYTES, "little")
        return bytes(header)

    if written(2) != patched(2) + bytes(2 * dim * _FLOAT_BYTES):
        raise RuntimeError(f"FAISS {faiss.__version__} lays a flat index out in another way")
    return patched(rows)
