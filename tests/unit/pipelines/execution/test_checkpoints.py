"""Data files and checkpoints after writers that died anywhere: what is left is whole."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.execution import checkpoints
from pipelines.execution.checkpoints import (
    adopt,
    committed_rows,
    drop_repeats,
    reconcile,
    remaining,
    times_written,
)


def write(out: Path, task: str, rows: range, *, pending: bool = False) -> None:
    for folder in ("checkpoint", "detections"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    ids = pa.table({"row_id": list(rows)})
    pq.write_table(ids, out / "checkpoint" / f"{task}{'.pending' if pending else ''}.parquet")
    pq.write_table(ids, out / "detections" / f"{task}-0.parquet")


def stored(out: Path) -> list[int]:
    files = sorted((out / "detections").glob("*.parquet"))
    return sorted(row for file in files for row in pq.read_table(file)["row_id"].to_pylist())


def test_a_run_that_did_not_begin_is_left_alone(tmp_path: Path) -> None:
    assert reconcile(tmp_path) == (0, 0)
    assert committed_rows(tmp_path) == 0


def test_a_block_done_twice_is_kept_once(tmp_path: Path) -> None:
    write(tmp_path, "a_000000", range(10))
    write(tmp_path, "b_000000", range(10))
    write(tmp_path, "b_000001", range(10, 20))
    assert drop_repeats(tmp_path) == 1
    assert stored(tmp_path) == list(range(20))
    assert committed_rows(tmp_path) == 20
    assert drop_repeats(tmp_path) == 0


PART_ROWS = 10
HALF = PART_ROWS // 2


class Folder:
    """A run of some parts of ten rows each, to which either executor has written."""

    def __init__(self, out: Path, parts: int) -> None:
        self.out, self.planned = out, parts * PART_ROWS
        for folder in ("plan", "checkpoint", "detections"):
            (out / folder).mkdir(parents=True)
        for part in range(parts):
            pq.write_table(ids(self.rows(part)), out / "plan" / f"{named(part)}.parquet")

    @staticmethod
    def rows(part: int) -> range:
        return range(part * PART_ROWS, (part + 1) * PART_ROWS)

    def own(self, part: int, rows: range, *, adopted: bool = False) -> Path:
        """The local executor's file of a part."""
        file = self.out / "detections" / f"{named(part)}.parquet"
        pq.write_table(ids(rows), file)
        if adopted:
            pq.write_table(ids(rows), self.out / "checkpoint" / file.name)
        return file

    def ray(self, part: int, rows: range, *, pending: bool = False) -> None:
        write(self.out, f"w_{part:06d}", rows, pending=pending)

    def checkpoints(self) -> dict[str, list[int]]:
        files = sorted((self.out / "checkpoint").iterdir())
        return {file.stem: pq.read_table(file)["row_id"].to_pylist() for file in files}

    def answer(self) -> None:
        """What the local executor does with the parts that are left."""
        for part in remaining(self.out, self.planned):
            pq.write_table(part.read(), self.out / "detections" / f"{part.name}.parquet")


def named(part: int) -> str:
    return f"part-{part:05d}"


def ids(rows: range) -> pa.Table:
    return pa.table({"row_id": pa.array(rows, pa.int64())})


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def garble(file: Path) -> None:
    """A footer that makes no sense."""
    data = file.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little")
    file.write_bytes(data[: -8 - footer] + b"\xff" * footer + data[-8:])


def keep_one_row(file: Path) -> None:
    pq.write_table(pq.read_table(file).slice(0, 1), file)


def give_out_again(checkpoint: Path) -> None:
    """A task that begins once more after its commit writes its pending checkpoint first."""
    shutil.copy(checkpoint, checkpoint.with_suffix(".pending.parquet"))


