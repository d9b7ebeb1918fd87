"""Marks of the blocks that were open when a process died."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.execution.blocks import OPEN, OpenBlocks


def marks(run: Path) -> set[str]:
    return {mark.name for mark in (run / OPEN).iterdir()}


def died_over(run: Path, name: str) -> None:
    """What a session leaves whose process ends while it works on a block."""
    with OpenBlocks(run).working_on(name):
        (mark,) = (run / OPEN).iterdir()
    mark.touch()


def test_a_block_is_marked_while_it_is_worked_on(tmp_path: Path) -> None:
    blocks = OpenBlocks(tmp_path)
    with blocks.working_on("part-00000") as died:
        assert not died
        with blocks.working_on("part-00003"):  # another lane's
            assert marks(tmp_path) == {"part-00000", "part-00003"}
        assert marks(tmp_path) == {"part-00000"}
    assert marks(tmp_path) == set()


def test_a_session_is_told_what_the_one_before_it_died_over(tmp_path: Path) -> None:
    died_over(tmp_path, "part-00000")
    now = OpenBlocks(tmp_path)
    with now.working_on("part-00001") as died:
        assert not died
    with now.working_on("part-00000") as died:
        assert died
    assert marks(tmp_path) == set()
    with OpenBlocks(tmp_path).working_on("part-00000") as died:
        assert not died


def test_a_block_that_fails_in_a_process_that_lives_leaves_no_mark(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), OpenBlocks(tmp_path).working_on("part-00000"):
        raise ValueError("wrong")
    assert marks(tmp_path) == set()


def test_what_was_open_before_stays_so_until_it_is_worked_on(tmp_path: Path) -> None:
    died_over(tmp_path, "part-00002")
    with OpenBlocks(tmp_path).working_on("part-00000"):
        pass
    assert marks(tmp_path) == {"part-00002"}
    with OpenBlocks(tmp_path).working_on("part-00002") as died:
        assert died


def test_a_mark_that_cannot_be_taken_away_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    with OpenBlocks(tmp_path).working_on("part-00000"):
        pass
    assert marks(tmp_path) == {"part-00000"}
