"""Choose and make the approximate index of a segment, by FAISS factory string.

The exact vectors are stored separately (``store.py``) and every hit is scored with them. So a
factory decides how fast candidates are found and how many are missed, never what a score means,
and the recall is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import SnapshotError
from index.config import Metric
from index.metrics import faiss_metric

FLAT = "Flat"
FLAT_VALUES = 2_560_000
"""``auto`` searches exhaustively up to this many stored values (rows x dimension).

2,000 rows of 1,280 or 10,000 of 256: half a millisecond a query on one core of two shared ones.
"""

GRAPH_ROWS = 2_000_000
"""``auto`` builds a graph up to here, in minutes; above, lists, which are built in parallel.

A graph answers faster than lists do.
"""

LARGE_GRAPH_ROWS = 200_000
"""From here on ``auto`` makes a graph of half the links and 16-bit values.

So many neighbours lie so near each other that 8 bits confuse them, and where the vectors outgrow
the caches each link costs a read of memory.
"""

_EF_CONSTRUCTION = 100  # with FAISS's default of 40 a search needs twice the efSearch
_LARGE_EF_CONSTRUCTION = 200  # a third less again, for twice the time; hnswlib's default
_COARSE_LINKS = 32
EXAMPLES = "Flat, HNSW32, IVF1024,PQ128x4fsr, IVF1024,SQ8, PCA256,IVF1024,Flat"

_ROWS_PER_LIST = 40  # to train on; FAISS warns below 39
_ROWS_PER_QUANTISER = 65_536
_COARSE_GRAPH_LISTS = 1_024  # with fewer lists, comparing with all centroids is as fast
_MAX_SUBQUANTISERS = 320
_faiss: Any = faiss  # its type stubs lack keyword arguments and SWIG vectors


def choose_factory(rows: int, dim: int, metric: Metric, memory_bytes: int) -> str:
    """A factory string for the number and size of the vectors.

    Few values: ``Flat``. Up to ``GRAPH_ROWS``: a graph of 8-bit or 16-bit codes, if it fits into
    half of the memory; it is searched faster than one of whole vectors.
    Otherwise inverted lists of 4-bit codes of residuals (they need a quarter of the candidates that codes of whole
    vectors need), unless the lists take more than half of the memory and must stay on the disk,
    which FAISS cannot do with 4-bit codes. For ``l1``, which codes do not support: a graph, or
    lists of whole vectors.

    Args:
        rows: vectors of the segment.
        dim: values per vector.
        metric: how vectors are compared.
        memory_bytes: memory of one process.
    """
    if rows * dim <= FLAT_VALUES:
        return FLAT
    is_large = rows >= LARGE_GRAPH_ROWS
    links = 16 if is_large else 32
    encoding, value_bytes = (",SQbf16", 2) if is_large else (",SQ8", 1)
    if metric == "l1":  # which codes do not support
        encoding, value_bytes = "", 4
    graph = f"HNSW{links}{encoding}"
    graph_bytes = rows * (dim * value_bytes + 2 * 4 * links)
    if 2 * graph_bytes <= memory_bytes and (rows <= GRAPH_ROWS or metric == "l1"):
        return graph
    if metric == "l1":
        return f"IVF{_lists(rows)},Flat"  # FAISS trains no graph of centroids for l1
    lists = f"IVF{_lists(rows)}"
    if _lists(rows) >= _COARSE_GRAPH_LISTS:
        lists += f"_HNSW{_COARSE_LINKS}"
    per_code = next((n for n in (2, 4, 8, 16) if _divides(dim, n)), None)
    if per_code is None:
        return f"{lists},SQ8"
    codes = dim // per_code
    if 2 * lists_bytes(rows, codes // 2) <= memory_bytes:
        return f"{lists},PQ{codes}x4fsr"
    return f"{lists},PQ{codes // 2}"  # 8 bits per twice the values: the same size


def lists_bytes(rows: int, code_bytes: int) -> int:
    """Size of inverted lists of ``rows`` codes: each code, and its row number in 8 bytes."""
    return rows * (code_bytes + 8)


def _lists(rows: int) -> int:
    return int(2 ** round(np.log2(1.5 * np.sqrt(rows))))


def _divides(dim: int, per_code: int) -> bool:
    return dim % (2 * per_code) == 0 and dim // per_code <= _MAX_SUBQUANTISERS


def without_transforms(factory: str) -> str:
    """A factory string without ``L2norm`` and ``RFlat``, which every index here implies."""
    return factory.strip().removeprefix("L2norm,").removesuffix(",RFlat")


def make_index(factory: str, dim: int, metric: Metric, rows: int = 0) -> Any:
    """Make an empty index; it may still need training.

    Args:
        factory: FAISS factory string.
        dim: values per vector.
        metric: how vectors are compared.
        rows: that it is made for; more candidates are looked at for the links of a large graph.

    Raises:
        SnapshotError: FAISS has no such factory, or not for this metric or dimension.
    """
    try:
        index = faiss.index_factory(dim, without_transforms(factory), faiss_metric(metric))
    except RuntimeError as error:
        raise factory_error(factory, metric, dim, faiss_reason(error)) from None
    core = core_index(index)
    if isinstance(core, faiss.IndexRefine):
        why = "a refining index is not needed: every answer is scored with the vectors themselves"
        raise factory_error(factory, metric, dim, why)
    if isinstance(core, faiss.IndexIDMap):
        raise factory_error(factory, metric, dim, "rows are numbered here already")
    if isinstance(core, faiss.IndexHNSW):
        is_large = rows >= LARGE_GRAPH_ROWS
        core.hnsw.efConstruction = _LARGE_EF_CONSTRUCTION if is_large else _EF_CONSTRUCTION
    if metric == "l1" and not has_exact_scores(index):
        # FAISS makes such an index silently, and it ranks by another metric.
        why = "it ranks by something else; l1 needs whole vectors"
        raise factory_error(factory, metric, dim, why)
    if core.metric_type != faiss_metric(metric):  # FAISS makes a graph of codes always for l2
        raise factory_error(factory, metric, dim, "FAISS makes it for another metric")
    return index


def check_factory(factory: str, dim: int, metric: Metric) -> None:
    """Check a factory string before anything is built.

    Args:
        factory: FAISS factory string, or ``auto``.
        dim: values per vector.
        metric: how vectors are compared.

    Raises:
        SnapshotError: as ``make_index``.
    """
    if not is_flat(factory) and without_transforms(factory) != "auto":
        make_index(factory, dim, metric)


def training_rows(index: Any, rows: int, dim: int, memory_bytes: int) -> int:
    """Number of rows to train on; 0 for an index that needs no training.

    Args:
        index: an untrained index.
        rows: rows there are.
        dim: values per vector.
        memory_bytes: memory of one process, of which a quarter is used.
    """
    if index.is_trained:
        return 0
    core = core_index(index)
    lists = core.nlist if isinstance(core, faiss.IndexIVF) else 0
    enough = max(_ROWS_PER_QUANTISER, _ROWS_PER_LIST * lists)
    return min(rows, enough, memory_bytes // 4 // (4 * dim))  # FAISS may copy it once or twice


def train(index: Any, sample: NDArray[np.float32], factory: str, metric: Metric) -> None:
    """Train ``index`` if it needs training, on GPUs where there are any.

    Args:
        index: an empty index.
        sample: [S, D] float32, prepared for the metric.
        factory: of the index, for the error message.
        metric: of the index, for the error message.

    Raises:
        SnapshotError: FAISS refuses, most often because there are too few rows.
    """
    if index.is_trained:
        return
    core = core_index(index)
    on_gpu = isinstance(core, faiss.IndexIVF) and faiss.get_num_gpus() > 0
    if on_gpu:  # k-means is nearly all of the work
        flat = faiss.IndexFlat(core.d, core.metric_type)
        core.clustering_index = _faiss.index_cpu_to_all_gpus(flat)
    try:
        index.train(sample)
    except RuntimeError as error:
        why = f"training on {len(sample)} rows: {faiss_reason(error)}"
        raise factory_error(factory, metric, index.d, why) from None
    finally:
        if on_gpu:
            core.clustering_index = None


def is_flat(factory: str) -> bool:
    """Whether every search is exhaustive."""
    return without_transforms(factory) == FLAT


def is_mergeable(index: Any) -> bool:
    """Whether shards of it, filled in parallel, can be merged."""
    return isinstance(core_index(index), faiss.IndexIVF)


def has_exact_scores(index: Any) -> bool:
    """Whether its scores are those of the vectors, not of codes for them."""
    if isinstance(index, faiss.IndexPreTransform):
        return False
    whole = (faiss.IndexFlat, faiss.IndexHNSWFlat, faiss.IndexIVFFlat)
    return isinstance(index, whole)


def core_index(index: Any) -> Any:
    """The index behind projections and rotations."""
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.downcast_index(index.index)
    return index


def graph_links(index: Any) -> int:
    """Links of each node of a graph above the lowest layer, which has twice as many; else 0."""
    hnsw: Any = getattr(index, "hnsw", None)
    return int(hnsw.nb_neighbors(1)) if hnsw is not None else 0


def save(index: Any, file: Path, flags: int = 0) -> None:
    """Write a FAISS index.

    Args:
        index: what to write.
        file: where.
        flags: FAISS's ``IO_FLAG_…``.

    Raises:
        OSError: the disk refused; FAISS itself raises ``RuntimeError``.
    """
    try:
        _faiss.write_index(index, str(file), flags)
    except RuntimeError as error:
        raise OSError(faiss_reason(error)) from error


def faiss_reason(error: RuntimeError) -> str:
    """The readable part of a FAISS exception, on one line."""
    text = " ".join(str(error).split())
    if "failed: " in text:
        return text.rsplit("failed: ", 1)[1] or text
    return text.rsplit(": ", 1)[-1].strip()


def factory_error(factory: str, metric: Metric, dim: int, why: str) -> SnapshotError:
    """The error for a factory that does not work.

    Args:
        factory: as it was given.
        metric: that it was to be made for.
        dim: values per vector.
        why: what FAISS says.
    """
    return SnapshotError(
        f"`factory={factory!r}` does not work for metric {metric!r} in {dim} dimensions ({why}); "
        f"give 'auto' or a FAISS string such as {EXAMPLES}"
    )