class State(NamedTuple):
    """What stands of the ten rows of a part, and what is made of it; {p} is the part."""

    own: slice | None = None  # rows of the local executor's file
    ray: slice | None = None  # rows of Ray's file
    adopted: bool = False  # the own file has a checkpoint
    pending: bool = False  # Ray's checkpoint is not committed
    harm: tuple[str, Callable[[Path], None]] | None = None  # a file, and what is done to it
    again: int = 0  # rows that ``reconcile`` tells of
    committed: int = 0  # after it
    left: int = PART_ROWS  # after ``remaining``: more, where half a part cannot keep its file
    kept: tuple[str, ...] = ()  # stems of data files after ``remaining``

    def make(self, folder: Folder, part: int) -> None:
        if self.ray:
            folder.ray(part, folder.rows(part)[self.ray], pending=self.pending)
        if self.own:
            folder.own(part, folder.rows(part)[self.own], adopted=self.adopted)
        if self.harm:
            file, harm = self.harm
            harm(folder.out / f"{file.format(p=part)}.parquet")


ALL, FIRST, REST = slice(0, PART_ROWS), slice(0, HALF), slice(HALF, PART_ROWS)
OWN, RAYS = "part-{p:05d}", "w_{p:06d}-0"
DATA, CHECKPOINT = f"detections/{OWN}", f"checkpoint/{OWN}"
RAYS_DATA, RAYS_CHECKPOINT = f"detections/{RAYS}", "checkpoint/w_{p:06d}"
STATES = (
    State(),
    State(ALL, committed=10, left=0, kept=(OWN,)),
    State(ALL, adopted=True, committed=10, left=0, kept=(OWN,)),
    State(ALL, harm=(DATA, cut_off)),
    State(ALL, adopted=True, harm=(DATA, cut_off), again=10),
    State(ALL, adopted=True, harm=(DATA, Path.unlink), again=10),
    State(ALL, adopted=True, harm=(CHECKPOINT, cut_off)),
    State(ray=ALL, committed=10, left=0, kept=(RAYS,)),
    State(ray=ALL, pending=True),  # the writer died before the commit
    State(ray=ALL, pending=True, harm=(RAYS_DATA, Path.unlink)),  # and before its file
    State(ray=ALL, harm=(RAYS_CHECKPOINT, give_out_again), again=10),
    State(ray=ALL, harm=(RAYS_CHECKPOINT, Path.unlink)),  # a writer that outlived its driver
    State(ray=ALL, harm=(RAYS_DATA, cut_off), again=10),
    State(ray=ALL, harm=(RAYS_DATA, garble), again=10),
    State(ray=ALL, harm=(RAYS_DATA, keep_one_row), again=10),
    State(ray=ALL, harm=(RAYS_DATA, Path.unlink), again=10),
    State(ray=FIRST, committed=5, left=5, kept=(RAYS,)),
    State(REST, FIRST, committed=10, left=0, kept=(OWN, RAYS)),
    State(REST, FIRST, adopted=True, committed=10, left=0, kept=(OWN, RAYS)),
    State(REST, FIRST, harm=(DATA, cut_off), committed=5, left=5, kept=(RAYS,)),
    State(REST, FIRST, harm=(RAYS_DATA, cut_off), again=5, committed=5),
    State(REST, FIRST, adopted=True, harm=(RAYS_DATA, cut_off), again=5, committed=5),
)


def test_states_of_two_parts_do_not_touch_each_other(tmp_path: Path) -> None:
    for number, states in enumerate(itertools.combinations_with_replacement(STATES, 2)):
        folder = Folder(tmp_path / str(number), len(states))
        for part, state in enumerate(states):
            state.make(folder, part)
        again, committed = reconcile(folder.out)
        assert again == sum(each.again for each in states), states
        assert committed == sum(each.committed for each in states), states
        assert committed_rows(folder.out) == committed, states
        assert reconcile(folder.out) == (0, committed), states
        assert (times_written(folder.out, folder.planned) > 0).sum() == committed, states
        left = [
            row for part in remaining(folder.out, 20) for row in part.read()["row_id"].to_pylist()
        ]
        of_each = [len([row for row in left if row in folder.rows(part)]) for part in range(2)]
        assert of_each == [each.left for each in states], states
        assert sorted([*stored(folder.out), *left]) == list(range(20)), states
        kept = {name.format(p=part) for part, each in enumerate(states) for name in each.kept}
        assert {file.stem for file in (folder.out / "detections").iterdir()} == kept, states
        shutil.rmtree(folder.out)


def everything(out: Path) -> Folder:
    folder = Folder(out, len(STATES))
    for part, state in enumerate(STATES):
        state.make(folder, part)
    return folder


