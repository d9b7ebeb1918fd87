"""Make a segment searchable: group copies, train, fill and tune its approximate index.

Works on a folder that holds the exact vectors and the rows, and reads nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.tasks import Tasks
from common.json_models import sha256_file
from index.build.copies import EqualRows, hash_vectors, make_nodes, slices
from index.build.fill import add_last, fill_graph, fill_lists, order_nodes
from index.build.held_out import HeldOut, TrueNeighbors, hold_out
from index.build.tuning import RECALL_K, tune_widths
from index.config import IndexConfig, Metric
from index.search.accelerator import Accelerator
from index.search.allowed import Allowed
from index.search.factory import (
    FLAT,
    choose_factory,
    is_flat,
    is_mergeable,
    make_index,
    save,
    train,
    training_rows,
    without_transforms,
)
from index.search.nodes import Nodes
from index.search.recall import recall_at
from index.search.segment import Segment
from index.storage import store
from index.storage.layout import NODES, SEARCH, VECTORS, RecallFacts, SegmentEntry

FILTERED_SHARES = (0.5, 0.1, 0.01)
_FILTERED_QUERIES = 100
SEED = 20_240_501  # the same rows give the same segment

ReportRows = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


def make_searchable(
    folder: Path,
    *,
    dim: int,
    config: IndexConfig,
    memory_bytes: int,
    tasks: Tasks,
    report: ReportRows,
) -> SegmentEntry:
    """Add an approximate index to a segment that holds vectors, rows and ids.

    Args:
        folder: of the segment, with ``vectors.faiss``, ``rows.arrow`` and ``ids.npy``.
        dim: values per vector.
        config: metric, factory and the recall to tune for.
        memory_bytes: memory of one process.
        tasks: runs the work on slices of the rows.
        report: called with (rows done, rows in all).

    Returns:
        The segment's entry in a manifest.

    Raises:
        SnapshotError: the factory does not work.
        OSError: the disk refused.
    """
    total = store.open_store(folder / VECTORS).ntotal
    is_auto = without_transforms(config.factory) == "auto"
    factory = (
        choose_factory(total, dim, config.metric, memory_bytes)
        if is_auto
        else without_transforms(config.factory)
    )
    built = None
    if not is_flat(factory):
        building = _Building(folder, factory, config, memory_bytes, tasks, report)
        built = building.build(is_auto=is_auto)
    report(total, total)
    if built is None:
        measured = 1.0 if total > 1 else None
        recall = RecallFacts(
            k=min(RECALL_K, max(1, total - 1)), target=config.recall, measured=measured, queries=0
        )
        built = _Built({}, recall, None)
    entry = SegmentEntry(
        name=folder.name,
        rows=total,
        factory=factory if built.queries is not None else FLAT,
        search_params=next(iter(built.widths.values()), {}),
        widths={str(width): params for width, params in built.widths.items()},
        recall=built.recall,
        files={
            file.name: sha256_file(file)
            for file in sorted(folder.iterdir())
            if not file.name.startswith(".")
        },
    )
    if built.queries is None or not len(built.queries.rows):
        return entry
    filtered = _recall_when_filtered(Segment(folder, entry, dim, config.metric), built.queries.rows)
    return entry.model_copy(
        update={"recall": entry.recall.model_copy(update={"filtered": filtered})}
    )


@dataclass(frozen=True)
class _Built:
    """What the manifest says of an approximate index."""

    widths: dict[int, dict[str, int]]
    recall: RecallFacts
    queries: HeldOut | None  # None: there is no approximate index


@dataclass(frozen=True)
class _Building:
    """The steps of one approximate index."""

    folder: Path
    factory: str
    config: IndexConfig
    memory_bytes: int
    tasks: Tasks
    report: ReportRows

    def build(self, *, is_auto: bool) -> _Built | None:
        """Write ``search.faiss`` and ``nodes.arrow``.

        Args:
            is_auto: write nothing where an exhaustive search is better than what was reached.

        Returns:
            None: nothing was written.
        """
        metric = self.config.metric
        vectors = store.open_store(self.folder / VECTORS)
        total = vectors.ntotal
        parts = slices(self.folder, total)
        equal = EqualRows.of(np.concatenate(self.tasks.run(hash_vectors, parts)))
        true = TrueNeighbors(self.folder, metric, self.tasks)
        random = np.random.default_rng(SEED)
        held_out = hold_out(true, equal, random)
        index = self._trained(vectors, random)
        if is_mergeable(index):
            rows = equal.node_rows
            fill_lists(
                index,
                self.factory,
                metric,
                self.folder,
                rows,
                total,
                memory_bytes=self.memory_bytes,
                tasks=self.tasks,
                report=lambda done: self.report(done, total),
            )
            node_of = np.full(total, -1)
            node_of[rows] = np.arange(len(rows))
            node_of = np.where(node_of < 0, node_of[equal.first], node_of)
            # The held-out rows are in it already, so they are excluded from the answers.
            allowed = Allowed(~np.isin(np.arange(total), held_out.rows))
        else:
            node_of = fill_graph(
                index, vectors, metric, equal, held_out, lambda done: self.report(done, total)
            )
            allowed = None
        nodes = _nodes(vectors, node_of, metric)
        accelerator = Accelerator(index, vectors, metric, nodes)
        tuned = tune_widths(
            accelerator, vectors, held_out, true, allowed, self.config, is_auto=is_auto
        )
        if tuned is None:
            return None
        if not is_mergeable(index):
            node_of[held_out.rows] = index.ntotal + np.arange(len(held_out.rows))
            add_last(index, vectors.reconstruct_batch(held_out.rows))
            nodes = _nodes(vectors, order_nodes(index, node_of), metric)
            accelerator = Accelerator(index, vectors, metric, nodes)
        nodes.write(self.folder / NODES)
        save(index, self.folder / SEARCH)
        measured = {
            k: round(value, 4)
            for width in tuned
            for k, value in width.measure(accelerator, vectors, metric).items()
        }
        k = max((k for k in measured if k <= RECALL_K), default=1)
        recall = RecallFacts(
            k=k,
            target=self.config.recall,
            measured=measured.get(k),
            held_out=min(
                (value for width in tuned for value in width.recall.values()), default=None
            ),
            queries=len(held_out.rows),
            by_k={str(k): value for k, value in measured.items()},
        )
        widths = {each.params.width: accelerator.names(each.params) for each in tuned}
        return _Built(widths, recall, held_out)

    def _trained(self, vectors: Any, random: np.random.Generator) -> Any:
        index = make_index(self.factory, vectors.d, self.config.metric, vectors.ntotal)
        wanted = training_rows(index, vectors.ntotal, vectors.d, self.memory_bytes)
        if wanted:
            rows = np.sort(random.choice(vectors.ntotal, wanted, replace=False))
            train(index, vectors.reconstruct_batch(rows), self.factory, self.config.metric)
        return index


def _nodes(vectors: Any, node_of_row: NDArray[np.int64], metric: Metric) -> Nodes:
    """The nodes of an index in which some rows may still be missing, node -1."""
    present = np.flatnonzero(node_of_row >= 0)
    return make_nodes(vectors, present, node_of_row[present], metric)


def _recall_when_filtered(segment: Segment, query_rows: NDArray[np.int64]) -> dict[str, float]:
    """Recall under filters that keep a random share of the rows, searched as in service."""
    random = np.random.default_rng(SEED)
    recall_by_share = {}
    queries = segment.vectors(query_rows[:_FILTERED_QUERIES])
    for share in FILTERED_SHARES:
        mask = random.random(segment.entry.rows) < share
        mask[query_rows] = False
        allowed = Allowed(mask)
        exact, hits = (
            segment.search_allowed(queries, RECALL_K, allowed, params)
            for params in (None, segment.params(RECALL_K))
        )
        if exact.rows.shape[1]:
            recall_by_share[f"{share:g}"] = round(recall_at(exact, hits), 4)
    return recall_by_share
