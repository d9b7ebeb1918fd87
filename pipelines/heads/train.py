"""``onepass probe train``: read, divide, fit, measure, draw; the head's file comes last.

::

    head.json            the record of the training, with its measures
    head-confusion.png   of the test rows, else of the validation rows
    head-validation.png  validation images; of clips there is none
    head-random-run/     the run of the untrained network, if requested
    head.pt              the head; while it is missing the training is unfinished
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from common.errors import InputError, RunError
from common.extras import optional
from common.json_models import read_json, write_json
from common.storage import to_path
from pipelines.heads.clips import read_clips
from pipelines.heads.config import TrainConfig
from pipelines.heads.features import Examples, read_run
from pipelines.heads.fit import Fitted, classify, fit
from pipelines.heads.parts import DEFAULT_SHARE, Parts, divide, validation_warnings
from pipelines.heads.pictures import ValidatedRow, draw_confusion, draw_validation
from pipelines.heads.random_backbone import extract_untrained
from pipelines.heads.report import (
    Measures,
    ProbeRecord,
    RandomBackbone,
    baselines_of,
    measure,
)
from pipelines.models.head import Head, head_sha256, save_head
from pipelines.run import Run

Report = Callable[[str, int, int], None]  # stage, done, planned
_PACKAGES = ("onepass", "torch", "numpy", "scikit-learn", "matplotlib")


@dataclass(frozen=True)
class Trained:
    """A trained head's file, its record, and the files written with it: JSON and pictures."""

    file: Path
    record: ProbeRecord
    reports: tuple[Path, ...]


