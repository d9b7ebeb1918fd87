"""The same source through the same network untrained: what a head makes of chance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.executors import ExecutorChoice
from common.errors import RunError
from common.json_models import read_json
from pipelines.config import ExtractConfig, Progress
from pipelines.extract import extract
from pipelines.heads.features import Kind, model_of
from pipelines.models.registry import examine
from pipelines.request import Request
from pipelines.run import Run


def random_run(
    run: Run,
    kind: Kind,
    out: Path,
    executor: ExecutorChoice,
    report: Callable[[Progress], None],
) -> Run:
    """Extract the run's source once more with its network untrained; continues like any run.

    Raises:
        RunError: the run does not say how it was made, its network is untrained itself, or its
            source has changed since.
        InputError: as ``extract`` raises them.
    """
    file = run.path / "request.json"
    if not file.is_file():
        raise RunError(f"--random-backbone: {run.path} has no request.json to repeat")
    config = read_json(file, Request).config
    own = model_of(run, kind)
    untrained: dict[str, Any] = {"random_weights": True, "pretrained": False}
    untrained |= dict.fromkeys(("checkpoint", "labels", "head"))
    model = own.request.model_copy(update=untrained)
    same = model.model_dump(exclude={"spec"})
    if examine(model).weights_sha256 == own.weights_sha256:
        raise RunError(
            f"--random-backbone: the network of {run.path} is untrained itself ({own.weights}), so "
            "there is nothing to compare; leave it out"
        )
    found = extract(
        ExtractConfig(
            source=config.source,
            kind=config.kind,
            frames=config.frames,
            limit=config.limit,
            from_run=config.from_run,
            model=model.spec,
            **same,
            features=("pooled", "map") if kind == "map" else ("pooled",),
            executor=executor,
        ),
        out,
        report=report,
    ).run
    if found.manifest.rows.planned != run.manifest.rows.planned:
        raise RunError(
            f"--random-backbone: {config.source} has {found.manifest.rows.planned} rows now, "
            f"{run.path} was made from {run.manifest.rows.planned}; extract it again first"
        )
    return found
