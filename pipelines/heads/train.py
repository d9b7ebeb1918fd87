"""``onepass probe train``: read, divide, fit, measure, draw; the head's file comes last.

::

    head.json            the record of the training, with its measures
    head-confusion.png   of the test rows, else of the validation rows
    head-validation.png  validation images; of clips there is none
    head-random-run/     the run of the untrained network, if requested
    head.pt              the head; while it is missing the training is unfinished
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cluster.executors import ExecutorChoice
from common.errors import InputError, RunError
from common.extras import optional
from common.json_models import read_json, write_atomic
from common.storage import to_path
from pipelines.heads.clips import read_clips
from pipelines.heads.features import Examples, read_run
from pipelines.heads.fit import TrainOptions, classify, fit
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
    """A trained head's file, its record, and the files written with it."""

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
        out: the head's file, ``*.pt``; its other files are written to the same folder.
        options: of the training.
        executor: for the extraction of ``options.random_backbone``.
        report: receives the stage with its steps done and planned.

    Raises:
        InputError: source, options or ``out`` do not fit; nothing was written.
    """
    _check_output(out)
    for module in ("sklearn", "matplotlib"):
        optional(module, "probe")
    clips = to_path(source).is_file()
    _check_options(source, options, clips=clips)
    run = None if clips else Run.open(source)
    examples, parts = _read(source, run, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    untrained = None
    if run and options.random_backbone:
        untrained = _random_backbone(run, out, options, executor, report)
    fitted = fit(examples, parts, options, lambda done, most: report("training", done, most))
    report("measuring", 0, 1)
    baselines = baselines_of(examples, parts)
    if options.hidden and options.features == "pooled":  # on maps it takes longer than the head
        linear = measures_of(
            fit(examples, parts, replace(options, hidden=())).head, examples, parts
        )
        baselines["linear"] = {part: m.score for part, m in linear.items() if part != "train"}
    used = {name: value for name, value in vars(options).items() if value is not None}
    record = ProbeRecord(
        source=str(source),
        head=fitted.head.facts,
        head_sha256=head_sha256(fitted.head),
        options=json.loads(json.dumps(used, default=str)),  # paths are text there
        chosen=fitted.chosen,
        rows={part: len(rows) for part, rows in parts.measured.items()},
        left_out=examples.left_out,
        measures=measures_of(fitted.head, examples, parts),
        baselines=baselines,
        random_backbone=untrained,
        notes=validation_warnings(examples, parts),
        versions={"python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
    )
    beside = _write_reports(out, record, fitted.head, examples, parts, run)
    save_head(fitted.head, out)
    return Trained(out, record, beside)


def measures_of(head: Head, examples: Examples, parts: Parts) -> dict[str, Measures]:
    """A head's measures on every part that has rows."""
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


def _check_options(source: str | Path, options: TrainOptions, *, clips: bool) -> None:
    if options.val_share is not None and (options.split_by or options.validation):
        raise InputError(
            "`val_share` takes part of the rows to validate on, `split_by` and `validation` name "
            "them; give one of the three"
        )
    if not clips and options.validation is not None:
        raise InputError(
            f"`validation` goes with a clip file, and {source} is none; divide a run with "
            "`split_by`"
        )
    run_only = {
        f"labels={options.labels!r}": options.labels != "category",
        "features='map'": options.features == "map",
        "split_by": options.split_by is not None,
        "random_backbone": options.random_backbone,
    }
    for option in [option for option, given in run_only.items() if clips and given]:
        raise InputError(
            f"`{option}` needs a run, and {source} is a clip file: its labels are 'category', "
            "its features pooled; divide it with `validation` or `val_share`"
        )


def _read(source: str | Path, run: Run | None, options: TrainOptions) -> tuple[Examples, Parts]:
    if run is None:
        examples = read_clips(Path(source), validation=options.validation, limit=options.limit)
    else:
        examples = read_run(
            run,
            labels=options.labels,
            kind=options.features,
            split_by=options.split_by,
            limit=options.limit,
        )
    return examples, divide(examples, share=options.val_share or DEFAULT_SHARE, seed=options.seed)


def _random_backbone(
    run: Run, out: Path, options: TrainOptions, executor: ExecutorChoice, report: Report
) -> RandomBackbone:
    """Train the same head on features of the untrained network."""
    folder = out.with_name(f"{out.stem}-random-run")
    untrained = extract_untrained(
        run,
        options.features,
        folder,
        executor,
        lambda at: report(f"random: {at.stage}", at.done, at.planned),
    )
    examples, parts = _read(untrained.path, untrained, options)
    fitted = fit(examples, parts, options, lambda *at: report("random: training", *at))
    measures = measures_of(fitted.head, examples, parts)
    return RandomBackbone(
        run=folder.name, scores={part: found.score for part, found in measures.items()}
    )


def _write_reports(
    out: Path, record: ProbeRecord, head: Head, examples: Examples, parts: Parts, run: Run | None
) -> tuple[Path, ...]:
    """Write the record and the pictures, and return their files."""
    beside = [out.with_suffix(".json"), out.with_name(f"{out.stem}-confusion.png")]
    write_atomic(beside[0], record.model_dump_json(indent=2).encode())
    part = "test" if "test" in record.measures else "validation"
    measures = record.measures[part]
    title = f"{part}: {measures.rows} rows, accuracy {measures.accuracy:.3f}"
    draw_confusion(measures, beside[1], title=title)
    if run is not None:
        beside.append(out.with_name(f"{out.stem}-validation.png"))
        draw_validation(_validated(head, examples, parts), run.root, beside[2], title="validation")
    return tuple(beside)


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