def train(
    config: TrainConfig,
    out: Path,
    *,
    report: Report = lambda stage, done, planned: None,
) -> Trained:
    """Train a head on the stored features of a run or of a clip file.

    Args:
        config: source and options.
        out: the head's file, ``*.pt``; its other files are written to the same folder.
        report: receives the stage with its steps done and planned.

    Raises:
        InputError: source, options or ``out`` do not fit; nothing was written.
    """
    _check_output(out)
    for module in ("sklearn", "matplotlib"):
        optional(module, "probe")
    run = None
    if to_path(config.source).is_file():
        _check_clip_options(config)
    else:
        _check_run_options(config)
        run = Run.open(config.source)
    examples, parts = _read(run, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    untrained = None
    if run and config.random_backbone:
        untrained = _random_backbone(run, out, config, report)
    fitted = _fit(examples, parts, config, report, "training")
    report("measuring", 0, 1)
    baselines = baselines_of(examples, parts)
    if config.hidden and config.features == "pooled":  # on maps it takes longer than the head
        linear = measures_of(fit(examples, parts).head, examples, parts)
        baselines["linear"] = {part: m.score for part, m in linear.items() if part != "train"}
    record = ProbeRecord(
        config=config,
        head=fitted.head.facts,
        head_sha256=head_sha256(fitted.head),
        chosen=fitted.chosen,
        rows={part: len(rows) for part, rows in parts.measured.items()},
        left_out=examples.left_out,
        measures=measures_of(fitted.head, examples, parts),
        baselines=baselines,
        random_backbone=untrained,
        notes=validation_warnings(examples, parts),
        versions={"python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
    )
    reports = _write_reports(out, record, fitted.head, examples, parts, run)
    save_head(fitted.head, out)
    return Trained(out, record, reports)


def measures_of(head: Head, examples: Examples, parts: Parts) -> dict[str, Measures]:
    """Measure a head on every part that has rows.

    Args:
        head: to classify with.
        examples: the features.
        parts: their rows and classes.
    """
    return {
        part: measure(
            parts.targets[rows], classify(head, examples.features, rows)[0], parts.classes
        )
        for part, rows in parts.measured.items()
    }


def _check_output(out: Path) -> None:
    if out.suffix != ".pt":
        raise InputError(f"`out={str(out)!r}`: the name of a head's file ends in .pt, as head.pt")
    if out.exists():
        raise RunError(f"`out={str(out)!r}` exists; give a new file")
    record = out.with_suffix(".json")
    if record.exists():  # of a training that was stopped, or another file
        try:
            read_json(record, ProbeRecord)
        except RunError:
            raise RunError(
                f"`out={str(out)!r}`: {record} is there and is no record of a head; give a new file"
            ) from None


def _check_run_options(config: TrainConfig) -> None:
    if config.validation is not None:
        raise InputError(
            f"`validation` goes with a clip file, and {config.source} is none; divide a run with "
            "`split_by`"
        )


def _check_clip_options(config: TrainConfig) -> None:
    run_only = {
        f"labels={config.labels!r}": config.labels != "category",
        "features='map'": config.features == "map",
        "split_by": config.split_by is not None,
        "random_backbone": config.random_backbone,
    }
    for option in [option for option, given in run_only.items() if given]:
        raise InputError(
            f"`{option}` needs a run, and {config.source} is a clip file: its labels are "
            "'category', its features pooled; divide it with `validation` or `val_share`"
        )


def _read(run: Run | None, config: TrainConfig) -> tuple[Examples, Parts]:
    if run is None:
        examples = read_clips(config.source, validation=config.validation, limit=config.limit)
    else:
        examples = read_run(
            run,
            labels=config.labels,
            kind=config.features,
            split_by=config.split_by,
            limit=config.limit,
        )
    return examples, divide(examples, share=config.val_share or DEFAULT_SHARE, seed=config.seed)


def _fit(
    examples: Examples, parts: Parts, config: TrainConfig, report: Report, stage: str
) -> Fitted:
    return fit(
        examples,
        parts,
        hidden=config.hidden,
        seed=config.seed,
        report=lambda done, most: report(stage, done, most),
    )


def _random_backbone(run: Run, out: Path, config: TrainConfig, report: Report) -> RandomBackbone:
    """Train the same head on features of the untrained network."""
    untrained = extract_untrained(
        run,
        config.features,
        out.with_name(f"{out.stem}-random-run"),
        config.executor,
        lambda at: report(f"random: {at.stage}", at.done, at.planned),
    )
    examples, parts = _read(untrained, config)
    head = _fit(examples, parts, config, report, "random: training").head
    measures = measures_of(head, examples, parts)
    return RandomBackbone(
        run=untrained.path.name, scores={part: m.score for part, m in measures.items()}
    )


def _write_reports(
    out: Path, record: ProbeRecord, head: Head, examples: Examples, parts: Parts, run: Run | None
) -> tuple[Path, ...]:
    """Write the record and the pictures, and return their files."""
    reports = [out.with_suffix(".json"), out.with_name(f"{out.stem}-confusion.png")]
    write_json(reports[0], record)
    part = "test" if "test" in record.measures else "validation"
    measures = record.measures[part]
    title = f"{part}: {measures.rows} rows, accuracy {measures.accuracy:.3f}"
    draw_confusion(measures, reports[1], title=title)
    if run is not None:
        reports.append(out.with_name(f"{out.stem}-validation.png"))
        draw_validation(
            _validated(head, examples, parts), run.images, reports[2], title="validation"
        )
    return tuple(reports)


def _validated(head: Head, examples: Examples, parts: Parts) -> list[ValidatedRow]:
    assert examples.images is not None
    assert examples.boxes is not None
    rows, names = parts.validation, np.array(parts.classes)
    answers, scores = classify(head, examples.features, rows)
    columns = (
        examples.images[rows].tolist(),
        [tuple(None if np.isnan(v) else v for v in box) for box in examples.boxes[rows].tolist()],
        names[parts.targets[rows]].tolist(),
        names[answers].tolist(),
        scores.tolist(),
    )
    return [ValidatedRow(*row) for row in zip(*columns, strict=True)]
