"""Fill the approximate index of a segment: a graph or codes in this process, lists in parallel."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from faiss.contrib.ondisk import merge_ondisk
from numpy.typing import NDArray

from cluster.tasks import Tasks
from index.build.copies import EqualRows, NearCopies, Slice, slices
from index.build.held_out import HeldOut
from index.config import Metric
from index.search.factory import core_index, factory_error, faiss_reason, lists_bytes, save
from index.storage.layout import LISTS

_TRAINED = ".trained.faiss"
_BLOCK_ROWS = 16_384
_LAST_CANDIDATES = 3  # times those of other rows

Ints = NDArray[np.int64]


def fill_graph(
    index: Any,
    vectors: Any,
    metric: Metric,
    equal: EqualRows,
    held_out: HeldOut,
    report: Callable[[int], None],
) -> Ints:
    """Add all rows but those held out to a graph or codes.

    Args:
        index: trained, empty.
        vectors: FAISS index of the exact vectors.
        metric: how they are compared.
        equal: which of the rows are equal.
        held_out: rows that are not added, and how near copies are.
        report: called with the number of rows done.

    Returns:
        The node of each row, int64 [N]; -1 for those held out.
    """
    rows = np.setdiff1d(equal.node_rows, held_out.rows, assume_unique=True)
    node_of = np.full(vectors.ntotal, -1, np.int64)
    if held_out.near is not None and isinstance(index, faiss.IndexHNSW):
        copies = NearCopies(index, vectors, metric, held_out.near)
        copies.add(rows, report)
        node_of = copies.finish()
    else:
        for first in range(0, len(rows), _BLOCK_ROWS):
            index.add(vectors.reconstruct_batch(rows[first : first + _BLOCK_ROWS]))
            report(min(first + _BLOCK_ROWS, len(rows)))
        node_of[rows] = np.arange(len(rows))
    return np.where(node_of < 0, node_of[equal.first], node_of)


def add_last(index: Any, vectors: NDArray[np.float32]) -> None:
    """Add the last rows to a graph or to codes, [R, D].

    A node of a graph gets links when it is added, and more from those that come later. The last
    get the first kind only, so more candidates are looked at: then their recall is that of others.
    """
    core = core_index(index)
    if isinstance(core, faiss.IndexHNSW):
        before = core.hnsw.efConstruction
        core.hnsw.efConstruction = _LAST_CANDIDATES * before
        index.add(vectors)
        core.hnsw.efConstruction = before
    else:
        index.add(vectors)


def order_nodes(index: Any, node_of: Ints) -> Ints:
    """Store the nodes of a graph in the order in which they are reached from its entry point.

    Nodes that a search visits one after another then lie near each other in memory: at a million
    rows a search takes a tenth less time. Other kinds of index stay as they are.

    Args:
        index: complete.
        node_of: int64 [N], the node of each row.

    Returns:
        The node of each row in the new order.
    """
    core = core_index(index)
    if not isinstance(core, faiss.IndexHNSW):
        return node_of
    graph: Any = core.hnsw
    starts = faiss.vector_to_array(graph.offsets).astype(np.int64)
    links = faiss.vector_to_array(graph.neighbors)
    lowest_layer = np.arange(graph.nb_neighbors(0))
    is_reached = np.zeros(core.ntotal, bool)
    reached = np.array([graph.entry_point])
    order = []
    while len(reached):
        is_reached[reached] = True
        order.append(reached)
        linked = links[starts[reached, None] + lowest_layer].ravel()
        linked = linked[linked >= 0]
        linked = linked[~is_reached[linked]]
        reached = linked[np.sort(np.unique(linked, return_index=True)[1])]
    order.append(np.flatnonzero(~is_reached))
    old = np.concatenate(order).astype(np.int64)
    core.permute_entries(old)
    new = np.empty_like(old)
    new[old] = np.arange(len(old))
    return new[node_of]


@dataclass(frozen=True)
class FillTask:
    """Fill a shard of the trained index with some nodes of a slice of the rows."""

    part: Slice
    number: int
    rows: Ints  # of the segment, ascending
    first_node: int
    threads: int  # 0: FAISS's default


def shard_file(folder: Path, number: int) -> Path:
    """The filled shard of a slice; removed when the shards are merged."""
    return folder / f".shard-{number:05d}.faiss"


def fill_shard(task: FillTask) -> int:
    """Write the shard of a slice; returns the number of its rows.

    Raises:
        OSError: the disk refused.
    """
    if task.threads:
        faiss.omp_set_num_threads(task.threads)
    shard = faiss.read_index(str(task.part.folder / _TRAINED))
    vectors = task.part.vectors()[task.rows - task.part.first]
    shard.add_with_ids(vectors, np.arange(task.first_node, task.first_node + len(vectors)))
    save(shard, shard_file(task.part.folder, task.number))
    return task.part.stop - task.part.first


def fill_lists(
    index: Any,
    factory: str,
    metric: Metric,
    folder: Path,
    rows: Ints,
    total: int,
    *,
    memory_bytes: int,
    tasks: Tasks,
    report: Callable[[int], None],
) -> None:
    """Fill inverted lists: a shard for each slice of the rows, then merged.

    The lists stay on the disk, in a file beside the index, where they would take more than half of
    the memory.

    Args:
        index: trained, empty.
        factory: its factory string, for the error message.
        metric: how vectors are compared.
        folder: of the segment.
        rows: of the nodes, ascending.
        total: rows of the segment.
        memory_bytes: memory of one process.
        tasks: runs the work on the slices.
        report: called with the number of rows done.

    Raises:
        SnapshotError: the lists do not fit into memory and cannot stay on the disk.
        OSError: the disk refused.
    """
    core = core_index(index)
    size = lists_bytes(len(rows), core.code_size)
    on_disk = 2 * size > memory_bytes
    if on_disk and isinstance(core, faiss.IndexIVFFastScan):
        why = f"its lists take {size / 1e9:.1f} GB and 4-bit codes must be in memory"
        raise factory_error(factory, metric, index.d, why)
    save(index, folder / _TRAINED)
    parts = slices(folder, total)
    edges = np.searchsorted(rows, [part.first for part in parts] + [total]).tolist()
    threads = 1 if tasks.is_parallel else 0
    work = [
        FillTask(part, number, rows[low:high], low, threads)
        for number, (part, low, high) in enumerate(zip(parts, edges[:-1], edges[1:], strict=True))
    ]
    done = 0

    def report_shard(shard_rows: int) -> None:
        nonlocal done
        done += shard_rows
        report(done)

    tasks.run(fill_shard, work, done=report_shard)
    files = [shard_file(folder, number) for number in range(len(parts))]
    if on_disk:
        _merge_on_disk(index, files, folder / LISTS, size)
    else:
        for file in files:
            core.merge_from(core_index(shard := faiss.read_index(str(file))), 0)
            del shard
        index.ntotal = core.ntotal
    for file in (*files, folder / _TRAINED):
        file.unlink()


def _merge_on_disk(index: Any, shards: list[Path], lists: Path, size: int) -> None:
    # FAISS writes to a memory-mapped sparse file, where a full disk would end the process.
    if shutil.disk_usage(lists.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        merge_ondisk(index, [str(file) for file in shards], str(lists))
    except RuntimeError as error:
        raise OSError(faiss_reason(error)) from error
