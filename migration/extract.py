"""Extract a finished run again with another model: the same rows and ids, in a new run.

It is an ``extract`` whose source is a run: each row exactly once, and the same command continues
it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.errors import RunError
from common.json_models import read_json
from pipelines.config import ExtractConfig, Progress
from pipelines.extract import Outcome, extract
from pipelines.request import Request
from pipelines.run import Run


def extract_again(
    config: ExtractConfig, out: Path, *, report: Callable[[Progress], None] = lambda _: None
) -> Outcome:
    """Answer every row of the run ``config.source`` anew into the run ``out``.

    Images are found where the old run found them. Frames of a run over videos are prepared as
    such a run prepares them. The same call continues, as ``extract`` does.

    Args:
        config: as ``extract`` takes it, with a run as its source; how that run read its own source
            is taken from it.
        out, report: as ``extract`` takes them.

    Raises:
        RunError: ``run`` is not a finished run, or ``out`` is the same folder or inside it.
        InputError, StalledError, WorkError: as ``extract`` raises them.
    """
    run = Path(config.source)
    old, new = run.resolve(), out.resolve()
    if new == old or old in new.parents:
        raise RunError(
            f"`out={str(out)!r}` is inside the run that is migrated; give another folder"
        )
    Run.open(run)  # first: else it would be refused as a folder of images
    reading: dict[str, object] = {"from_run": True}
    if (file := run / "request.json").is_file():
        earlier = read_json(file, Request).config
        reading |= {"kind": earlier.kind, "frames": earlier.frames, "limit": earlier.limit}
    return extract(config.model_copy(update=reading), out, report=report)
