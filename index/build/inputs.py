"""The input of a build: which sources, which of their rows, in which parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.tasks import Tasks
from common.errors import SnapshotError
from common.moved import Pairs
from common.storage import storage_errors
from index.build.sources.file import SUFFIXES, open_file
from index.build.sources.run import Selection
from index.build.sources.source import (
    NO_EMBEDDING,
    NOT_FINITE,
    ZERO,
    Part,
    RowCounts,
    VectorSource,
)
from index.storage.columns import ROWS_SCHEMA
from index.storage.layout import RunEntry, SnapshotManifest, model_name_of
from index.vectors import name_some
from pipelines.run import Run

PART_ROWS = 50_000  # small files are joined to parts of up to this many rows, one task each


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
    def total(self) -> RowCounts:
        """The counts of all parts."""
        return RowCounts.add(self.counts)

    def __iter__(self) -> Iterator[tuple[Part, RowCounts]]:
        return zip(self.parts, self.counts, strict=True)


def open_sources(
    paths: Sequence[Path],
    *,
    id_column: str | None = None,
    model_name: str | None = None,
    index: SnapshotManifest | None = None,
    pairs: Pairs = (),
) -> list[VectorSource]:
    """Open sources of vectors that can share an index.

    Args:
        paths: folders of finished runs, or files of vectors.
        id_column: of the files: the column with the ids; None: ``detection_id`` or ``id``.
        model_name: of the files: what made the vectors, in the user's words; None: not said.
        index: they are added to; what made its vectors made those of files of which nothing is said.
        pairs: of folders of images that were moved.

    Raises:
        SnapshotError: no path was given, a file cannot be used, or the vectors cannot be compared.
        RunError: a folder is not a finished run.
    """
    if not paths:
        raise SnapshotError(
            "no run was given; give one or more folders made by 'onepass extract', or files of "
            f"vectors ({' '.join(SUFFIXES)})"
        )
    said = model_name
    if said is None and index is not None and index.model is None:
        said = model_name_of(index.fingerprint)
    sources: list[VectorSource] = []
    for path in paths:
        sources.append(_open_source(path, id_column, model_name, said, pairs))
        first = sources[0]
        check_comparable(sources[-1], str(first.path), first.fingerprint, first.dim)
    return sources


def _open_source(
    path: Path, id_column: str | None, model_name: str | None, said: str | None, pairs: Pairs
) -> VectorSource:
    with storage_errors(path):
        is_folder = path.is_dir()
    if not is_folder and path.suffix.lower() in SUFFIXES:
        return open_file(path, id_column=id_column, model_name=said)
    with storage_errors(path):
        if path.is_file():
            raise SnapshotError(
                f"{path} is neither a run's folder nor a file of vectors ({' '.join(SUFFIXES)})"
            )
    run = Selection(Run.open(path, pairs))
    for name, value in (("id_column", id_column), ("model", model_name)):
        if value is not None:
            raise SnapshotError(
                f"`{name}={value!r}` is for files of vectors; {path} is a run, which knows its own"
            )
    return run


def check_comparable(source: VectorSource, other: str, fingerprint: str, dim: int) -> None:
    """Check that the vectors of a source can be compared with others.

    Args:
        source: the source to check.
        other: name of the other source or index, for the message.
        fingerprint: the other's.
        dim: the other's.

    Raises:
        SnapshotError: fingerprint or dimension differ.
    """
    if source.fingerprint != fingerprint:
        way_out = (
            ", or bring one run over with 'onepass migrate'"
            if source.model is not None
            else "; `model` names the one that made the vectors of a file"
        )
        raise SnapshotError(
            f"{source.path} has model fingerprint {source.fingerprint}, {other} has "
            f"{fingerprint}: vectors of two models cannot be compared; build one "
            f"index for each{way_out}"
        )
    if source.dim != dim:
        raise SnapshotError(
            f"{source.path} holds vectors of dimension {source.dim}, {other} of {dim}; build one "
            "index for each"
        )


def count_rows(
    sources: Sequence[VectorSource],
    numbers: Sequence[int],
    shards: int,
    schema: pa.Schema,
    tasks: Tasks,
) -> Inputs:
    """Count the rows of sources and divide them into parts.

    Args:
        sources: the sources.
        numbers: position of each in the manifest.
        shards: segments that will be made of the parts.
        schema: of the rows of the segments.
        tasks: runs the counting.

    Raises:
        SnapshotError: a source has no row to index, or cannot be read.
    """
    parts = [
        Part.of(source, number, reader, schema)
        for number, source in zip(numbers, sources, strict=True)
        for reader in source.readers()
    ]
    inputs = Inputs(parts, tasks.run(Part.count, parts))
    rows_by_run = _rows_by_run(inputs)
    for number, source in zip(numbers, sources, strict=True):
        if not rows_by_run[number] and source.row_ids is None:
            counts = RowCounts.add([each for part, each in inputs if part.run == number])
            see = "; see them with 'onepass inspect'" if source.model is not None else ""
            raise SnapshotError(
                f"{source.path} has no row to index: {describe_skipped(counts.skipped)}{see}"
            )
    max_rows = PART_ROWS
    if shards > 1:  # small enough that shards become about equally large
        max_rows = min(PART_ROWS, inputs.rows // (4 * shards))
    return _join_small_parts(inputs, max_rows)


_IN_WORDS = {NO_EMBEDDING: "have no embedding", ZERO: "are zero", NOT_FINITE: "are not finite"}


def describe_skipped(skipped: dict[str, int]) -> str:
    """Counts of rows by reason, in words."""
    parts = [f"{rows} {_IN_WORDS[reason]}" for reason, rows in skipped.items()]
    return ", ".join(parts) or "it is empty"


def describe_unusable(total: RowCounts) -> str | None:
    """How many rows have a vector without a direction, and which; None: there is none."""
    found = {reason: rows for reason, rows in total.skipped.items() if reason != NO_EMBEDDING}
    if not found:
        return None
    parts = [
        f"{rows} {reason.replace('_', ' ')} ({name_some(total.named[reason], rows)})"
        for reason, rows in found.items()
    ]
    return (
        f"{sum(found.values())} vectors have no direction and therefore no neighbours: "
        f"{', '.join(parts)}"
    )


def refuse_unusable(sources: Sequence[VectorSource]) -> None:
    """Refuse sources with vectors without a direction, where that was asked for.

    Raises:
        SnapshotError: there are some; names the first.
    """
    parts = [
        Part.of(source, 0, reader, ROWS_SCHEMA) for source in sources for reader in source.readers()
    ]
    unusable = describe_unusable(RowCounts.add([part.count() for part in parts]))
    if unusable:
        raise SnapshotError(f"{unusable}; without `strict=True` such rows are left out")


def _rows_by_run(inputs: Inputs) -> Counter[int]:
    rows: Counter[int] = Counter()
    for part, counts in inputs:
        rows[part.run] += counts.rows
    return rows


def _join_small_parts(inputs: Inputs, max_rows: int) -> Inputs:
    """Join consecutive small parts of a source, since every task has a fixed cost."""
    joined = Inputs([], [])
    for part, counts in inputs:
        if joined.parts and joined.parts[-1].run == part.run:
            last, sums = joined.parts[-1], joined.counts[-1]
            if sums.rows + counts.rows <= max_rows:
                joined.parts[-1] = replace(last, readers=(*last.readers, *part.readers))
                joined.counts[-1] = RowCounts.add([sums, counts])
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


def run_entries(
    sources: Sequence[VectorSource], inputs: Inputs, numbers: Sequence[int]
) -> list[RunEntry]:
    """The manifest's entries of sources.

    Args:
        sources: the sources.
        inputs: what ``count_rows`` returned for them.
        numbers: position of each in the manifest.
    """
    rows_by_run = _rows_by_run(inputs)
    return [
        source.entry(rows_by_run[number]) for number, source in zip(numbers, sources, strict=True)
    ]


def check_unique_ids(inputs: Inputs) -> None:
    """Check that no detection id is repeated.

    Raises:
        SnapshotError: one is; names the first, and the sources that hold it.
    """
    ordered = np.sort(np.concatenate([counts.hashes for counts in inputs.counts]))
    repeated_hashes = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated_hashes):
        return
    sources_by_id: dict[str, list[str]] = {}
    for part, counts in inputs:
        if np.isin(counts.hashes, repeated_hashes).any():
            for rows, _ in part.batches():
                for detection_id in rows["detection_id"].to_pylist():
                    sources_by_id.setdefault(detection_id, []).append(str(part.path))
    repeated = [(name, paths) for name, paths in sources_by_id.items() if len(paths) > 1]
    if repeated:  # otherwise two different ids have the same hash, which is allowed
        detection_id, paths = repeated[0]
        raise SnapshotError(
            f"detection_id {detection_id!r} is there {len(paths)} times (in {', '.join(paths)}; "
            f"{len(repeated)} ids are repeated in all); an id names one row: if these are the same "
            "images, leave one run out; if not, extract one of them again into a new folder, where "
            "ids are made of the images' content; `id_prefix` makes them differ in any case"
        )
