"""Extract a finished run again with another model: the same rows and ids, in a new run.

It is an ``extract`` whose source is a run: each row exactly once, and the same command continues
it.
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
    """Extract every row of a run with another model; the same call continues an unfinished run.

    Images are read from where the old run read them. Frames of videos are prepared as the old run
    prepared them.

    Args:
        run: a finished run; it is only read.
        model: the new model.
        out: folder of the new run.
        options: as for ``extract``; ``reading`` is taken from the old run.
        report: called with the progress.

    Returns:
        The new run, and whether it was finished before.

    Raises:
        RunError: ``run`` is not a finished run, or ``out`` is the same folder or inside it.
        InputError, StalledError, WorkError: as ``extract`` raises them.
    """
    old, new = run.resolve(), out.resolve()
    if new == old or old in new.parents:
        raise RunError(
            f"`out={str(out)!r}` is inside the run that is migrated; give another folder"
        )
    Run.open(run)  # otherwise `extract` would take it for a folder of images
    options = replace(options or Options(), reading=reading_of(run))
    return extract(str(run), model, out, options, report=report)


def reading_of(run: Path) -> Reading:
    """The options with which the rows of ``run`` were read, for reading them again."""
    file = run / "request.json"
    reading = read_json(file, Request).command.reading if file.is_file() else Reading()
    return reading.model_copy(update={"again": True})
