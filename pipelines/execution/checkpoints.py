"""What is written for good: data files and their checkpoints, brought in line after any fault.

Ray Data writes ``checkpoint/ID.pending.parquet``, then ``detections/ID-N.parquet``, and then renames
the checkpoint to ``checkpoint/ID.parquet``; in an object store that is a copy and a deletion. That is
right while each happens once and by one process at a time. Where a process dies in between and its
task is given to another, or a driver dies before its writers do, Ray would lose rows or write them
twice:

=========================================  ============================================
what stands there                          what it means, and what is done
=========================================  ============================================
pending and committed, of one name         its task was given out again after the commit, or the
                                           rename was half done; the file may be half written anew:
                                           both go, and the file
pending alone                              the writer died: it goes, and the file
a file without a checkpoint                its writer outlived its driver: it goes
a checkpoint without a whole file          a disk or a late writer broke it: both go
=========================================  ============================================

What goes is done again. Only rows are lost that way which nothing vouches for.

The local executor writes ``detections/PART.parquet``, named as the part of the plan that it answers.
It appears whole, by a rename or by the end of an upload, and is its own commit. Before Ray goes
on with such a run each of these gets a checkpoint (``adopt``).
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from common.errors import DamagedFileError
from common.json_models import drop_drafts, write_atomic
from common.parquet import open_parquet, parquet_bytes, read_parquet
from common.storage import list_folder, make_folder
from pipelines.execution.blocks import PART

PENDING = ".pending"
_AT_ONCE = 16  # in an object store each is two requests, and a large run has thousands


def committed_rows(out: Path) -> int:
    """Rows that are written for good; pending checkpoints are not counted."""
    done = _checkpoints(out)
    own = [file for file in _local_files(out) if file.stem not in done]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return sum(rows or 0 for rows in pool.map(_rows, [*done.values(), *own]))


class Reconciled(NamedTuple):
    """What ``reconcile`` left, in rows."""

    again: int  # that lost their checkpoint, and must be done again
    committed: int  # as ``committed_rows`` counts them, without reading every checkpoint once more


def reconcile(out: Path) -> Reconciled:
    """Leave whole files with their checkpoints alone, and nothing else.

    Only while no writer is at work on ``out``.
    """
    for folder in (out, out / "detections", out / "checkpoint"):
        drop_drafts(folder)
    done, undone = _checkpoints(out), _checkpoints(out, pending=True)
    files: dict[str, list[Path]] = {}
    for file in list_folder(out / "detections", "*.parquet"):
        files.setdefault(_task(file), []).append(file)
    own = [file for file in _local_files(out) if file.stem not in done]
    for file in own:
        del files[_task(file)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        wanted = dict(zip(done, pool.map(_rows, done.values()), strict=True))
        stored = dict(zip(done, pool.map(lambda n: _stored(files.get(n, [])), done), strict=True))
        own_rows = list(pool.map(_rows, own))
    broken = {name for name in done if wanted[name] is None or wanted[name] != stored[name]}
    again = 0
    for name in sorted(broken | (done.keys() & undone.keys())):
        again += wanted[name] or 0
        # First: without it the rest is of a writer that died, whenever this is interrupted.
        done.pop(name).unlink()
    for name in sorted(files.keys() - done.keys()):
        for file in files[name]:
            file.unlink()
    for file in undone.values():
        file.unlink()
    for file, rows in zip(own, own_rows, strict=True):
        if rows is None:  # a disk broke it
            file.unlink()
    committed = sum(wanted[name] or 0 for name in done) + sum(rows or 0 for rows in own_rows)
    return Reconciled(again, committed)


def times_written(out: Path, planned: int) -> np.ndarray:
    """In how many files each planned row stands, uint8 ``[planned]``; after ``reconcile``."""
    times = np.zeros(planned, dtype=np.uint8)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for ids in pool.map(_row_ids, list_folder(out / "detections", "*.parquet")):
            np.add.at(times, ids, 1)
    return times


class Part(NamedTuple):
    """One part of a plan that is not answered, or not wholly."""

    file: Path  # of the plan
    rows: int  # that are left
    left: np.ndarray | None  # places of the rows that are not; None: none of them is

    @property
    def name(self) -> str:
        return self.file.stem

    def read(self) -> pa.Table:
        """The rows that are left."""
        rows = read_parquet(self.file)
        return rows if self.left is None else rows.take(pa.array(self.left))


def remaining(out: Path, planned: int) -> list[Part]:
    """What is left of the plan, after ``reconcile``, in its order.

    A part that is not wholly there and has a file of the local executor loses the file: what
    it held is answered again, because two files of a part would have one name.
    """
    times = times_written(out, planned)
    own = {file.stem: file for file in _local_files(out)}
    checkpoints = _checkpoints(out)
    parts: list[Part] = []
    begin = 0
    for file in list_folder(out / "plan", f"{PART}*.parquet"):
        with open_parquet(file) as plan:
            end = begin + int(plan.metadata.num_rows)
        if file.stem in own and not times[begin:end].all():
            np.subtract.at(times, _row_ids(own[file.stem]), 1)
            if file.stem in checkpoints:
                checkpoints[file.stem].unlink()
            own[file.stem].unlink()
        left = np.flatnonzero(times[begin:end] == 0)
        if len(left):
            parts.append(Part(file, len(left), None if len(left) == end - begin else left))
        begin = end
    return parts


def adopt(out: Path) -> None:
    """Give each file of the local executor a checkpoint, so that Ray leaves its rows alone."""
    done = _checkpoints(out)
    own = [file for file in _local_files(out) if file.stem not in done]
    if own:
        make_folder(out / "checkpoint")

    def checkpoint(file: Path) -> None:
        rows = parquet_bytes(read_parquet(file, columns=["row_id"]))
        write_atomic(out / "checkpoint" / file.name, rows.to_pybytes())

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(checkpoint, own))


def drop_repeats(out: Path) -> int:
    """Delete files all of whose rows stand in others as well; returns their number.

    A writer of an earlier session may commit after this one has read what was committed: then
    its block is done twice. The answers are the same.
    """
    files = list_folder(out / "detections", "*.parquet")
    rows = [_row_ids(file).tolist() for file in files]
    seen = Counter(row for part in rows for row in part)
    checkpoints = _checkpoints(out)
    dropped = 0
    for file, part in zip(files, rows, strict=True):
        if part and all(seen[row] > 1 for row in part):
            seen.subtract(part)
            if _task(file) in checkpoints:
                checkpoints[_task(file)].unlink(missing_ok=True)
            file.unlink()
            dropped += 1
    return dropped


def _checkpoints(out: Path, *, pending: bool = False) -> dict[str, Path]:
    """Checkpoint files by the write task that they are of."""
    return {
        file.stem.removesuffix(PENDING): file
        for file in list_folder(out / "checkpoint", "*.parquet")
        if (PENDING in file.name) == pending
    }


def _task(file: Path) -> str:
    """The write task of a data file: Ray adds a number to each file of a task."""
    return file.stem if file.name.startswith(PART) else file.stem.rpartition("-")[0]


def _local_files(out: Path) -> list[Path]:
    """Files that the local executor wrote."""
    return list_folder(out / "detections", f"{PART}*.parquet")


def _stored(files: list[Path]) -> int:
    """Rows of a task's files; -1 where there is none or one is not whole."""
    rows = [_rows(file) for file in files]
    return sum(row for row in rows if row is not None) if rows and None not in rows else -1


def _row_ids(file: Path) -> np.ndarray:
    ids: np.ndarray = read_parquet(file, columns=["row_id"])["row_id"].to_numpy()
    return ids


def _rows(file: Path) -> int | None:
    """Rows by the footer, which is written last; None where the file is not whole."""
    try:
        with open_parquet(file) as parquet:
            return int(parquet.metadata.num_rows)
    except (DamagedFileError, FileNotFoundError):
        return None
