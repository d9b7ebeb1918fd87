"""``onepass probe train``: read, divide, fit, measure, draw; the head's file comes last.

::

    head.json            how it was made and what it is worth
    head-curves.png      loss and accuracy by epoch
    head-confusion.png   of the test rows, else of those it was validated on
    head-validation.png  images it was validated on; of clips there is none
    head-random-run/     the run of the untrained network, where it was asked for
    head.pt              the head; while it is missing the training is unfinished
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.errors import InputError, RunError
from cluster.executors import ExecutorChoice
from cluster.storage import place
from pipelines.head import save_head
from pipelines.probe.chance import random_run
from pipelines.probe.clips import read_clips
from pipelines.probe.features import Examples, read_run
from pipelines.probe.fit import (
    DEFAULT_SHARE,
    Fitted,
    Parts,
    TrainOptions,
    classify,
    divide,
    fit,
)
from pipelines.probe.pictures import Judged, draw_confusion, draw_curves, draw_validation
from pipelines.probe.report import (
    ProbeRecord,
    RandomBackbone,
    Score,
    describe_probe,
    extra,
    measures_of,
)
from pipelines.records import read_record, write_atomic
from pipelines.run import Run

Report = Callable[[str, int, int], None]  # stage, done, planned


@dataclass(frozen=True)
class Trained:
    """A head that was made, and what was written beside it."""

    file: Path
    record: ProbeRecord
    beside: tuple[Path, ...]


def train(
    source: str | Path,
    out: Path,
    options: TrainOptions,
    *,
    executor: ExecutorChoice = "auto",
    report: Report = lambda stage, done, planned: None,
) -> Trained:
    """Train a head on the stored features of a run or of a clip file.

    Args:
        source: a finished run's folder, or a file made by ``onepass clips``.
        out: the head's file, ``*.pt``; what belongs to it is written beside it.
        options: how.
        executor: where the source is extracted once more, for ``options.random_backbone``.
        report: told of epochs, and of rows where the source is extracted once more.

    Raises:
        InputError: source, options or ``out`` do not fit; nothing was written.
    """
    _refuse_taken(out)
    for module in ("sklearn", "matplotlib"):
        extra(module)
    clips = place(source).is_file()
    _refuse_options(source, options, clips=clips)
    run = None if clips else Run.open(source)
    examples = _read(source, run, options)
    parts = _divided(examples, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    chance = None
    if run and options.random_backbone:
        chance = _chance(run, out, options, executor, report)
    fitted = fit(examples, parts, options, lambda done, most: report("training", done, most))
    report("measuring", 0, 1)
    record = describe_probe(str(source), fitted, examples, parts, options, random_backbone=chance)
    beside = _write_beside(out, record, fitted, examples, parts, run)
    save_head(fitted.head, out)
    return Trained(out, record, beside)


def _refuse_taken(out: Path) -> None:
    if out.suffix != ".pt":
        raise InputError(f"--out {out}: the name of a head's file ends in .pt, as head.pt")
    if out.exists():
        raise RunError(f"--out {out} exists; give another --out")
    record = out.with_suffix(".json")
    if record.exists():  # of a training that was stopped, or it is somebody's own
        try:
            read_record(record, ProbeRecord)
        except RunError:
            raise RunError(
                f"--out {out}: {record} stands in the place of its record; give another --out"
            ) from None


def _refuse_options(source: str | Path, options: TrainOptions, *, clips: bool) -> None:
    if options.val_share is not None and (options.split_by or options.validation):
        raise InputError(
            "--val-share takes part of the rows to validate on, --split-by and --validation name "
            "them; give one of the three"
        )
    if not clips:
        if options.validation is not None:
            raise InputError(
                f"--validation goes with a clip file, and {source} is none; divide a run with "
                "--split-by COLUMN"
            )
        return
    refused = {
        f"--labels {options.labels}": options.labels != "category",
        "--features map": options.features == "map",
        "--split-by": options.split_by is not None,
        "--random-backbone": options.random_backbone,
    }
    for option, given in refused.items():
        if given:
            raise InputError(
                f"{option} needs a run, and {source} is a clip file: its labels are 'category', "
                "its features pooled; divide it with --validation OTHER.h5 or --val-share"
            )


def _read(source: str | Path, run: Run | None, options: TrainOptions) -> Examples:
    if run is None:
        return read_clips(Path(source), validation=options.validation, limit=options.limit)
    return read_run(
        run,
        labels=options.labels,
        kind=options.features,
        split_by=options.split_by,
        limit=options.limit,
    )


def _divided(examples: Examples, options: TrainOptions) -> Parts:
    share = DEFAULT_SHARE if options.val_share is None else options.val_share
    return divide(examples, share=share, seed=options.seed)


def _chance(
    run: Run, out: Path, options: TrainOptions, executor: ExecutorChoice, report: Report
) -> RandomBackbone:
    """Train the same head on features of the untrained network."""
    folder = out.with_name(f"{out.stem}-random-run")
    untrained = random_run(
        run,
        options.features,
        folder,
        executor,
        lambda at: report(f"random: {at.stage}", at.done, at.planned),
    )
    examples = _read(untrained.path, untrained, options)
    parts = _divided(examples, options)
    fitted = fit(
        examples, parts, options, lambda done, most: report("random: training", done, most)
    )
    found = measures_of(fitted, examples, parts)
    return RandomBackbone(
        run=folder.name,
        scores={
            part: Score(accuracy=measured.accuracy, macro_f1=measured.macro_f1)
            for part, measured in found.items()
        },
    )


def _write_beside(
    out: Path,
    record: ProbeRecord,
    fitted: Fitted,
    examples: Examples,
    parts: Parts,
    run: Run | None,
) -> tuple[Path, ...]:
    """Write all that stands beside a head, and say what that is."""
    made = [out.with_suffix(".json")]
    write_atomic(made[0], record.model_dump_json(indent=2).encode())

    def picture(name: str) -> Path:
        made.append(out.with_name(f"{out.stem}-{name}.png"))
        return made[-1]

    draw_curves(record, picture("curves"))
    part = "test" if "test" in record.measures else "validation"
    measured = record.measures[part]
    draw_confusion(
        measured,
        picture("confusion"),
        title=f"{part}: {measured.rows} rows, accuracy {measured.accuracy:.3f}",
    )
    if run is not None:
        judged = _judged(fitted, examples, parts)
        draw_validation(judged, run.root, picture("validation"), title="validation")
    return tuple(made)


def _judged(fitted: Fitted, examples: Examples, parts: Parts) -> list[Judged]:
    assert examples.images is not None
    assert examples.boxes is not None
    rows = parts.validation
    answers, scores = classify(fitted.head, examples.features, rows)
    corners = examples.boxes[rows].tolist()
    return [
        Judged(
            image=image,
            box=tuple(None if np.isnan(value) else value for value in box),
            truth=parts.classes[truth],
            answer=parts.classes[answer],
            score=score,
        )
        for image, box, truth, answer, score in zip(
            examples.images[rows].tolist(),
            corners,
            parts.targets[rows].tolist(),
            answers.tolist(),
            scores.tolist(),
            strict=True,
        )
    ]
