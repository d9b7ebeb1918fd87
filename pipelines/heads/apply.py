"""``onepass probe apply``: classify a run's stored features with a head, file by file.

::

    RUN/heads/NAME/
      part-00000.parquet   one for each of the run's detections files, row for row
      manifest.json        the head, the rows and their counts
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError, RunError, VerifyError
from common.extras import optional
from common.json_models import sha256_file
from common.manifests import Manifest, check_file
from common.parquet import open_parquet, read_parquet, write_parquet
from pipelines.embeddings import matrix
from pipelines.engines.engine import this_device
from pipelines.heads.features import batch_rows, column_of, label_values, model_of
from pipelines.heads.fit import classify
from pipelines.heads.report import Measures, measure
from pipelines.models.head import Head, head_sha256, load_head
from pipelines.run import Run

SCHEMA = pa.schema(
    [
        ("row_id", pa.int64()),
        ("detection_id", pa.string()),
        ("label", pa.string()),
        ("label_index", pa.int32()),
        ("score", pa.float32()),
        ("error", pa.string()),
    ]
)


class AppliedManifest(Manifest):
    """Contents of ``manifest.json``; ``rows`` are ``failed``, without features, or counted."""

    head_sha256: str
    rows_sha256: str  # of the run's detections files
    classes: tuple[str, ...]
    rows: int
    failed: int  # with an error, and so without a class
    without_features: int  # a gate did not let the model see them
    counts: dict[str, int]  # label to rows


@dataclass(frozen=True)
class Applied:
    """The outcome of ``apply_head``."""

    out: Path
    manifest: AppliedManifest
    already_done: bool
    measures: Measures | None  # where labels were given
    unknown: dict[str, int]  # labels that are no class of the head, to rows


def apply_head(
    run: str | Path,
    head_file: str | Path,
    *,
    out: Path | None = None,
    labels: str | None = None,
    report: Callable[[int, int], None] = lambda done, planned: None,
) -> Applied:
    """Classify every row of a finished run by its stored features; no network runs.

    Args:
        run: the run folder.
        head_file: made by ``onepass probe train``.
        out: folder for the answers; default ``RUN/heads/`` and the head's name.
        labels: a column of the run to compare the answers with.
        report: receives rows done and planned.

    Raises:
        ModelError: not a head's file.
        RunError: the run's features are not those the head was trained on, or ``out`` holds
            something else.
        InputError: no row has a label that the head knows.
    """
    opened = Run.open(run)
    head = load_head(head_file)
    _check_features(opened, head, head_file)
    truth = None if labels is None else _true_labels(opened, labels, head)
    out = out or opened.path / "heads" / Path(head_file).stem
    manifest = _earlier(out, opened, head)
    already_done = manifest is not None
    manifest = manifest or _write(opened, head, out, report)
    measured = (None, {}) if truth is None else _measures_against(out, manifest, truth)
    return Applied(out, manifest, already_done, *measured)


def _true_labels(run: Run, column: str, head: Head) -> pa.ChunkedArray:
    """A run's labels; null for rows with an error."""
    optional("sklearn", "probe")
    good = run.to_arrow(["error"])["error"].is_null()
    labels = pc.if_else(good, label_values(run, column), None)
    if not pc.any(pc.is_in(labels, pa.array(head.facts.classes))).as_py():
        raise InputError(
            f"`labels={column!r}`: no row of {run.path} is labelled with a class of the head, as "
            f"{head.facts.classes[0]!r}"
        )
    return labels


def _check_features(run: Run, head: Head, file: str | Path) -> None:
    needed, stored = head.facts, model_of(run, head.facts.features)
    if stored.fingerprint != needed.fingerprint:
        raise RunError(
            f"`head={str(file)!r}` needs features of {needed.spec} ({needed.fingerprint[:12]}), "
            f"{run.path} holds those of {stored.request.spec} ({stored.fingerprint[:12]}); train a "
            "head on this run, or extract with the head's model, weights and preprocessing"
        )
    if (shape := column_of(run, needed.features)[1]) != needed.shape:
        raise RunError(
            f"`head={str(file)!r}` needs {needed.features} features of shape {needed.shape}, "
            f"{run.path} holds {shape}; train a head on this run"
        )


