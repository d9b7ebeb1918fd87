"""Build a version of an index from finished runs: check everything, assemble, publish.

What can be refused is refused before anything is written; what turns out wrong later leaves a
draft that is removed, and the version that is served goes on being served.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.errors import SnapshotError
from cluster.tasks import Tasks, tasks
from index.assemble import Inputs, Report, assemble
from index.encode import Counted, Part, count
from index.factory import bare, is_flat, make_index
from index.layout import (
    SEGMENTS,
    BuildOptions,
    RunEntry,
    SegmentEntry,
    SnapshotManifest,
    current_version,
    list_versions,
    read_manifest,
)
from index.metrics import METRICS, Metric
from index.publish import locked, publish
from index.snapshot import Snapshot
from pipelines.records import sha256_file
from pipelines.run import Run

MIN_MEMORY = 64 * 2**20
PART_ROWS = 50_000  # of small files that one task takes together
RAY_FROM_BYTES = 512 * 2**20
"""Builds of more bytes of vectors than this run on Ray; below, starting it takes longer."""

_NONE = np.empty(0, np.int64)


def build_index(
    runs: Sequence[Path],
    out: Path,
    *,
    metric: Metric = "cosine",
    factory: str = "auto",
    recall: float = 0.95,
    shards: int = 1,
    memory_bytes: int | None = None,
    address: str | None = None,
    progress: Report | None = None,
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
        address: of a Ray cluster to work on; it must see the runs and ``out``.
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
    if not is_flat(factory) and bare(factory) != "auto":
        make_index(factory, opened[0].manifest.model.feature_dim, metric)
    out = Path(out)
    check_folder(out, opened[0], metric)
    with locked(out):
        check_folder(out, opened[0], metric)  # another build may have ended meanwhile
        source = [Chosen(run, _NONE) for run in opened]
        work = Work(options, memory, address, progress or (lambda _, __: None))

        def fill(draft: Path, version: str) -> SnapshotManifest:
            made = work.segments(draft, version, source, first_run=0)
            return describe(
                version,
                opened[0],
                options,
                made_by="build",
                parent=None,
                runs=made.runs,
                segments=made.segments,
                skipped=made.skipped,
                deleted=0,
                began=began,
            )

        version = publish(out, fill)
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


def open_runs(paths: Sequence[Path]) -> list[Run]:
    """Open runs that can share an index.

    Raises:
        SnapshotError: none was given, or they are of two models.
        RunError: one is no finished run.
    """
    if not paths:
        raise SnapshotError("no run was given; give one or more folders made by 'onepass extract'")
    runs = [Run.open(path) for path in paths]
    for run in runs[1:]:
        check_same_model(run, str(runs[0].path), runs[0].manifest.fingerprint)
        dim = runs[0].manifest.model.feature_dim
        if run.manifest.model.feature_dim != dim:
            raise SnapshotError(
                f"{run.path} holds vectors of dimension {run.manifest.model.feature_dim}, "
                f"{runs[0].path} of {dim}; build one index for each"
            )
    return runs


def check_same_model(run: Run, other: str, fingerprint: str) -> None:
    """Refuse a run whose vectors cannot be compared with those of ``other``."""
    if run.manifest.fingerprint != fingerprint:
        raise SnapshotError(
            f"{run.path} has model fingerprint {run.manifest.fingerprint}, {other} has "
            f"{fingerprint}: vectors of two models cannot be compared; build one "
            "index for each, or bring one run over with 'onepass migrate'"
        )


def check_folder(out: Path, run: Run, metric: Metric) -> None:
    """Refuse a folder that is no index, or whose current snapshot holds other vectors."""
    if not out.exists():
        return
    if not out.is_dir():
        raise SnapshotError(f"{out} is a file; give a folder for the index")
    version = current_version(out)
    if version is None:
        other = [e.name for e in out.iterdir() if not e.name.startswith(".") and e.name != SEGMENTS]
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
                f"{out} serves {version} of {what} {old}, this build has {new}; "
                "give another folder with --out"
            )


@dataclass(frozen=True)
class Chosen:
    """A run, and which of its rows stay out: row_ids, ascending."""

    run: Run
    dropped: NDArray[np.int64]


@dataclass(frozen=True)
class Made:
    """New segments and what they were made from."""

    segments: list[SegmentEntry]
    runs: list[RunEntry]
    skipped: int


@dataclass(frozen=True)
class Work:
    """How segments are made, whoever asks for them."""

    options: BuildOptions
    memory_bytes: int
    address: str | None
    report: Report

    def segments(
        self,
        draft: Path,
        version: str,
        source: Sequence[Chosen],
        *,
        first_run: int,
        known: Callable[[Made, list[Counted], list[Part]], None] = lambda *_: None,
    ) -> Made:
        """Make segments of ``source`` in ``draft``; its runs are numbered from ``first_run``.

        ``known`` hears what was counted before the first vector is written, and may refuse.

        Raises:
            SnapshotError: an id stands twice, a run has no row to index, or as ``assemble``.
        """
        facts = source[0].run.manifest
        dim = facts.model.feature_dim
        size = 4 * dim * sum(chosen.run.manifest.rows.written for chosen in source)
        on_ray = size > RAY_FROM_BYTES or self.address is not None
        with tasks("index build", on_ray=on_ray, address=self.address) as place:
            parts, counted = self._count(source, first_run, place)
            made = Made([], _entries(source, parts, counted, first_run), _sum_skipped(counted))
            refuse_repeated(parts, counted)
            known(made, counted, parts)
            total, before = sum(one.rows for one in counted), 0
            for number, inputs in enumerate(_shards(parts, counted, self.options.shards)):
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

    def _count(
        self, source: Sequence[Chosen], first_run: int, place: Tasks
    ) -> tuple[list[Part], list[Counted]]:
        parts = [
            Part(number, chosen.run.path.resolve(), (file.resolve(),), chosen.dropped)
            for number, chosen in enumerate(source, first_run)
            for file in chosen.run.files()
        ]
        counted = place.run(count, parts)
        for number, chosen in enumerate(source, first_run):
            own = [one for part, one in zip(parts, counted, strict=True) if part.run == number]
            if not sum(one.rows for one in own) and not len(chosen.dropped):
                raise SnapshotError(
                    f"{chosen.run.path} has no row with an embedding "
                    f"({chosen.run.manifest.rows.failed} rows have an error); see them with "
                    "'onepass inspect'"
                )
        most_rows = PART_ROWS
        if self.options.shards > 1:  # small enough to be dealt out evenly
            total = sum(one.rows for one in counted)
            most_rows = min(PART_ROWS, total // (4 * self.options.shards))
        return _together(parts, counted, most_rows)


def _together(
    parts: list[Part], counted: list[Counted], most_rows: int
) -> tuple[list[Part], list[Counted]]:
    """Neighbouring small files of a run as one part each, since every task has its price."""
    joined: list[tuple[Part, Counted]] = []
    for part, one in zip(parts, counted, strict=True):
        if joined and joined[-1][0].run == part.run:
            last, sums = joined[-1]
            if sums.rows + one.rows <= most_rows:
                hashes = np.concatenate([sums.hashes, one.hashes])
                both = Counted(sums.rows + one.rows, sums.skipped + one.skipped, hashes)
                files = (*last.files, *part.files)
                joined[-1] = Part(part.run, part.path, files, part.dropped), both
                continue
        joined.append((part, one))
    return [part for part, _ in joined], [one for _, one in joined]


def _shards(parts: list[Part], counted: list[Counted], shards: int) -> Iterable[Inputs]:
    """Parts dealt out in order, so that each shard has about as many rows."""
    total = sum(one.rows for one in counted)
    groups: list[Inputs] = [Inputs([], []) for _ in range(min(shards, len(parts)))]
    seen = 0
    for part, one in zip(parts, counted, strict=True):
        middle = seen + one.rows / 2
        group = groups[min(len(groups) - 1, int(middle * len(groups) / max(1, total)))]
        group.parts.append(part)
        group.counted.append(one)
        seen += one.rows
    return (group for group in groups if group.rows)


def _entries(
    source: Sequence[Chosen], parts: list[Part], counted: list[Counted], first_run: int
) -> list[RunEntry]:
    return [
        RunEntry(
            path=str(chosen.run.path.resolve()),
            root=chosen.run.manifest.root,
            rows=sum(o.rows for p, o in zip(parts, counted, strict=True) if p.run == number),
            manifest_sha256=sha256_file(chosen.run.path / "manifest.json"),
        )
        for number, chosen in enumerate(source, first_run)
    ]


def _sum_skipped(counted: list[Counted]) -> int:
    return sum(one.skipped for one in counted)


def refuse_repeated(parts: list[Part], counted: list[Counted]) -> None:
    """Refuse ids that stand twice: an id names one row.

    Raises:
        SnapshotError: names the first, and the runs that it stands in.
    """
    hashes = np.concatenate([one.hashes for one in counted])
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return
    owners = {
        part.run: part.path
        for part, one in zip(parts, counted, strict=True)
        if np.isin(one.hashes, twice).any()
    }
    seen: dict[str, list[str]] = {}
    for path in owners.values():
        good = Run.open(path).table(["detection_id"], where=pc.field("error").is_null())
        for name in good["detection_id"].to_pylist():
            seen.setdefault(name, []).append(str(path))
    repeated = [(name, places) for name, places in seen.items() if len(places) > 1]
    if repeated:  # else two ids of one hash, which is no mistake
        name, places = repeated[0]
        raise SnapshotError(
            f"detection_id {name!r} stands {len(places)} times (in {', '.join(places)}; "
            f"{len(repeated)} ids are repeated in all); an id names one row: leave one of the "
            "runs out"
        )


def describe(
    version: str,
    run: Run,
    options: BuildOptions,
    *,
    made_by: str,
    parent: str | None,
    runs: list[RunEntry],
    segments: list[SegmentEntry],
    skipped: int,
    deleted: int,
    began: float,
) -> SnapshotManifest:
    """The manifest of a version that was made just now; its files are hashed when published."""
    model = run.manifest.model
    return SnapshotManifest(
        version=version,
        parent=parent,
        made_by=made_by,
        options=options,
        rows=sum(segment.rows for segment in segments) - deleted,
        deleted=deleted,
        skipped=skipped,
        dim=model.feature_dim,
        model=model,
        fingerprint=run.manifest.fingerprint,
        runs=runs,
        segments=segments,
        **stamp(began),
        versions={"faiss": faiss.__version__, "numpy": np.__version__},
        files={},
    )


def stamp(began: float) -> dict[str, Any]:
    """How long it took since ``began``, and when that was, for a manifest."""
    seconds = round(time.monotonic() - began, 3)
    return {"seconds": seconds, "created": datetime.now(UTC).isoformat(timespec="seconds")}


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
