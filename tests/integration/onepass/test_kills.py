"""A sample of ``benchmarks.kills``: commands that are killed and given again lose and repeat nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.kills import WHAT, kill
from tests.helpers.fork_server import Ended, ForkServer
from tests.helpers.indexes import embeddings, make_run
from tests.helpers.kills import Findings, Moment, compare_runs, kill_command

# Ray takes ten seconds a kill; tests/integration/pipelines/test_resume.py kills it.
SAMPLE = [what for what in WHAT if what != "extract-ray"]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    temporary = tmp_path_factory.mktemp("tmp")
    env = {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    with ForkServer(command_line=True, env=env) as server:
        yield server
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("what", SAMPLE)
def test_killed_and_given_again(what: str, forks: ForkServer, tmp_path: Path) -> None:
    found = kill(what, 2, 7, tmp_path / what, forks, rows=100, vectors=600)
    assert found.kills >= 2
    assert found.is_clean, found


class Forgetful:
    """A command that leaves other rows where it was killed."""

    def __init__(self, rows: list[str]) -> None:
        self.rows = rows

    def prepare(self, folder: Path) -> None:
        names = ["d0", "d1", "d2"] if folder.name == "undisturbed" else self.rows
        make_run(folder, embeddings(len(names)))

    def run(self, folder: Path, log: Path, moment: Moment) -> Ended:
        return Ended(-9 if "after" in moment else 0, 0.1, 0)

    def check_killed(self, folder: Path, found: Findings) -> None:
        pass

    def check(self, folder: Path, undisturbed: Path, found: Findings) -> None:
        compare_runs(folder, undisturbed, found)


def test_what_is_lost_or_twice_is_counted(tmp_path: Path) -> None:
    (tmp_path / "lost").mkdir()
    dice = random.Random(1)  # noqa: S311
    lost = kill_command(Forgetful(["d0", "d1"]), tmp_path / "lost", 1, dice)
    assert (lost.lost, lost.twice) == (1, 0)
    assert not lost.is_clean
    (tmp_path / "whole").mkdir()
    assert kill_command(Forgetful(["d0", "d1", "d2"]), tmp_path / "whole", 1, dice).is_clean
    found = Findings()
    found.compare(["a", "a", "c"], ["a", "b"])
    assert (found.lost, found.twice, len(found.wrong)) == (1, 1, 1)
