"""A migration from beginning to end: extract again, compare, judge, and build the index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, RunError
from common.json_models import read_json, write_atomic
from common.moved import Pairs
from index.build.versions import promote
from migration.candidate import build_candidate, check_replaceable
from migration.compare import FOLDER, PAGE, compare_runs
from migration.page import render
from migration.report import MigrationReport
from migration.verdict import Limits
from pipelines.config import ExtractConfig, Progress
from pipelines.extract import Outcome, extract
from pipelines.request import Request
from pipelines.run import Run


@dataclass(frozen=True)
class Migration:
    """What became of a run with another model.

    Attributes:
        outcome: of extracting again.
        report: what changed, and whether the limits were met.
        page: the report as a page for people; None where Matplotlib is not installed.
        page_missing: why there is no page.
        version: the version of the index that was built; None where no index was given.
    """

    outcome: Outcome
    report: MigrationReport
    page: Path | None
    page_missing: str | None
    version: str | None

    @property
    def run(self) -> Run:
        """The new run."""
        return self.outcome.run

    @property
    def passed(self) -> bool:
        """Whether every limit was met; the index, if one was given, serves the new version then."""
        return self.report.verdict.passed

    def __repr__(self) -> str:
        verdict = "passed" if self.passed else "missed"
        return (
            f"Migration({self.report.then.spec} to {self.report.now.spec}, {verdict}: {self.run})"
        )


def run_migration(
    config: ExtractConfig,
    out: Path,
    *,
    index: Path | None,
    limits: Limits,
    queries: int,
    pairs: Pairs = (),
    report: Callable[[Progress], None],
    progress: Callable[[str, int, int], None],
) -> Migration:
    """Migrate a run; the same call continues, and writes the report of a finished one again.

    Args:
        config: whose source is a finished run.
        out: folder of the new run.
        index: an index that serves the old run alone; a version of the new run is built in it,
            and served where every limit is met.
        limits: what the migration must meet.
        queries: detections whose neighbours are compared, at most.
        pairs: of folders of images that were moved.
        report: called with the progress of extracting.
        progress: called with (stage, done, in all) afterwards.

    Raises:
        InputError: the run, the model, ``out`` or ``index`` does not fit.
        WorkError: the work failed; the same call continues it.
    """
    old = Run.open(config.source, pairs)
    served = None if index is None else check_replaceable(index, old, out)
    outcome = extract_again(config, out, pairs=pairs, report=report)
    compared = compare_runs(
        old,
        outcome.run,
        limits=limits,
        metric=served.metric if served else "cosine",
        queries=queries,
        progress=progress,
    )
    page, page_missing = _write_page(compared, outcome.run)
    version = None
    if index is not None:
        version = build_candidate(
            index,
            old,
            outcome.run,
            executor=config.executor,
            progress=lambda done, total: progress("index", done, total),
        ).version
        if compared.verdict.passed:
            promote(index, version)
    return Migration(outcome, compared, page, page_missing, version)


def _write_page(report: MigrationReport, new: Run) -> tuple[Path | None, str | None]:
    """The page that was written, or why none was: Matplotlib is an extra."""
    page = new.path / FOLDER / PAGE
    try:
        text = render(report)
    except InputError as error:
        page.unlink(missing_ok=True)  # of an earlier report
        return None, str(error)
    write_atomic(page, text.encode())
    return page, None


def extract_again(
    config: ExtractConfig,
    out: Path,
    *,
    pairs: Pairs = (),
    report: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Answer every row of the run ``config.source`` anew into the run ``out``: the same rows and ids.

    Images are read where the old run read them, and frames of videos are prepared as then. The same
    call continues, as ``extract`` does.

    Args:
        config: as ``extract`` takes it, with a run as its source; how that run read its own source
            is taken from it.
        out, pairs, report: as ``extract`` takes them.

    Raises:
        RunError: ``config.source`` is not a finished run, or ``out`` is the same folder or inside it.
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
        same = ("kind", "frames", "limit", "damaged")
        reading |= {name: getattr(earlier, name) for name in same}
    return extract(config.model_copy(update=reading), out, pairs=pairs, report=report)
