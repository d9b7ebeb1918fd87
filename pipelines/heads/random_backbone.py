"""The same source through the same network untrained, as a baseline for a head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.executors import ExecutorChoice
from common.errors import RunError
from common.json_models import read_json
from pipelines.config import READING, ExtractConfig, Progress
from pipelines.extract import extract
from pipelines.heads.config import Kind
from pipelines.heads.features import model_of
from pipelines.models.registry import examine
from pipelines.request import Request
from pipelines.run import Run


def extract_untrained(
    run: Run,
    kind: Kind,
    out: Path,
    executor: ExecutorChoice,
    report: Callable[[Progress], None],
) -> Run:
    """Extract the run's source again with its network untrained; continues like any run.

    Args:
        run: whose source and model are used.
        kind: the features to store.
        out: folder of the new run.
        executor: to extract with.
        report: receives the progress of the extraction.

    Raises:
        RunError: the run has no request, its network is untrained itself, or its source has
            changed since.
        InputError: as ``extract`` raises them.
    """
    file = run.path / "request.json"
    if not file.is_file():
        raise RunError(f"`random_backbone=True`: {run.path} has no request.json to repeat")
    config = read_json(file, Request).config
    trained = model_of(run, kind)
    changes: dict[str, Any] = {"random_weights": True, "pretrained": False}
    changes |= dict.fromkeys(("checkpoint", "weights", "labels", "head"))
    model = trained.request.model_copy(update=changes)
    if examine(model).weights_sha256 == trained.weights_sha256:
        raise RunError(
            f"`random_backbone=True`: the network of {run.path} is untrained itself "
            f"({trained.weights}), so there is nothing to compare; leave it out"
        )
    untrained = extract(
        ExtractConfig(
            **config.model_dump(include=set(READING)),
            model=model.spec,
            **model.model_dump(exclude={"spec"}),
            features=("pooled", "map") if kind == "map" else ("pooled",),
            executor=executor,
        ),
        out,
        report=report,
    ).run
    if untrained.manifest.rows.planned != run.manifest.rows.planned:
        raise RunError(
            f"`random_backbone=True`: {config.source} has {untrained.manifest.rows.planned} rows "
            f"now, {run.path} was made from {run.manifest.rows.planned}; extract it again first"
        )
    return untrained
