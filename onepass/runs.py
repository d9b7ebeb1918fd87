"""Runs in Python: ``extract`` and ``open_run``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.executors import ExecutorChoice, executor_line
from common.errors import WorkError
from common.json_models import configure
from common.moved import Moved, read_pairs
from onepass.arguments import Update, read_path, show_progress, warn
from pipelines.config import ExtractConfig, Progress
from pipelines.run import Run
from pipelines.sources.unreadable import UNREAD, where_looked

if TYPE_CHECKING:
    from typing import Unpack

    from onepass.options import ExtractOptions
    from pipelines.extract import Outcome
    from pipelines.session import UpdateSummary

_NAMED = 10
_LEAST_COSINE = 0.99  # of embeddings in half precision to exact ones; below, a warning


def extract(
    source: str | Path,
    model: str,
    out: str | Path,
    *,
    update: bool = False,
    images: Moved = None,
    progress: bool = True,
    **options: Unpack[ExtractOptions],
) -> Run:
    """Class and embedding of every image or box of a source, in one forward pass.

    An image that cannot be read becomes a row with an ``error``, never a missing row. The same
    call continues an unfinished run, and opens a finished one.

    Args:
        source: a folder of images or videos, a manifest (.parquet, .csv, .tsv, .jsonl) with a
            column ``image`` and, if you have boxes, ``x1 y1 x2 y2`` in pixels, or a database's URL.
        model: such as ``lite0``, ``timm:NAME``, ``torchvision:NAME``; see ``onepass models list``.
        out: the run folder, on this machine or in an object store.
        update: bring a run up to date with a source that has grown or changed: only images that are
            new or changed are answered. Ids stay, and rows of images that are gone are kept.
        images: folders of images that were moved: old folder to new folder.
        progress: show a bar.
        options: fields of ``ExtractConfig``: the options of the command ``onepass extract``.

    Returns:
        The finished run.

    Raises:
        InputError: source, model or ``out`` do not fit; nothing was written.
        StalledError: no row moved for ``stall_seconds``.
        WorkError: not one image can be read, and nothing was written; or the work failed, and the
            same call continues it.

    Example:
        >>> run = onepass.extract("photos", model="tiny", out="runs/first", progress=False)
        >>> len(run)
        12
    """
    from pipelines.extract import extract as extract_source  # late: torch takes seconds

    config = configure(ExtractConfig, source=source, model=model, **options)
    folder = read_path("out", out)
    with show_progress(progress) as show:
        outcome = extract_source(
            config,
            folder,
            update=update,
            pairs=read_pairs(images),
            report=report_to(show, config.executor, config.address),
        )
    warn([*warnings_of(outcome), *_failures(outcome.run)])
    return Run(folder, outcome.run.manifest, read_pairs(images))  # by the path that was given


def open_run(path: str | Path, *, images: Moved = None) -> Run:
    """Open a finished run.

    Args:
        path: its folder, on this machine or in an object store.
        images: folders of images that were moved: old folder to new folder. A project that was
            moved as a whole needs none.

    Raises:
        RunError: there is none, or it is unfinished.

    Example:
        >>> onepass.open_run("runs/first")
        Run('runs/first': 12 rows, 0 with errors, tiny, 32-d embeddings)
    """
    return Run.open(read_path("path", path), read_pairs(images))


def report_to(
    update: Update, executor: ExecutorChoice = "auto", address: str | None = None
) -> Callable[[Progress], None]:
    """Show what an extraction reports as stages of a progress bar.

    Args:
        update: of the bar.
        executor, address: as the extraction has them, to say where it runs.
    """
    names = {
        "waiting": "waiting whether an earlier session, which held the lease, is alive: second"
    }

    def report(progress: Progress) -> None:
        note = f"{progress.failed} errors" if progress.failed else ""
        if progress.stage == "starting":
            note = executor_line(executor, address)
        stage = names.get(progress.stage, progress.stage)
        update(stage, progress.done, progress.planned, note=note)

    return report


def warnings_of(outcome: Outcome) -> Iterator[str]:
    """What to know of a run that was extracted now."""
    manifest, asked = outcome.run.manifest, outcome.run.manifest.model.request
    if outcome.update is not None:
        yield from _warnings_of_update(outcome, outcome.update)
    elif outcome.already_finished:
        yield from outcome.source_notes
    if outcome.already_finished:
        return
    if manifest.model.weights.startswith("random") and not (asked.random_weights or asked.head):
        yield (
            f"{asked.spec} has random weights: classes and embeddings mean nothing; give "
            "`checkpoint` or `pretrained=True`"
        )
    if outcome.skipped_files:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in sorted(outcome.skipped_files.items()))
        yield f"other files were left out: {kinds}"
    yield from outcome.source_notes
    rows, unread = manifest.rows, _unread(outcome.run)
    if rows.failed < rows.written < 2 * unread:
        looked = _where_looked(outcome.run)
        yield f"the images of {unread} of {rows.written} rows could not be read: {looked}"
    counts = outcome.counts
    if counts.raised:
        yield f"{counts.raised} times a block was tried again after an error: {counts.last_error}"
    if counts.passes > 1:
        yield "nodes were lost; what they had not done was done by the others"
    audit = manifest.precision_audit
    if audit is not None and audit.cosine_min < _LEAST_COSINE:
        yield (
            f"{manifest.precision} moves embeddings (cosine to fp32 {audit.cosine_min:.3f} at "
            "worst); `precision='fp32'` is slower and exact"
        )
    if outcome.events_lost:
        yield outcome.events_lost


def _unread(run: Run) -> int:
    """Rows whose image could not be opened."""
    return sum(rows for kind, rows in run.manifest.errors.items() if kind in UNREAD)


def _where_looked(run: Run) -> str:
    """Where those images were looked for, and what to do."""
    names = dict.fromkeys(
        image
        for batch in run.iter_batches(columns=["image", "error"])
        for image, error in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        if error is not None and error.startswith(UNREAD)
    )
    return f"{where_looked(names, run.images)}, and `update=True` tries them again"


def check_answered(run: Run) -> None:
    """Check that some row of a run has an answer.

    Args:
        run: finished.

    Raises:
        WorkError: all have errors.
    """
    rows = run.manifest.rows
    if rows.failed < rows.written:
        return
    kinds = "; ".join(f"{count} x {kind}" for kind, count in run.manifest.errors.items())
    hint = f"; {_where_looked(run)}" if _unread(run) else ""
    raise WorkError(f"{run.path}: not one of its {rows.written} rows has an answer: {kinds}{hint}")


def _warnings_of_update(outcome: Outcome, update: UpdateSummary) -> Iterator[str]:
    run = outcome.run
    if update.vanished:
        yield (
            f"{len(update.vanished)} images are not in the source any more, or lost a box; their "
            f"rows are kept: {first_names(update.vanished)}"
        )
    if update.renumbered:
        yield (
            f"{update.renumbered} rows that were there before have another frame or sequence now, "
            "because images came between others"
        )
    if outcome.already_finished:
        yield from outcome.source_notes
    if not outcome.already_finished and (run.path / "tracks" / "manifest.json").is_file():
        yield f"its tracks are of the rows before; make them again with 'onepass link {run.path}'"


def first_names(names: Sequence[str]) -> str:
    """The first ten of some names, for a message."""
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _failures(run: Run) -> Iterator[str]:
    rows = run.manifest.rows
    if rows.failed:
        kinds = "; ".join(f"{count} x {kind}" for kind, count in run.manifest.errors.items())
        yield f"{rows.failed} of {rows.written} rows have an error, in column 'error': {kinds}"
