"""Build one segment from parts: sample, train, encode in parallel, merge, tune.

The vectors are written into one file at their offsets, the codes into shards that are merged, so
that no process holds all vectors. Only a graph (``HNSW…``) must be built in one process; ``auto``
chooses one only where it fits into memory.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from faiss.contrib.ondisk import merge_ondisk
from numpy.typing import NDArray

from cluster.tasks import Tasks
from common.errors import SnapshotError
from common.json_models import sha256_file
from index.build.encode import (
    EncodedPart,
    EncodeTask,
    SampleTask,
    encode,
    rows_file,
    sample,
    shard_file,
)
from index.build.inputs import Inputs
from index.config import IndexConfig
from index.metrics import to_scores
from index.search.accelerator import Accelerator, Allowed, SearchParams
from index.search.factory import (
    FLAT,
    choose_factory,
    core_index,
    factory_error,
    faiss_reason,
    is_flat,
    is_mergeable,
    lists_bytes,
    make_index,
    save,
    train,
    training_rows,
    without_transforms,
)
from index.search.recall import ExactKnn, Hits, recall_at, tune
from index.search.segment import Segment
from index.storage import store
from index.storage.layout import IDS, LISTS, ROWS, SEARCH, VECTORS, RecallFacts, SegmentEntry
from index.storage.rows import read_rows, write_ids, write_rows

RECALL_K = 10
MAX_HELD_OUT = 1_000  # queries: recall@10 over 10,000 neighbours, good to 0.005
FILTERED_SHARES = (0.5, 0.1, 0.01)
_FILTERED_QUERIES = 100
_GRAPH_BLOCK = 16_384
_TRAINED = ".trained.faiss"
SEED = 20_240_501  # the same rows give the same segment

ReportRows = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


def assemble(
    folder: Path,
    inputs: Inputs,
    *,
    dim: int,
    config: IndexConfig,
    memory_bytes: int,
    tasks: Tasks,
    report: ReportRows,
) -> SegmentEntry:
    """Build a segment.

    Args:
        folder: an empty folder for its files.
        inputs: rows of the segment.
        dim: values per vector.
        config: metric, factory and the recall to tune for.
        memory_bytes: memory of one process.
        tasks: runs the work on the parts.
        report: called after each part.

    Raises:
        SnapshotError: the factory does not work, a vector is zero, or a run is damaged.
        OSError: the disk refused.
    """
    metric, total = config.metric, inputs.rows
    factory = without_transforms(config.factory)
    name = choose_factory(total, dim, metric, memory_bytes) if factory == "auto" else factory
    index = None if is_flat(name) else make_index(name, dim, metric)
    random = np.random.default_rng(SEED)
    held_out = _choose_held_out(random, total)
    base = total - len(held_out)
    limit = 0 if index is None else training_rows(index, base, dim, memory_bytes)
    drawn = random.choice(total, min(total, limit + len(held_out)), replace=False)
    training = np.setdiff1d(drawn, held_out)[:limit]
    parts = _Parts(folder, inputs, held_out, dim, config, tasks)
    queries, training_sample = parts.read_samples(training)
    if index is not None:
        train(index, training_sample, name, metric)
    del training_sample
    merges = index is not None and is_mergeable(index)
    if merges:
        save(index, folder / _TRAINED)
    store.create(folder / VECTORS, total, dim, metric)
    encoded = parts.encode(queries, merges, report)
    store.write(folder / VECTORS, base, queries, metric)
    parts.join_rows(encoded)
    if index is None:
        params, recall = SearchParams({}), 1.0 if len(held_out) else None
    else:
        exact = ExactKnn(queries, min(RECALL_K, base), metric)
        for part in encoded:
            exact.merge(*part.neighbors)
        filler = _IndexFiller(
            folder, index, name, base, queries, exact.hits(), config, memory_bytes
        )
        params, recall = filler.merge_shards(len(encoded)) if merges else filler.add_vectors()
    entry = SegmentEntry(
        name=folder.name,
        rows=total,
        factory=name if index is not None else FLAT,
        search_params=params.values,
        recall=RecallFacts(
            k=min(RECALL_K, base), target=config.recall, measured=recall, queries=len(held_out)
        ),
        files={
            file.name: sha256_file(file)
            for file in sorted(folder.iterdir())
            if not file.name.startswith(".")
        },
    )
    if index is None or not len(held_out):
        return entry
    filtered = _recall_when_filtered(Segment(folder, entry, dim, metric), queries)
    return entry.model_copy(
        update={"recall": entry.recall.model_copy(update={"filtered": filtered})}
    )


def _choose_held_out(random: np.random.Generator, total: int) -> NDArray[np.int64]:
    """Rows that serve as queries, ascending: a fifth of all, at most ``MAX_HELD_OUT``."""
    if total < 2:
        return np.empty(0, np.int64)
    queries = min(MAX_HELD_OUT, max(1, total // 5))
    return np.sort(random.choice(total, queries, replace=False))


@dataclass(frozen=True)
class _Parts:
    """The work on the parts of a segment: each in a task of its own, then joined."""

    folder: Path
    inputs: Inputs
    held_out: NDArray[np.int64]  # rows that come last in the segment, as queries; ascending
    dim: int
    config: IndexConfig
    tasks: Tasks

    def read_samples(
        self, training: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vectors of the held-out rows, in order, and of the rows to train on."""
        rows = np.sort(np.concatenate([self.held_out, training]))
        samples = [
            SampleTask(part, own, self.dim, self.config.metric)
            for part, own in zip(self.inputs.parts, self._by_part(rows), strict=True)
            if len(own)
        ]
        empty = np.empty((0, self.dim), np.float32)
        vectors = np.concatenate([empty, *self.tasks.run(sample, samples)])
        if len(vectors) != len(rows):
            raise SnapshotError(
                f"{len(rows)} vectors were wanted and {len(vectors)} read: a run is damaged; check "
                "with 'onepass inspect RUN --verify'"
            )
        is_held_out = np.isin(rows, self.held_out)
        return vectors[is_held_out], vectors[~is_held_out]

    def encode(
        self, queries: NDArray[np.float32], trained: bool, report: ReportRows
    ) -> list[EncodedPart]:
        """Write vectors and rows of each part, and fill shards of the trained index, if any."""
        jobs, first_row = [], 0
        folder = self.folder.resolve()
        held_out = self._by_part(self.held_out)
        for number, (part, counts) in enumerate(self.inputs):
            jobs.append(
                EncodeTask(
                    part=part,
                    number=number,
                    folder=folder,
                    rows=counts.rows,
                    held_out=held_out[number],
                    first_row=first_row,
                    dim=self.dim,
                    metric=self.config.metric,
                    trained=folder / _TRAINED if trained else None,
                    queries=queries,
                    k=min(RECALL_K, self.inputs.rows - len(self.held_out)),
                    threads=1 if self.tasks.is_parallel else 0,
                )
            )
            first_row += counts.rows - len(held_out[number])
        done = 0

        def report_part(part: EncodedPart) -> None:
            nonlocal done
            done += part.rows
            report(done, self.inputs.rows)

        return self.tasks.run(encode, jobs, done=report_part)

    def join_rows(self, encoded: list[EncodedPart]) -> None:
        """Write ``rows.arrow`` and ``ids.npy``: the rows of the parts, then the held-out rows."""
        files = [rows_file(self.folder, number) for number in range(len(encoded))]

        def batches() -> Iterator[pa.RecordBatch]:
            for file in files:
                yield from read_rows(file).to_batches()
            for part in encoded:
                yield from part.held_out.to_batches()

        write_rows(self.folder / ROWS, batches(), self.inputs.parts[0].schema)
        hashes = np.concatenate([counts.hashes for counts in self.inputs.counts])
        ids = np.concatenate([np.delete(hashes, self.held_out), hashes[self.held_out]])
        write_ids(self.folder / IDS, ids)
        for file in files:
            file.unlink()

    def _by_part(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Ascending row numbers, as row numbers within each part."""
        starts = np.cumsum([0, *(counts.rows for counts in self.inputs.counts)])
        edges = np.searchsorted(rows, starts)
        return [
            rows[low:high] - start
            for low, high, start in zip(edges[:-1], edges[1:], starts[:-1], strict=True)
        ]


@dataclass(frozen=True)
class _IndexFiller:
    """Fills a trained index, tunes its search parameters and writes it."""

    folder: Path
    index: Any  # trained, empty
    factory: str
    base: int  # rows before the held-out ones
    queries: NDArray[np.float32]
    exact: Hits
    config: IndexConfig
    memory_bytes: int

    def merge_shards(self, shards: int) -> tuple[SearchParams, float | None]:
        """Merge the shards' lists, in memory or on the disk; parameters and their recall."""
        files = [shard_file(self.folder, number) for number in range(shards)]
        index, core = self.index, core_index(self.index)
        total = self.base + len(self.queries)
        size = lists_bytes(self.base, core.code_size)
        on_disk = 2 * size > self.memory_bytes
        allowed = None
        if on_disk:
            if isinstance(core, faiss.IndexIVFFastScan):
                why = f"its lists take {size / 1e9:.1f} GB and 4-bit codes must be in memory"
                raise factory_error(self.factory, self.config.metric, index.d, why)
            files.append(shard_file(self.folder, shards))
            save(self._held_out_shard(), files[-1])
            self._merge_on_disk(files, lists_bytes(total, core.code_size))
            # The held-out rows are in it already, so they are excluded from the answers.
            allowed = Allowed(np.arange(total) < self.base)
        else:
            for file in files:
                core.merge_from(core_index(shard := faiss.read_index(str(file))), 0)
                del shard
            index.ntotal = core.ntotal
        tuned = self._tune(allowed)
        if not on_disk and len(self.queries):
            # Merged, not added: FAISS adds 4-bit codes wrongly to a list that was merged before.
            core.merge_from(core_index(last := self._held_out_shard()), 0)
            del last
            index.ntotal = core.ntotal
        Accelerator.write(index, self.folder / SEARCH)
        for file in (*files, self.folder / _TRAINED):
            file.unlink()
        return tuned

    def add_vectors(self) -> tuple[SearchParams, float | None]:
        """Add the vectors block by block, in this process; parameters and their recall."""
        vectors = store.open_store(self.folder / VECTORS)
        for first in range(0, self.base, _GRAPH_BLOCK):
            self.index.add(vectors.reconstruct_n(first, min(_GRAPH_BLOCK, self.base - first)))
        tuned = self._tune(None)
        if len(self.queries):
            self.index.add(self.queries)
        Accelerator.write(self.index, self.folder / SEARCH)
        return tuned

    def _held_out_shard(self) -> Any:
        shard = faiss.read_index(str(self.folder / _TRAINED))
        shard.add_with_ids(self.queries, np.arange(self.base, self.base + len(self.queries)))
        return shard

    def _tune(self, allowed: Allowed | None) -> tuple[SearchParams, float | None]:
        vectors = store.open_store(self.folder / VECTORS)
        accelerator = Accelerator(self.index, vectors, self.config.metric)
        grid = accelerator.search_grid()
        if not len(self.queries):
            return grid[0][-1], None
        k = self.exact.rows.shape[1]

        def search(params: SearchParams) -> Hits:
            values, rows = accelerator.search(self.queries, k, params, allowed, adaptive=False)
            return Hits(rows, to_scores(values, self.config.metric))

        return tune(search, grid, self.exact, target=self.config.recall)

    def _merge_on_disk(self, shards: list[Path], size: int) -> None:
        # FAISS writes to a memory-mapped sparse file, where a full disk would end the process.
        if shutil.disk_usage(self.folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            merge_ondisk(self.index, [str(file) for file in shards], str(self.folder / LISTS))
        except RuntimeError as error:
            raise OSError(faiss_reason(error)) from error


def _recall_when_filtered(segment: Segment, queries: NDArray[np.float32]) -> dict[str, float]:
    """Recall under filters that keep a random share of the rows, searched as in service."""
    random = np.random.default_rng(SEED)
    rows = segment.entry.rows
    params = SearchParams(segment.entry.search_params)
    recall_by_share = {}
    for share in FILTERED_SHARES:
        mask = random.random(rows) < share
        mask[rows - len(queries) :] = False  # the queries themselves
        allowed = Allowed(mask)
        exact, hits = (
            segment.search_allowed(queries[:_FILTERED_QUERIES], RECALL_K, allowed, each)
            for each in (None, params)
        )
        if exact.rows.shape[1]:
            recall_by_share[f"{share:g}"] = round(recall_at(exact, hits), 4)
    return recall_by_share
