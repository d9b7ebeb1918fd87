"""A finished run once more, with another model: the same rows by the same ids, in a new run.

It is an ``extract`` whose source is a run, so all that holds of one holds of the other: exactly
once, continued by the same command, refused to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common.errors import RunError
from common.json_models import read_json
from pipelines.config import Options, Progress
from pipelines.extract import Outcome, extract
from pipelines.model_info import ModelRequest, Reading
from pipelines.request import Request
from pipelines.run import Run


def extract_again(
    run: Path,
    model: ModelRequest,
    out: Path,
    options: Options | None = None,
    *,
    report: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Answer every row of ``run`` with ``model`` into the run ``out``; continued like ``extract``.

    Images are found where the old run found them. Frames of a run over videos are prepared as
    such a run prepares them.

    Raises:
        RunError: ``run`` is no finished run, or ``out`` is the same folder or inside it.
        InputError, StalledError, WorkError: as ``extract`` raises them.
    """
    old, new = run.resolve(), out.resolve()
    if new == old or old in new.parents:
        raise RunError(f"--out {out} stands in the run that is migrated; give a folder of its own")
    Run.open(run)  # said first, and not as if it were a folder of images
    options = replace(options or Options(), reading=reading_of(run))
    return extract(str(run), model, out, options, report=report)


def reading_of(run: Path) -> Reading:
    """How the rows of ``run`` came to be, as it is asked for to have them again."""
    file = run / "request.json"
    how = read_json(file, Request).command.reading if file.is_file() else Reading()
    return how.model_copy(update={"again": True})