def copy(folder: Folder, out: Path) -> Folder:
    copied = Folder(out, 0)
    shutil.copytree(folder.out, out, dirs_exist_ok=True)
    copied.planned = folder.planned
    return copied


def test_parts_are_left_whole_or_by_the_rows_that_are_missing(tmp_path: Path) -> None:
    folder = everything(tmp_path)
    reconcile(tmp_path)
    left = {part.name: part.left for part in remaining(tmp_path, folder.planned)}
    for number, expected in enumerate(STATES):
        if not expected.left:
            assert named(number) not in left
        elif expected.left == PART_ROWS:
            assert left[named(number)] is None
        else:
            rest = left[named(number)]
            assert rest is not None
            assert rest.tolist() == list(range(HALF, PART_ROWS))
    assert list(left) == sorted(left)  # in the order of the plan


def test_either_executor_ends_what_the_other_began(tmp_path: Path) -> None:
    folder = everything(tmp_path)
    reconcile(tmp_path)
    folder.answer()
    assert reconcile(tmp_path) == (0, folder.planned)
    assert remaining(tmp_path, folder.planned) == []
    assert (times_written(tmp_path, folder.planned) == 1).all()
    assert stored(tmp_path) == list(range(folder.planned))
    adopt(tmp_path)  # Ray goes on, and has nothing left to do
    rows = [row for rows in folder.checkpoints().values() for row in rows]
    assert sorted(rows) == list(range(folder.planned))
    assert committed_rows(tmp_path) == folder.planned
    assert reconcile(tmp_path) == (0, folder.planned)


def test_adopting_names_each_row_of_a_file_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path, 3)
    folder.own(0, folder.rows(0))
    folder.own(1, folder.rows(1)[HALF:])
    folder.ray(1, folder.rows(1)[:HALF])
    adopt(tmp_path)
    wanted = {
        "part-00000": list(folder.rows(0)),
        "part-00001": list(folder.rows(1)[HALF:]),
        "w_000001": list(folder.rows(1)[:HALF]),
    }
    assert folder.checkpoints() == wanted
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "checkpoint").iterdir()}
    adopt(tmp_path)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert folder.checkpoints() == wanted


def test_adopting_needs_no_folder_and_makes_none_for_nothing(tmp_path: Path) -> None:
    adopt(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "detections").mkdir()
    pq.write_table(ids(range(3)), tmp_path / "detections" / "part-00000.parquet")
    adopt(tmp_path)
    assert pq.read_table(tmp_path / "checkpoint" / "part-00000.parquet").num_rows == 3


def test_going_on_may_be_interrupted_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any deletion and any checkpoint: the next session has every row once."""
    unlink, written = Path.unlink, checkpoints.write_atomic
    interrupted = 0
    begun = everything(tmp_path / "begun")
    for after in itertools.count():
        folder = copy(begun, tmp_path / str(after))
        left = after

        def living() -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1

        def dying(self: Path, missing_ok: bool = False) -> None:
            living()
            unlink(self, missing_ok)

        def dying_before(file: Path, data: bytes) -> None:
            living()
            written(file, data)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", dying)
            patched.setattr(checkpoints, "write_atomic", dying_before)
            try:
                reconcile(folder.out)
                folder.answer()
                adopt(folder.out)
                break  # every point at which it can be interrupted was one
            except KeyboardInterrupt:
                interrupted += 1
        reconcile(folder.out)
        folder.answer()
        assert stored(folder.out) == list(range(folder.planned))
        assert reconcile(folder.out) == (0, folder.planned)
        shutil.rmtree(folder.out)
    assert interrupted > 15


@pytest.mark.parametrize("adopted", [False, True])
def test_a_block_that_both_executors_did_is_kept_once(tmp_path: Path, adopted: bool) -> None:
    folder = Folder(tmp_path, 2)
    folder.own(0, folder.rows(0), adopted=adopted)
    folder.own(1, folder.rows(1))
    folder.ray(0, folder.rows(0))
    assert reconcile(tmp_path) == (0, 30)
    assert drop_repeats(tmp_path) == 1
    assert stored(tmp_path) == list(range(20))
    assert reconcile(tmp_path) == (0, 20)
    assert remaining(tmp_path, folder.planned) == []
