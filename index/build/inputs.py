"""The input of a build: which runs, which of their rows, in which parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.tasks import Tasks
from common.errors import SnapshotError
from common.json_models import sha256_file
from common.manifests import MANIFEST
from common.moved import Pairs
from index.build.encode import Part, RowCounts, count
from index.storage.layout import RunEntry
from pipelines.run import Run

PART_ROWS = 50_000  # small files are joined to parts of up to this many rows, one task each


@dataclass(frozen=True)
class Selection:
    """A run, and which of its rows are indexed."""

    run: Run
    row_ids: NDArray[np.int64] | None = None  # ascending; None: all


@dataclass(frozen=True)
class Inputs:
    """Parts, and the row counts of each."""

    parts: list[Part]
    counts: list[RowCounts]

    @property
    def rows(self) -> int:
        """Rows that can be indexed."""
        return sum(counts.rows for counts in self.counts)

    @property
    def skipped(self) -> int:
        """Rows that have an error."""
        return sum(counts.skipped for counts in self.counts)

    def __iter__(self) -> Iterator[tuple[Part, RowCounts]]:
        return zip(self.parts, self.counts, strict=True)


def open_runs(paths: Sequence[Path], pairs: Pairs = ()) -> list[Run]:
    """Open runs that can share an index.

    Args:
        paths: of their folders.
        pairs: of folders of images that were moved.

    Raises:
        SnapshotError: no path was given, or the runs are of two models.
        RunError: a path is not a finished run.
    """
    if not paths:
        raise SnapshotError("no run was given; give one or more folders made by 'onepass extract'")
    runs = [Run.open(path, pairs) for path in paths]
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
    """Check that the vectors of a run can be compared with others.

    Args:
        run: the run to check.
        other: name of the other run or index, for the message.
        fingerprint: the other's model fingerprint.

    Raises:
        SnapshotError: the fingerprints differ.
    """
    if run.manifest.fingerprint != fingerprint:
        raise SnapshotError(
            f"{run.path} has model fingerprint {run.manifest.fingerprint}, {other} has "
            f"{fingerprint}: vectors of two models cannot be compared; build one "
            "index for each, or bring one run over with 'onepass migrate'"
        )


def count_rows(source: Sequence[Selection], first_run: int, shards: int, tasks: Tasks) -> Inputs:
    """Count the rows of runs and divide them into parts.

    Args:
        source: the runs.
        first_run: position of the first of them in the manifest.
        shards: segments that will be made of the parts.
        tasks: runs the counting.

    Raises:
        SnapshotError: a run has no row to index.
    """
    parts = [
        Part(number, selection.run.path.resolve(), (file.resolve(),), selection.row_ids)
        for number, selection in enumerate(source, first_run)
        for file in selection.run.files()
    ]
    inputs = Inputs(parts, tasks.run(count, parts))
    rows_by_run = _rows_by_run(inputs)
    for number, selection in enumerate(source, first_run):
        if not rows_by_run[number] and selection.row_ids is None:
            raise SnapshotError(
                f"{selection.run.path} has no row with an embedding "
                f"({selection.run.manifest.rows.failed} rows have an error); see them with "
                "'onepass inspect'"
            )
    max_rows = PART_ROWS
    if shards > 1:  # small enough that shards become about equally large
        max_rows = min(PART_ROWS, inputs.rows // (4 * shards))
    return _join_small_parts(inputs, max_rows)


def _rows_by_run(inputs: Inputs) -> Counter[int]:
    rows: Counter[int] = Counter()
    for part, counts in inputs:
        rows[part.run] += counts.rows
    return rows


def _join_small_parts(inputs: Inputs, max_rows: int) -> Inputs:
    """Join consecutive small files of a run, since every task has a fixed cost."""
    joined = Inputs([], [])
    for part, counts in inputs:
        if joined.parts and joined.parts[-1].run == part.run:
            last, sums = joined.parts[-1], joined.counts[-1]
            if sums.rows + counts.rows <= max_rows:
                joined.parts[-1] = replace(last, files=(*last.files, *part.files))
                hashes = np.concatenate([sums.hashes, counts.hashes])
                joined.counts[-1] = RowCounts(
                    sums.rows + counts.rows, sums.skipped + counts.skipped, hashes
                )
                continue
        joined.parts.append(part)
        joined.counts.append(counts)
    return joined


def partition(inputs: Inputs, shards: int) -> Iterator[Inputs]:
    """Divide the parts, in order, into at most ``shards`` groups of about equally many rows."""
    groups: list[Inputs] = [Inputs([], []) for _ in range(min(shards, len(inputs.parts)))]
    seen = 0
    for part, counts in inputs:
        middle = seen + counts.rows / 2
        group = groups[min(len(groups) - 1, int(middle * len(groups) / max(1, inputs.rows)))]
        group.parts.append(part)
        group.counts.append(counts)
        seen += counts.rows
    return (group for group in groups if group.rows)


def run_entries(source: Sequence[Selection], inputs: Inputs, first_run: int) -> list[RunEntry]:
    """The manifest's entries of runs.

    Args:
        source: the runs.
        inputs: what ``count_rows`` returned for them.
        first_run: position of the first of them in the manifest.
    """
    rows_by_run = _rows_by_run(inputs)
    return [
        RunEntry(
            path=str(selection.run.path.resolve()),
            root=str(selection.run.root),
            moved=selection.run.images.pairs,
            rows=rows_by_run[number],
            manifest_sha256=sha256_file(selection.run.path / MANIFEST),
        )
        for number, selection in enumerate(source, first_run)
    ]


def check_unique_ids(inputs: Inputs) -> None:
    """Check that no detection id is repeated.

    Raises:
        SnapshotError: one is; names the first, and the runs that hold it.
    """
    ordered = np.sort(np.concatenate([counts.hashes for counts in inputs.counts]))
    repeated_hashes = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated_hashes):
        return
    suspects = {
        part.run: part.path
        for part, counts in inputs
        if np.isin(counts.hashes, repeated_hashes).any()
    }
    runs_by_id: dict[str, list[str]] = {}
    for path in suspects.values():
        good = Run.open(path).to_arrow(["detection_id"], where=pc.field("error").is_null())
        for detection_id in good["detection_id"].to_pylist():
            runs_by_id.setdefault(detection_id, []).append(str(path))
    repeated = [(name, paths) for name, paths in runs_by_id.items() if len(paths) > 1]
    if repeated:  # otherwise two different ids have the same hash, which is allowed
        detection_id, paths = repeated[0]
        raise SnapshotError(
            f"detection_id {detection_id!r} is there {len(paths)} times (in {', '.join(paths)}; "
            f"{len(repeated)} ids are repeated in all); an id names one row: if these are the same "
            "images, leave one run out; if not, extract one of them again into a new folder, where "
            "ids are made of the images' content; `id_prefix` makes them differ in any case"
        )
