"""Make the approximate index of a segment over the files that hold its rows."""

from __future__ import annotations

from pathlib import Path

from cluster.tasks import Tasks
from common.json_models import sha256_file
from index.build.assemble import ReportRows
from index.config import IndexConfig
from index.search.factory import FLAT
from index.storage.layout import VECTORS, RecallFacts, SegmentEntry
from index.storage.store import open_store


def make_searchable(
    folder: Path,
    *,
    dim: int,
    config: IndexConfig,
    memory_bytes: int,
    tasks: Tasks,
    report: ReportRows,
) -> SegmentEntry:
    """Stand-in: every search is exact."""
    rows = int(open_store(folder / VECTORS).ntotal)
    report(rows, rows)
    return SegmentEntry(
        name=folder.name,
        rows=rows,
        factory=FLAT,
        search_params={},
        recall=RecallFacts(k=min(10, rows), target=config.recall, measured=1.0, queries=1),
        files={
            file.name: sha256_file(file)
            for file in sorted(folder.iterdir())
            if not file.name.startswith(".")
        },
    )
