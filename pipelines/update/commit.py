"""The folder in which an update is answered, and how it becomes part of the run.

::

    RUN/update-0001/
      after.parquet   the run's whole plan as it will be, and which of its rows are answered
      request.json    from now on the update is finished before another is begun
      plan/, planned  the rows to answer, with row_ids of their own
      detections/     and all else that a run has while it is answered

Nothing that the run's manifest names is touched until the new manifest is written. Files get
names that no file had before, so a kill leaves either run whole, and files that no manifest names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.slots import Slots
from cluster.tasks import Tasks
from common.errors import VerifyError
from common.json_models import write_atomic, write_hashed
from common.moved import ImageRoot
from common.parquet import parquet_bytes, read_parquet, write_parquet
from common.storage import list_folder, make_folder, remove_folder
from pipelines.detections import IMAGE_HASH, with_column
from pipelines.execution.blocks import write_plan
from pipelines.outputs.finish import describe_run
from pipelines.outputs.hdf5 import shard_name, write_hdf5
from pipelines.request import Request
from pipelines.run import Run, RunManifest, SessionInfo
from pipelines.session import UpdateSummary
from pipelines.update.changes import ANSWER, VANISHED, Changes, differ

AFTER = "after.parquet"
PLANNED = "planned"  # the plan is whole
_FOLDER = re.compile(r"update-(\d{4,})")


@dataclass(frozen=True)
class Staged:
    """An update that is written down: what to answer, and the plan of the run afterwards."""

    run: Run
    folder: Path

    @cached_property
    def after(self) -> pa.Table:
        """The run's plan as it will be; row i has ``row_id`` i."""
        return read_parquet(self.folder / AFTER)

    @cached_property
    def answered(self) -> np.ndarray:
        """``row_id`` in the run of each row that is answered, ascending."""
        rows: np.ndarray = np.flatnonzero(self.after[ANSWER].to_numpy())
        return rows

    @property
    def summary(self) -> UpdateSummary:
        """What the update was found to be, when it was written down."""
        before, new = self.after.slice(0, len(self.run)), self.after.slice(len(self.run))
        return UpdateSummary(
            new=tuple(pc.unique(new["image"]).to_pylist()),
            changed=tuple(pc.unique(before.filter(before[ANSWER])["image"]).to_pylist()),
            vanished=tuple(pc.unique(before.filter(before[VANISHED])["image"]).to_pylist()),
            answered=len(self.answered),
        )

    def cut(self, request: Request, slots: Slots) -> None:
        """Write the plan of the rows to answer, unless an earlier session has.

        Args:
            request: of the update.
            slots: that will answer.
        """
        if (self.folder / PLANNED).is_file():
            return
        rows = _bare(self.after.take(pa.array(self.answered)))
        ids = pa.array(np.arange(rows.num_rows, dtype=np.int64))
        rows = with_column(rows, "row_id", ids)
        write_plan(self.folder / "plan", rows.combine_chunks(), request, slots)
        write_atomic(self.folder / PLANNED, b"")


def staged_update(run: Run) -> Staged | None:
    """The update of a run that was begun and not finished; removes those that were finished."""
    for folder in list_folder(run.path, "update-*"):
        match = _FOLDER.fullmatch(folder.name)
        if match is None:
            continue
        current = int(match[1]) == run.manifest.updates + 1
        if current and (folder / "request.json").is_file():
            return Staged(run, folder)
        remove_folder(folder)
    return None


def stage(run: Run, changes: Changes, request: Request) -> Staged:
    """Write down what an update is to answer.

    Args:
        run: finished.
        changes: of ``find_changes``.
        request: of the run, with the inputs of the source as it is now.
    """
    folder = run.path / f"update-{run.manifest.updates + 1:04d}"
    remove_folder(folder)
    make_folder(folder)
    write_parquet(changes.plan, folder / AFTER)
    write_hashed(folder / "request.json", request)
    return Staged(run, folder)


def commit(
    staged: Staged,
    request: Request,
    images: ImageRoot,
    *,
    seconds: Callable[[], float],
    session: SessionInfo | None,
    tasks: Callable[[str], Tasks],
    check: Callable[[], None],
    done: Callable[[int], None],
) -> RunManifest:
    """Make an update, whose rows are all answered, part of the run.

    Args:
        staged: the update.
        request: of the run from now on.
        images: where they are.
        seconds: that the command has taken.
        session: that answered; None where nothing was to answer.
        tasks: makes tasks of that name, which write HDF5 and read many files.
        check: raises an error where another session has taken the run over.
        done: receives the number of rows counted.

    Raises:
        VerifyError: a file of the run is damaged; the run is what it was.
        StalledError, WorkError: of the tasks.
    """
    run, old = staged.run, staged.run.manifest
    number, after = old.updates + 1, staged.after
    files = _write_detections(staged, f"update-{number:04d}")
    plan = run.path / "plan" / f"update-{number:04d}.parquet"
    make_folder(plan.parent)
    write_parquet(_bare(after), plan)
    if request.config.hdf5:
        kept = frozenset(file.stem for file in run.files() if _has_shard(run, shard_name(file)))
        write_hdf5(run.path, request, tasks("hdf5"), files=files, kept=kept)
    manifest = describe_run(
        run.path,
        images.folder,
        request,
        pairs=images.pairs,
        planned=after.num_rows,
        seconds=0.0,
        session=session or old.session,
        files=[*files, plan],
        tasks=lambda: tasks("checking"),
        done=done,
    )
    _check_kept(run, manifest)
    vanished = int(pc.sum(after[VANISHED]).as_py())
    manifest = manifest.model_copy(
        update={"updates": number, "vanished": vanished, "seconds": seconds()}
    )
    check()
    manifest.write(run.path)
    write_hashed(run.path / "request.json", request)
    remove_leftovers(run.path, manifest)
    remove_folder(staged.folder)
    return manifest


