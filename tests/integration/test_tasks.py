"""The one loop that waits for Ray tasks: what it says when nothing moves, and what it ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.errors import StalledError, WorkError
from cluster.tasks import tasks_of_session

pytestmark = pytest.mark.ray

THEN = "try again"


def _sleep_and_write(file: Path) -> None:
    time.sleep(8)
    file.touch()


def test_tasks_that_do_not_end_are_told_and_ended(ray_session: None, tmp_path: Path) -> None:
    place = tasks_of_session("sleeping", cpus=2, then=THEN)  # of two: one at a time
    with pytest.raises(StalledError) as stalled:
        place.run(_sleep_and_write, [tmp_path / "a", tmp_path / "b"], stall_seconds=2)
    said = str(stalled.value)
    assert said.startswith(
        "sleeping: no task ended for 2 s; 0 of 2 have ended and 1 run or wait, each for 2 CPU; "
    )
    assert "; free: 0 of 2 CPU on " in said
    assert said.endswith(f"; {THEN}")
    time.sleep(9)
    assert list(tmp_path.iterdir()) == []  # they were ended, not only left


def test_tasks_without_a_place_are_told(ray_session: None) -> None:
    place = tasks_of_session("large", cpus=3, then=THEN)
    with pytest.raises(StalledError, match=r"waiting for a place: 1 x 3 CPU; free: [012] of 2 CPU"):
        place.run(abs, [1], stall_seconds=3)


def test_results_come_in_the_order_of_the_items(ray_session: None) -> None:
    place, heard = tasks_of_session("quick", cpus=0.5, then=THEN), []
    assert place.run(abs, [-3, 2, -1], done=heard.append) == [3, 2, 1]
    assert sorted(heard) == [1, 2, 3]
    with pytest.raises(WorkError, match=f"^quick failed: TypeError: .*; {THEN}"):
        place.run(abs, ["x"])
