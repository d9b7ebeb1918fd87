"""What earlier sessions of a run have committed, and what they left half done.

Ray Data writes ``checkpoint/ID.pending.parquet``, then ``detections/ID-N.parquet``, then moves the
checkpoint to ``checkpoint/ID.parquet``. Its next session deletes what is pending, with the data. In
an object store a move is a copy and a deletion: a process that dies between the two leaves both,
and that session would delete data whose rows it takes for done. So both are settled before.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.storage import listed, open_parquet

_COMMITTED = ".parquet"
_PENDING = ".pending.parquet"
_AT_ONCE = 16  # in an object store each is two requests, and a large run has thousands


def committed_rows(out: Path) -> int:
    """Rows that earlier sessions committed; pending checkpoints are not counted."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return sum(pool.map(_rows, _named(out, pending=False).values()))


def settle_checkpoint(out: Path) -> None:
    """Make what is stored agree, so that the rows of every committed checkpoint stand once.

    Rows are asked for again where there is a doubt: where a checkpoint is committed and still
    pending, where it is committed and its data is gone, and where data belongs to none.
    The order of the deletions is such that a process may die after any of them.
    """
    committed, pending = _named(out, pending=False), _named(out, pending=True)
    data: dict[str, list[Path]] = {}
    for file in listed(out / "detections", "*.parquet"):
        data.setdefault(file.stem.rpartition("-")[0], []).append(file)
    for name, file in committed.items():
        # Data of one that is pending may be of a second try, which may have been cut off.
        if name in pending or name not in data:
            file.unlink()
    for name, files in data.items():
        if name not in committed and name not in pending:
            for file in files:
                file.unlink()


def _rows(file: Path) -> int:
    with open_parquet(file) as parquet:
        rows: int = parquet.metadata.num_rows
    return rows


def _named(out: Path, *, pending: bool) -> dict[str, Path]:
    return dict(_checkpoints(out, pending=pending))


def _checkpoints(out: Path, *, pending: bool) -> Iterator[tuple[str, Path]]:
    for file in listed(out / "checkpoint", f"*{_COMMITTED}"):
        if file.name.endswith(_PENDING) == pending:
            yield file.name.removesuffix(_PENDING if pending else _COMMITTED), file