def _has_shard(run: Run, name: str) -> bool:
    """Whether an HDF5 file of the run is whole; one that is damaged is written anew."""
    with suppress(VerifyError):
        return name in run.manifest.files and run.check(run.path / name).is_file()
    return False


def _check_kept(run: Run, manifest: RunManifest) -> None:
    """Check that files of the run that stay are those of its manifest until now."""
    kept = manifest.files.keys() & {f"detections/{file.name}" for file in run.files()}
    for name in kept:
        if manifest.files[name] != run.manifest.files[name]:
            raise VerifyError(
                f"{run.path / name} does not match its sha256 in the manifest; nothing was updated"
            )


def remove_leftovers(out: Path, manifest: RunManifest) -> None:
    """Delete data files that the manifest does not name: they were of the run before an update."""
    for folder in ("detections", "plan", "hdf5"):
        for file in list_folder(out / folder):
            if f"{folder}/{file.name}" not in manifest.files:
                file.unlink(missing_ok=True)


def _write_detections(staged: Staged, prefix: str) -> list[Path]:
    """Write the files that change, and those that are new; all files of the run afterwards."""
    run = staged.run
    make_folder(run.path / "detections")
    answers = _Answers(staged)
    files: list[Path] = []
    written = 0

    def write(table: pa.Table) -> None:
        nonlocal written
        file = run.path / "detections" / f"{prefix}-{written:05d}.parquet"
        write_atomic(file, parquet_bytes(table, compression="zstd").to_pybytes())
        files.append(file)
        written += 1

    for file in run.files():
        table = _rewritten(staged, file, answers)
        if table is None:
            files.append(file)
        else:
            write(table)
    for table in answers.of_new_rows(len(run)):
        write(table)
    return files


def _rewritten(staged: Staged, file: Path, answers: _Answers) -> pa.Table | None:
    """A file of the run with its rows as they are now; None where they are the same."""
    run = staged.run
    # Rows have more errors than plans.
    planned = [name for name in _bare(staged.after).column_names if name != "error"]
    table = read_parquet(run.check(file)).replace_schema_metadata(None)
    rows = table["row_id"].to_numpy()
    now = staged.after.take(pa.array(rows)).select(planned)
    if "timestamp" in planned:  # else of the image's EXIF data, which only an answer knows
        times = pc.coalesce(now["timestamp"], table["timestamp"])
        now = with_column(now, "timestamp", times)
    results = [name for name in table.column_names if name not in planned]
    again = np.isin(rows, staged.answered)
    if not again.any() and IMAGE_HASH in table.column_names and _equal(now, table.select(planned)):
        return None
    for result in results:
        now = now.append_column(table.schema.field(result), table[result])
    if not again.any():
        return now
    answered = answers.of(rows[again]).select(now.column_names).cast(now.schema)
    order = np.arange(len(rows))
    order[again] = len(rows) + np.arange(int(again.sum()))
    return pa.concat_tables([now, answered]).take(pa.array(order)).combine_chunks()


def _bare(plan: pa.Table) -> pa.Table:
    return plan.drop_columns([ANSWER, VANISHED])


def _equal(a: pa.Table, b: pa.Table) -> bool:
    return all(not differ(a[name], b[name]).any() for name in a.column_names)


class _Answers:
    """What an update answered, with the ``row_id`` that the rows have in the run."""

    def __init__(self, staged: Staged) -> None:
        self._staged = staged
        files = Run.open(staged.folder).files() if len(staged.answered) else []
        self._rows = [
            (file, staged.answered[read_parquet(file, columns=["row_id"])["row_id"].to_numpy()])
            for file in files
        ]

    def of(self, rows: np.ndarray) -> pa.Table:
        """The answers of some rows, in their order."""
        parts = [
            self._read(file, own).filter(pa.array(np.isin(own, rows)))
            for file, own in self._rows
            if np.isin(own, rows).any()
        ]
        table = pa.concat_tables(parts)
        stored = table["row_id"].to_numpy()
        order = np.argsort(stored)
        return table.take(pa.array(order[np.searchsorted(stored[order], rows)]))

    def of_new_rows(self, first: int) -> Iterator[pa.Table]:
        """The answers of rows from ``first`` on, file by file."""
        for file, own in self._rows:
            if (own >= first).any():
                yield self._read(file, own).filter(pa.array(own >= first)).combine_chunks()

    def _read(self, file: Path, rows: np.ndarray) -> pa.Table:
        table = read_parquet(file).replace_schema_metadata(None)
        return with_column(table, "row_id", pa.array(rows))
