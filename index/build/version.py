"""Build a version of an index from finished runs: check everything, assemble, publish.

What can be refused is refused before anything is written; what turns out wrong later leaves a
draft that is removed, and the version that is served goes on being served.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from cluster.executors import ExecutorChoice
from cluster.tasks import tasks
from common.errors import SnapshotError
from common.storage import is_remote, storage_errors, to_path
from index.build.assemble import ReportRows, assemble
from index.build.inputs import (
    Inputs,
    Selection,
    check_unique_ids,
    count_rows,
    open_runs,
    partition,
    run_entries,
)
from index.metrics import METRICS, Metric
from index.search.factory import is_flat, make_index, without_transforms
from index.search.snapshot import Snapshot
from index.storage.layout import (
    SEGMENTS,
    VERSION,
    BuildOptions,
    RunEntry,
    SegmentEntry,
    SnapshotManifest,
    current_version,
    list_versions,
    read_manifest,
)
from index.storage.publish import lock_index, publish
from pipelines.run import Run

MIN_MEMORY = 64 * 2**20
RAY_FROM_BYTES = 512 * 2**20
"""Builds of more bytes of vectors than this run on Ray, where there is one."""


def build_index(
    runs: Sequence[Path],
    out: Path,
    *,
    metric: Metric = "cosine",
    factory: str = "auto",
    recall: float = 0.95,
    shards: int = 1,
    memory_bytes: int | None = None,
    executor: ExecutorChoice = "auto",
    address: str | None = None,
    beside: bool = False,
    progress: ReportRows | None = None,
) -> Snapshot:
    """Build the next version of the index in ``out`` from ``runs`` and make it the current one.

    Rows that have an error carry no embedding: they are left out and counted in the manifest.
    Recall is measured with up to 1,000 rows held out as queries, which join the index at the end.
    Where it misses its target the snapshot is built all the same and ``manifest.warning`` says so.

    Args:
        runs: folders of finished runs made by one model.
        out: index folder; made when it does not exist.
        metric: ``cosine``, ``ip``, ``l1`` or ``l2``.
        factory: ``auto``, or any FAISS factory string that works for the metric.
        recall: recall@10 to tune the search for, above 0 and up to 1.
        shards: segments to make, for a service that searches them side by side.
        memory_bytes: what one process may use; None: half of this machine's.
        executor: where to work.
        address: of a Ray cluster to work on; it must see the runs and ``out``.
        beside: leave the current version the one that is served. The new one may be of another
            model, and goes back to the current one where it is rolled back.
        progress: called with (rows added, rows in all) after each part.

    Raises:
        SnapshotError: nothing was written, and the message says what does not fit.
        RunError: one of ``runs`` is no finished run.
        WorkError: the disk refused; ``out`` serves what it served before.
    """
    began = time.monotonic()
    if metric not in METRICS:
        raise SnapshotError(f"metric {metric!r} is unknown; give one of {', '.join(METRICS)}")
    options = BuildOptions(metric=metric, factory=factory, recall=recall, shards=shards)
    memory = check_options(options, memory_bytes)
    opened = open_runs(runs)
    if not is_flat(factory) and without_transforms(factory) != "auto":
        make_index(factory, opened[0].manifest.model.feature_dim, metric)
    out = to_path(out)
    if beside:
        read_manifest(out)  # before a lock is made where there is no index
    else:
        check_folder(out, opened[0], metric)
    with lock_index(out) as check:
        parent = read_manifest(out).version if beside else None
        if not beside:
            check_folder(out, opened[0], metric)  # another build may have ended meanwhile
        source = [Selection(run) for run in opened]
        work = SegmentBuilder(options, memory, executor, address, progress or (lambda _, __: None))

        def fill(draft: Path, version: str) -> SnapshotManifest:
            made = work.segments(draft, version, source, first_run=0)
            return make_manifest(
                version,
                opened[0],
                options,
                made_by="build",
                parent=parent,
                made=made,
                began=began,
            )

        version = publish(out, fill, check, serve=not beside)
    return Snapshot.open(out, version)


def check_options(options: BuildOptions, memory_bytes: int | None) -> int:
    """Refuse options that make no sense; the memory there is, in bytes.

    Raises:
        SnapshotError: says which and what is allowed.
    """
    if not 0 < options.recall <= 1:
        raise SnapshotError(
            f"recall is {options.recall:g}; give a share above 0 and up to 1, as 0.95"
        )
    if options.shards < 1:
        raise SnapshotError(f"shards is {options.shards}; give 1 or more")
    memory = memory_bytes if memory_bytes is not None else _half_of_memory()
    if memory < MIN_MEMORY:
        raise SnapshotError(
            f"memory is {memory} bytes; give {MIN_MEMORY >> 20} MB or more, as --memory 2GB"
        )
    return memory


def check_folder(out: Path, run: Run, metric: Metric) -> None:
    """Refuse a folder that is no index, or whose current snapshot holds other vectors."""
    with storage_errors(out):
        if not out.exists():
            return
        if not out.is_dir():
            raise SnapshotError(f"{out} is a file; give a folder for the index")
    version = current_version(out)
    if version is None:
        with storage_errors(out):
            names = [entry.name for entry in out.iterdir()]
        other = [
            name
            for name in names
            if not name.startswith(".")
            and name != SEGMENTS
            # In a store, where nothing is hidden, a first build that died may leave one.
            and not (is_remote(out) and VERSION.fullmatch(name))
        ]
        if other and not list_versions(out):
            raise SnapshotError(
                f"{out} holds {sorted(other)[0]!r} and is no index; give a new or empty folder"
            )
        return
    there = read_manifest(out, version)
    for what, old, new in (
        ("dimension", there.dim, run.manifest.model.feature_dim),
        ("metric", there.metric, metric),
        ("model fingerprint", there.fingerprint, run.manifest.fingerprint),
    ):
        if old != new:
            raise SnapshotError(
                f"{out} serves {version} of {what} {old}, this build has {new}; give another "
                "folder with --out, or --beside and promote the version when it is to be served"
            )


@dataclass(frozen=True)
class NewSegments:
    """New segments and what they were made from."""

    segments: list[SegmentEntry]
    runs: list[RunEntry]
    skipped: int


@dataclass(frozen=True)
class SegmentBuilder:
    """How segments are made, whoever asks for them."""

    options: BuildOptions
    memory_bytes: int
    executor: ExecutorChoice
    address: str | None
    report: ReportRows

    def segments(
        self,
        draft: Path,
        version: str,
        source: Sequence[Selection],
        *,
        first_run: int,
        known: Callable[[Inputs], None] = lambda _: None,
    ) -> NewSegments:
        """Make segments of ``source`` in ``draft``; its runs are numbered from ``first_run``.

        ``known`` hears of the rows before the first vector is written, and may refuse.

        Raises:
            SnapshotError: an id stands twice, a run has no row to index, or as ``assemble``.
        """
        facts = source[0].run.manifest
        dim = facts.model.feature_dim
        size = 4 * dim * sum(chosen.run.manifest.rows.written for chosen in source)
        with tasks(
            "index build",
            executor=self.executor,
            address=self.address,
            large=size > RAY_FROM_BYTES,
            children=False,  # FAISS uses all cores
        ) as place:
            everything = count_rows(source, first_run, self.options.shards, place)
            check_unique_ids(everything)
            known(everything)
            made = NewSegments([], run_entries(source, everything, first_run), everything.skipped)
            total, before = everything.rows, 0
            for number, inputs in enumerate(partition(everything, self.options.shards)):
                folder = draft / SEGMENTS / f"s{version[1:]}-{number:02d}"
                folder.mkdir()
                entry = assemble(
                    folder,
                    inputs,
                    dim=dim,
                    options=self.options,
                    memory_bytes=self.memory_bytes,
                    tasks=place,
                    report=lambda done, _, before=before: self.report(before + done, total),  # type: ignore[misc]
                )
                made.segments.append(entry)
                before += inputs.rows
        return made


def make_manifest(
    version: str,
    run: Run,
    options: BuildOptions,
    *,
    made_by: str,
    parent: str | None,
    made: NewSegments,
    deleted: int = 0,
    began: float,
) -> SnapshotManifest:
    """The manifest of a version that was made just now; its files are hashed when published.

    ``made`` is all that the version holds, ``deleted`` how many of these rows are marked so.
    """
    model = run.manifest.model
    return SnapshotManifest(
        version=version,
        parent=parent,
        made_by=made_by,
        options=options,
        rows=sum(segment.rows for segment in made.segments) - deleted,
        deleted=deleted,
        skipped=made.skipped,
        dim=model.feature_dim,
        model=model,
        fingerprint=run.manifest.fingerprint,
        runs=made.runs,
        segments=made.segments,
        **build_times(began),
        versions={"faiss": faiss.__version__, "numpy": np.__version__},
        files={},
    )


def build_times(began: float) -> dict[str, Any]:
    """How long it took since ``began``, and when that was, for a manifest."""
    seconds = round(time.monotonic() - began, 3)
    return {"seconds": seconds, "created": datetime.now(UTC).isoformat(timespec="seconds")}


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