def _earlier(out: Path, run: Run, head: Head) -> AppliedManifest | None:
    """The manifest in ``out``, where it holds this head's answers for these rows already."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    file = out / "manifest.json"
    if not file.is_file():
        raise RunError(f"`out={str(out)!r}` holds no answers of a head; give a new folder")
    earlier = AppliedManifest.read(out)
    if earlier.head_sha256 != head_sha256(head) or earlier.rows_sha256 != run.manifest.rows_sha256:
        raise RunError(
            f"`out={str(out)!r}` holds answers of another head or run; give a new folder"
        )
    return earlier


def _write(run: Run, head: Head, out: Path, report: Callable[[int, int], None]) -> AppliedManifest:
    planned = run.manifest.rows.planned
    digest = head_sha256(head)
    head.to(this_device())
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    draft.mkdir()
    rows, failed, labels = 0, 0, Counter[str | None]()
    try:
        for number, file in enumerate(run.files()):
            answers = pa.Table.from_batches(_classified(run.check(file), run, head), SCHEMA)
            write_parquet(answers, draft / f"part-{number:05d}.parquet")
            rows += answers.num_rows
            failed += answers.num_rows - answers["error"].null_count
            labels.update(answers["label"].to_pylist())
            report(rows, planned)
        if rows != planned:
            raise VerifyError(
                f"{run.path}: {planned} rows planned, {rows} stored; check it with 'onepass "
                "inspect RUN --verify'"
            )
        manifest = AppliedManifest(
            head_sha256=digest,
            rows_sha256=run.manifest.rows_sha256,
            classes=head.facts.classes,
            rows=rows,
            failed=failed,
            without_features=labels[None] - failed,
            counts={name: labels[name] for name in head.facts.classes},
            files={file.name: sha256_file(file) for file in sorted(draft.glob("*.parquet"))},
        )
        manifest.write(draft)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def _classified(file: Path, run: Run, head: Head) -> Iterator[pa.RecordBatch]:
    """The answers for one detections file, in batches; rows without features have no class."""
    column, shape = column_of(run, head.facts.features)
    names = np.array(head.facts.classes, dtype=object)
    step = batch_rows(int(np.prod(shape)))
    with open_parquet(file) as parquet:
        wanted = ["row_id", "detection_id", column, "error"]
        for batch in parquet.iter_batches(step, columns=wanted):
            features = matrix(batch[column])
            good = np.asarray(batch["error"].is_null()) & np.isfinite(features).all(1)
            index, score = classify(head, features, np.flatnonzero(good))
            index_of_row = pa.array(np.where(good, np.cumsum(good) - 1, 0), mask=~good)
            yield pa.record_batch(
                [
                    batch["row_id"],
                    batch["detection_id"],
                    pa.array(names[index], pa.string()).take(index_of_row),
                    pa.array(index, pa.int32()).take(index_of_row),
                    pa.array(score, pa.float32()).take(index_of_row),
                    batch["error"],
                ],
                schema=SCHEMA,
            )


def _measures_against(
    out: Path, manifest: AppliedManifest, truth: pa.ChunkedArray
) -> tuple[Measures, dict[str, int]]:
    """Measures over rows with a class and a label of the head; counts of the other labels."""
    parts = [
        read_parquet(check_file(out / name, sha256), columns=["row_id", "label_index"])
        for name, sha256 in manifest.files.items()
    ]
    predicted = pa.concat_tables(parts).sort_by("row_id")["label_index"]
    has_both = pc.and_(predicted.is_valid(), truth.is_valid())
    predicted, truth = predicted.filter(has_both), truth.filter(has_both)
    expected = pc.index_in(truth, pa.array(manifest.classes))
    unknown = Counter(truth.filter(expected.is_null()).to_pylist())
    measures = measure(
        expected.drop_null().to_numpy().astype(np.int64),
        predicted.filter(expected.is_valid()).to_numpy(),
        manifest.classes,
    )
    return measures, dict(sorted(unknown.items()))
