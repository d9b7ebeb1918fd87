"""Make one segment out of parts: sample, train, encode side by side, merge, tune.

The vectors go into one file at their places, the codes into shards that are merged, so that no
process ever holds all vectors. Only a graph (``HNSW…``) must be grown in one process; ``auto``
takes one only where it fits.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
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
from index.storage.layout import (
    IDS,
    LISTS,
    ROWS,
    SEARCH,
    VECTORS,
    BuildOptions,
    RecallFacts,
    SegmentEntry,
)
from index.storage.rows import read_rows, write_ids, write_rows

RECALL_K = 10
HELD_OUT = 1_000  # queries kept aside at most: recall@10 over 10,000 neighbours, good to 0.005
FILTERED_SHARES = (0.5, 0.1, 0.01)
_FILTERED_QUERIES = 100
_GRAPH_BLOCK = 16_384
SEED = 20_240_501  # the same rows give the same segment

ReportRows = Callable[[int, int], None]  # rows done, rows in all


def assemble(
    folder: Path,
    inputs: Inputs,
    *,
    dim: int,
    options: BuildOptions,
    memory_bytes: int,
    tasks: Tasks,
    report: ReportRows,
) -> SegmentEntry:
    """Fill ``folder`` with a segment of ``inputs``.

    Raises:
        SnapshotError: the factory does not work, a vector is zero, a run is damaged.
        OSError: the disk refused.
    """
    metric, total = options.metric, inputs.rows
    asked = without_transforms(options.factory)
    name = choose_factory(total, dim, metric, memory_bytes) if asked == "auto" else asked
    index = None if is_flat(name) else make_index(name, dim, metric)
    random = np.random.default_rng(SEED)
    held = _choose_held_out(random, total)
    wanted = 0 if index is None else training_rows(index, total - len(held), dim, memory_bytes)
    learn = np.setdiff1d(random.choice(total, min(total, wanted + len(held)), replace=False), held)
    queries, learned = _read_samples(inputs, held, learn[:wanted], dim, options, tasks)
    if index is not None:
        train(index, learned, name, metric)
    del learned
    merges = index is not None and is_mergeable(index)
    trained = folder / ".trained.faiss" if merges else None
    if index is not None and trained is not None:
        save(index, trained)
    store.create(folder / VECTORS, total, dim, metric)
    base = total - len(held)
    truth = ExactKnn(queries, min(RECALL_K, base), metric)
    encoded = _encode(folder, inputs, held, queries, trained, dim, options, tasks, report)
    for one in encoded:
        truth.join(*one.found)
    store.write(folder / VECTORS, base, queries, metric)
    _join_rows(folder, inputs, held, encoded)
    exact = truth.hits()
    if index is None:
        effort, measured = SearchParams({}), 1.0 if len(held) else None
    else:
        built = _IndexBuilder(folder, index, name, base, queries, exact, options, memory_bytes)
        effort, measured = built.merge(len(encoded)) if merges else built.grow()
    entry = SegmentEntry(
        name=folder.name,
        rows=total,
        factory=name if index is not None else FLAT,
        search_params=effort.values,
        recall=RecallFacts(
            k=min(RECALL_K, base), target=options.recall, measured=measured, queries=len(held)
        ),
        files={
            file.name: sha256_file(file)
            for file in sorted(folder.iterdir())
            if not file.name.startswith(".")
        },
    )
    if index is None or not len(held):
        return entry
    filtered = _recall_when_filtered(folder, entry, dim, options, queries)
    return entry.model_copy(
        update={"recall": entry.recall.model_copy(update={"filtered": filtered})}
    )


def _choose_held_out(random: np.random.Generator, total: int) -> NDArray[np.int64]:
    """Rows kept aside as queries, ascending: a fifth of few rows, a thousand of many."""
    if total < 2:
        return np.empty(0, np.int64)
    queries = min(HELD_OUT, max(1, total // 5))
    return np.sort(random.choice(total, queries, replace=False))


def _read_samples(
    inputs: Inputs,
    held: NDArray[np.int64],
    learn: NDArray[np.int64],
    dim: int,
    options: BuildOptions,
    tasks: Tasks,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of the rows held out, in order, and of those to learn from."""
    wanted = np.sort(np.concatenate([held, learn]))
    wishes = [
        SampleTask(part, own, dim, options.metric)
        for part, own in zip(inputs.parts, _rows_by_part(inputs, wanted), strict=True)
        if len(own)
    ]
    drawn = np.concatenate([np.empty((0, dim), np.float32), *tasks.run(sample, wishes)])
    if len(drawn) != len(wanted):
        raise SnapshotError(
            f"{len(wanted)} vectors were wanted and {len(drawn)} read: a run is damaged; check "
            "with 'onepass inspect RUN --verify'"
        )
    is_held = np.isin(wanted, held)
    return drawn[is_held], drawn[~is_held]


