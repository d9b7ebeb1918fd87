"""The rows that go into an index: which runs, which of their rows, in which parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.tasks import Tasks
from common.errors import SnapshotError
from common.json_models import sha256_file
from index.build.encode import Part, RowCounts, count
from index.storage.layout import RunEntry
from pipelines.run import Run

PART_ROWS = 50_000  # of small files that one task takes together


@dataclass(frozen=True)
class Selection:
    """A run, and which of its rows are wanted: row_ids, ascending; None: all."""

    run: Run
    kept: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Inputs:
    """Parts, and what was counted in each."""

    parts: list[Part]
    counted: list[RowCounts]

    @property
    def rows(self) -> int:
        """That can be indexed."""
        return sum(one.rows for one in self.counted)

    @property
    def skipped(self) -> int:
        """That have an error."""
        return sum(one.skipped for one in self.counted)


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


def count_rows(source: Sequence[Selection], first_run: int, shards: int, place: Tasks) -> Inputs:
    """Count every row of the runs; they are numbered from ``first_run``.

    Raises:
        SnapshotError: a run has no row to index.
    """
    parts = [
        Part(number, chosen.run.path.resolve(), (file.resolve(),), chosen.kept)
        for number, chosen in enumerate(source, first_run)
        for file in chosen.run.files()
    ]
    counted = place.run(count, parts)
    for number, chosen in enumerate(source, first_run):
        own = [one for part, one in zip(parts, counted, strict=True) if part.run == number]
        if not sum(one.rows for one in own) and chosen.kept is None:
            raise SnapshotError(
                f"{chosen.run.path} has no row with an embedding "
                f"({chosen.run.manifest.rows.failed} rows have an error); see them with "
                "'onepass inspect'"
            )
    most_rows = PART_ROWS
    if shards > 1:  # small enough to be dealt out evenly
        total = sum(one.rows for one in counted)
        most_rows = min(PART_ROWS, total // (4 * shards))
    return _join_small_parts(Inputs(parts, counted), most_rows)


def _join_small_parts(inputs: Inputs, most_rows: int) -> Inputs:
    """Neighbouring small files of a run as one part each, since every task has its price."""
    joined: list[tuple[Part, RowCounts]] = []
    for part, one in zip(inputs.parts, inputs.counted, strict=True):
        if joined and joined[-1][0].run == part.run:
            last, sums = joined[-1]
            if sums.rows + one.rows <= most_rows:
                hashes = np.concatenate([sums.hashes, one.hashes])
                both = RowCounts(sums.rows + one.rows, sums.skipped + one.skipped, hashes)
                files = (*last.files, *part.files)
                joined[-1] = Part(part.run, part.path, files, part.kept), both
                continue
        joined.append((part, one))
    return Inputs([part for part, _ in joined], [one for _, one in joined])


def partition(inputs: Inputs, shards: int) -> Iterator[Inputs]:
    """Parts dealt out in order, so that each shard has about as many rows."""
    groups: list[Inputs] = [Inputs([], []) for _ in range(min(shards, len(inputs.parts)))]
    seen = 0
    for part, one in zip(inputs.parts, inputs.counted, strict=True):
        middle = seen + one.rows / 2
        group = groups[min(len(groups) - 1, int(middle * len(groups) / max(1, inputs.rows)))]
        group.parts.append(part)
        group.counted.append(one)
        seen += one.rows
    return (group for group in groups if group.rows)


def run_entries(source: Sequence[Selection], inputs: Inputs, first_run: int) -> list[RunEntry]:
    """The runs as a manifest names them."""
    pairs = list(zip(inputs.parts, inputs.counted, strict=True))
    return [
        RunEntry(
            path=str(chosen.run.path.resolve()),
            root=chosen.run.manifest.root,
            rows=sum(one.rows for part, one in pairs if part.run == number),
            manifest_sha256=sha256_file(chosen.run.path / "manifest.json"),
        )
        for number, chosen in enumerate(source, first_run)
    ]


def check_unique_ids(inputs: Inputs) -> None:
    """Refuse ids that stand twice: an id names one row.

    Raises:
        SnapshotError: names the first, and the runs that it stands in.
    """
    hashes = np.concatenate([one.hashes for one in inputs.counted])
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return
    owners = {
        part.run: part.path
        for part, one in zip(inputs.parts, inputs.counted, strict=True)
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
