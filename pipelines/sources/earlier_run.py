"""The plan of a finished run: its rows, once more."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import SourceError
from common.moved import Pairs
from common.parquet import open_parquet, read_parquet
from common.storage import SCHEMES
from pipelines.detections import PLAN_SCHEMA, RESULT_COLUMNS
from pipelines.run import Run
from pipelines.sources.plan import Plan

_ALL = frozenset(PLAN_SCHEMA.names)


def read_run(path: Path, pairs: Pairs = ()) -> Plan:
    """The rows of a finished run as a plan: the same ids, order and user columns.

    A failed row is tried again, because its image may be readable now. A row that failed when the
    run was planned names a whole clip and no frame, and keeps its error.

    Raises:
        RunError: not a finished run.
        SourceError: the folder that its images start from is gone.
    """
    run = Run.open(path, pairs)
    models = [run.manifest.model, run.manifest.classifier]
    results = {*RESULT_COLUMNS, *(info.name for model in models if model for info in model.maps)}
    table = run.to_arrow([name for name in run.columns if name not in results])
    relative = pc.invert(pc.match_substring_regex(table["image"], f"^(/|({'|'.join(SCHEMES)})://)"))
    if not run.root.is_dir() and pc.any(relative).as_py():
        raise SourceError(
            f"{path}: its images start from {run.manifest.root}, which is not there; bring that "
            f"folder back, or say where it is ({run.where_images_are})"
        )
    table = table.replace_schema_metadata(None)  # Ray's and pandas' own
    errors = _errors_of_plan(run)
    if errors is not None:
        table = table.append_column("error", errors)
    return Plan(table.combine_chunks(), run.root, {}, given=_ALL, pairs=run.images.pairs)


def _errors_of_plan(run: Run) -> pa.ChunkedArray | None:
    """The errors in a run's plan, by row_id; None where its plan has no column for them."""
    files = run.plan_files()
    if not files:
        return None
    with open_parquet(run.check(files[0])) as first:
        if "error" not in first.schema_arrow.names:
            return None
    columns = ["row_id", "error"]
    table = pa.concat_tables([read_parquet(run.check(file), columns=columns) for file in files])
    return table.sort_by("row_id")["error"]
