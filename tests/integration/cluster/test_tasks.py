"""Tasks on Ray and in child processes: results, errors, and the end of those that stall."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cluster.children import Child, ChildDiedError
from cluster.tasks import Tasks, tasks_of_session
from common.errors import StalledError, WorkError

THEN = "try again"


def _sleep_and_write(file: Path) -> None:
    time.sleep(8)
    file.touch()


@pytest.mark.ray
def test_tasks_that_stall_are_named_and_ended(ray_session: None, tmp_path: Path) -> None:
    ray_tasks = tasks_of_session("sleeping", cpus=2, then=THEN)  # of two: one at a time
    with pytest.raises(StalledError) as stalled:
        ray_tasks.run(_sleep_and_write, [tmp_path / "a", tmp_path / "b"], stall_seconds=2)
    for part in ("sleeping: ", "0 of 2 have ended and 1 run", "free: 0 of 2 CPU on ", THEN):
        assert part in str(stalled.value)
    time.sleep(9)
    assert list(tmp_path.iterdir()) == []  # they were ended, not only left


@pytest.mark.ray
def test_tasks_that_do_not_fit_are_named(ray_session: None) -> None:
    ray_tasks = tasks_of_session("large", cpus=3, then=THEN)
    with pytest.raises(
        StalledError, match=r"waiting for resources: 1 x 3 CPU; free: [012] of 2 CPU"
    ):
        ray_tasks.run(abs, [1], stall_seconds=3)


@pytest.mark.parametrize("where", ["children", pytest.param("ray", marks=pytest.mark.ray)])
def test_results_come_in_the_order_of_the_items(where: str, request: pytest.FixtureRequest) -> None:
    if where == "ray":
        request.getfixturevalue("ray_session")
        tasks = tasks_of_session("quick", cpus=0.5, then=THEN)
    else:
        tasks = Tasks("quick", 2, then=THEN)
    results = list[int]()
    assert tasks.run(abs, [-3, 2, -1], done=results.append) == [3, 2, 1]
    assert sorted(results) == [1, 2, 3]
    with pytest.raises(WorkError, match=f"^quick failed: TypeError: .*; {THEN}"):
        tasks.run(abs, ["x"])


def test_an_error_of_a_task_stays_what_it_is() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Tasks("files", 2, then=THEN).run(os.stat, ["/", "/nowhere", "/"])
    assert caught.value.filename == "/nowhere"


def test_a_child_that_dies_ends_the_others() -> None:
    with pytest.raises(WorkError, match=f"dying failed: .*exit code 7.*; {THEN}"):
        Tasks("dying", 2, then=THEN).run(os._exit, [7, 7, 7])


def test_a_child_answers_until_it_dies_or_takes_too_long() -> None:
    with Child() as child:
        assert [child.call(abs, number) for number in (-1, 2)] == [1, 2]
        with pytest.raises(TypeError):
            child.call(abs, "x")  # type: ignore[arg-type]
        assert child.call(abs, -5) == 5
        began = time.monotonic()
        with pytest.raises(ChildDiedError, match="took over 1 s"):
            child.call(time.sleep, 60, seconds=1)
        assert time.monotonic() - began < 30
        with pytest.raises(ChildDiedError):
            child.call(abs, 1)