def _rows_by_part(inputs: Inputs, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Ascending row numbers as numbers within each part."""
    starts = np.cumsum([0, *(one.rows for one in inputs.counted)])
    edges = np.searchsorted(rows, starts)
    return [
        rows[low:high] - start
        for low, high, start in zip(edges[:-1], edges[1:], starts[:-1], strict=True)
    ]


def _encode(
    folder: Path,
    inputs: Inputs,
    held: NDArray[np.int64],
    queries: NDArray[np.float32],
    trained: Path | None,
    dim: int,
    options: BuildOptions,
    tasks: Tasks,
    report: ReportRows,
) -> list[EncodedPart]:
    jobs, first = [], 0
    own = _rows_by_part(inputs, held)
    for number, (part, counted) in enumerate(zip(inputs.parts, inputs.counted, strict=True)):
        jobs.append(
            EncodeTask(
                part=part,
                number=number,
                folder=folder.resolve(),
                rows=counted.rows,
                held=own[number],
                first=first,
                dim=dim,
                metric=options.metric,
                trained=trained.resolve() if trained else None,
                queries=queries,
                k=min(RECALL_K, inputs.rows - len(held)),
                threads=1 if tasks.elsewhere else 0,
            )
        )
        first += counted.rows - len(own[number])
    done = 0

    def count_up(one: EncodedPart) -> None:
        nonlocal done
        done += one.rows
        report(done, inputs.rows)

    return tasks.run(encode, jobs, done=count_up)


def _join_rows(
    folder: Path, inputs: Inputs, held: NDArray[np.int64], encoded: list[EncodedPart]
) -> None:
    """``rows.arrow`` and ``ids.npy``: the parts' rows in order, then those held out."""
    files = [rows_file(folder, number) for number in range(len(encoded))]

    def batches() -> Any:
        for file in files:
            yield from read_rows(file).to_batches()
        for one in encoded:
            yield from one.held.to_batches()

    write_rows(folder / ROWS, batches())
    hashes = np.concatenate([one.hashes for one in inputs.counted])
    is_held = np.zeros(len(hashes), bool)
    is_held[held] = True
    write_ids(folder / IDS, np.concatenate([hashes[~is_held], hashes[is_held]]))
    for file in files:
        file.unlink()


@dataclass(frozen=True)
class _IndexBuilder:
    """What it takes to put an index together and see how well it does."""

    folder: Path
    index: Any  # trained, empty
    name: str
    base: int  # rows before those held out
    queries: NDArray[np.float32]
    exact: Hits
    options: BuildOptions
    memory_bytes: int

    def merge(self, shards: int) -> tuple[SearchParams, float | None]:
        """Put the shards' lists together, in memory or on the disk."""
        files = [shard_file(self.folder, number) for number in range(shards)]
        index, core = self.index, core_index(self.index)
        late = np.arange(self.base, self.base + len(self.queries))
        size = lists_bytes(self.base, core.code_size)
        on_disk = 2 * size > self.memory_bytes
        allowed = None
        if on_disk:
            if isinstance(core, faiss.IndexIVFFastScan):
                why = f"its lists take {size / 1e9:.1f} GB and 4-bit codes must be in memory"
                raise factory_error(self.name, self.options.metric, index.d, why)
            last = faiss.read_index(str(self.folder / ".trained.faiss"))
            last.add_with_ids(self.queries, late)
            files.append(shard_file(self.folder, shards))
            save(last, files[-1])
            self._merge_on_disk(files, lists_bytes(self.base + len(late), core.code_size))
            # Rows held out are in it already, so they are kept out of the answers instead.
            allowed = Allowed(np.arange(self.base + len(late)) < self.base)
        else:
            for file in files:
                core.merge_from(core_index(shard := faiss.read_index(str(file))), 0)
                del shard
            index.ntotal = core.ntotal
        tuned = self._tune(allowed)
        if not on_disk and len(late):
            # Merged too: FAISS adds 4-bit codes wrongly to a list that was merged before.
            last = faiss.read_index(str(self.folder / ".trained.faiss"))
            last.add_with_ids(self.queries, late)
            core.merge_from(core_index(last), 0)
            index.ntotal = core.ntotal
        Accelerator.write(index, self.folder / SEARCH)
        for file in (*files, self.folder / ".trained.faiss"):
            file.unlink()
        return tuned

    def grow(self) -> tuple[SearchParams, float | None]:
        """Add the vectors one block after another, in this process."""
        vectors = store.open_store(self.folder / VECTORS)
        for first in range(0, self.base, _GRAPH_BLOCK):
            self.index.add(vectors.reconstruct_n(first, min(_GRAPH_BLOCK, self.base - first)))
        tuned = self._tune(None)
        if len(self.queries):
            self.index.add(self.queries)
        Accelerator.write(self.index, self.folder / SEARCH)
        return tuned

    def _tune(self, allowed: Allowed | None) -> tuple[SearchParams, float | None]:
        exact = store.open_store(self.folder / VECTORS)
        quick = Accelerator(self.index, exact, self.options.metric)
        ladders = quick.ladders()
        if not len(self.queries):
            return ladders[0][-1], None
        k = self.exact.rows.shape[1]

        def search(effort: SearchParams) -> Hits:
            values, rows = quick.search(self.queries, k, effort, allowed, no_harder=True)
            return Hits(rows, to_scores(values, self.options.metric))

        return tune(search, ladders, self.exact, target=self.options.recall)

    def _merge_on_disk(self, shards: list[Path], size: int) -> None:
        # FAISS writes through a map of a file without blocks: a full disk would end the process.
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        from faiss.contrib.ondisk import merge_ondisk

        try:
            merge_ondisk(self.index, [str(file) for file in shards], str(self.folder / LISTS))
        except RuntimeError as error:
            raise OSError(faiss_reason(error)) from error


def _recall_when_filtered(
    folder: Path,
    entry: SegmentEntry,
    dim: int,
    options: BuildOptions,
    queries: NDArray[np.float32],
) -> dict[str, float]:
    """Recall under filters that leave a random share of the rows, as they are searched."""
    segment = Segment(folder, entry, dim, options.metric)
    asked = queries[:_FILTERED_QUERIES]
    random = np.random.default_rng(SEED)
    base = entry.rows - len(queries)
    found = {}
    for share in FILTERED_SHARES:
        mask = random.random(entry.rows) < share
        mask[base:] = False  # the queries themselves
        search = partial(segment.search_among, asked, RECALL_K, Allowed(mask))
        exact = search(None)
        if exact.rows.shape[1]:
            hits = search(SearchParams(entry.search_params))
            found[f"{share:g}"] = round(recall_at(exact, hits), 4)
    return found
