"""Faults on a cluster of three nodes: the rows are those of an undisturbed run, each once."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.chaos import NODES, SLOTS, SLOW_SECONDS, Chaos
from tests.helpers.faults import INSIDE, KINDS, environment
from tests.helpers.ray_cluster import cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

ROWS = 2000
HANG_SECONDS = 280


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    work = tmp_path_factory.mktemp("chaos")
    (work / "faults").mkdir()
    (work / "faults" / "slow").write_text(str(SLOW_SECONDS))
    with cluster(*[SLOTS] * NODES, env=environment(work / "faults")) as nodes:
        chaos = Chaos(nodes, work, ROWS, random.Random(0), HANG_SECONDS)  # noqa: S311
        undisturbed = chaos.run()
        assert undisturbed.is_whole, undisturbed
        yield chaos


def leave(chaos: Chaos, token: str) -> Path:
    """Leave a fault that happens again until its file is removed."""
    file = chaos.work / "faults" / f"{token}@always"
    file.touch()
    return file


def test_writers_and_models_that_fail_once_are_replaced(chaos: Chaos) -> None:
    ran = chaos.run([(0, 0, kind) for kind in INSIDE])
    assert sorted(ran.happened) == sorted(INSIDE)
    assert ran.commands == 1, ran.errors
    assert ran.is_whole, ran
    assert re.search(
        r"\d times a block was tried again after an error: (RuntimeError: one of|OSError: )",
        ran.log,
    )


def test_processes_and_a_node_that_die_are_replaced(chaos: Chaos) -> None:
    kinds = ["forward actor killed", "progress actor killed", "worker killed", "node killed"]
    ran = chaos.run([(number + 1, 0, kind) for number, kind in enumerate(kinds)])
    assert ran.happened == kinds
    assert ran.commands == 1, ran.errors
    assert ran.is_whole, ran


def test_an_error_of_every_block_ends_soon_and_in_one_line(chaos: Chaos) -> None:
    always = leave(chaos, "forward@raise")
    ran = chaos.run(most_commands=1)
    always.unlink()
    assert not ran.hangs
    (error,) = ran.errors[:1]
    assert error.startswith("1: error: extraction failed: RuntimeError: one of a thousand batches")
    assert "Traceback" not in ran.log
    assert not ran.left


@pytest.mark.long
@pytest.mark.parametrize(("stage", "token"), [("forward", "forward@kill"), ("write", "write@kill")])
def test_a_block_that_kills_every_process_ends_the_run_with_its_rows(
    chaos: Chaos, stage: str, token: str
) -> None:
    always = leave(chaos, token)
    ran = chaos.run(most_commands=1)
    always.unlink()
    assert not ran.hangs
    assert f"4 processes died in {stage}, one after the other, over rows" in ran.errors[0]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_alone(chaos: Chaos, kind: str) -> None:
    if kind == "object store filled":
        pytest.skip("needs a second driver; benchmarks/faults.py does it")
    ran = chaos.run([(0 if kind in INSIDE else 2, 0, kind)])
    assert ran.happened == [kind]
    assert ran.commands == (2 if kind == "driver killed" else 1), ran.errors
    assert ran.is_whole, ran


@pytest.mark.long
def test_a_driver_killed_again_and_again(chaos: Chaos) -> None:
    ran = chaos.run([(number, 0, "driver killed") for number in (1, 4, 8, 12)])
    assert ran.commands == 5, ran.errors
    assert ran.is_whole, ran
