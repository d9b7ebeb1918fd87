"""Slots: nothing may starve, whatever the size of the cluster."""

from __future__ import annotations

import pytest
import ray

from cluster.session import plan_slots, session, store_bytes
from common.errors import ClusterError


@pytest.mark.parametrize("cpus", [2, 3, 4, 8, 16, 64, 512])
@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_filter_and_two_tasks_fit_beside_all_actors(cpus: int, gpus: int) -> None:
    slots = plan_slots(cpus, gpus)
    taken = slots.actors * slots.cpus_per_actor
    assert taken + 1 + 2 * slots.cpus_per_task <= cpus + 1e-9
    assert slots.actors == (gpus or cpus)
    assert slots.gpus_per_actor == (1.0 if gpus else 0.0)


def test_one_actor_a_core_where_cores_are_known() -> None:
    assert plan_slots(4, 0, cores=2).actors == 2


def test_too_small_a_cluster_is_refused() -> None:
    with pytest.raises(ClusterError, match="has 1 logical CPUs, extraction needs 2"):
        plan_slots(1, 0)


def test_a_start_that_takes_ray_too_long_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup. This could be\nanything")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests may hold a session
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(ClusterError, match=r"timed out during startup.*; a machine that is very b"):
        session().__enter__()


GIB = 2**30


@pytest.mark.parametrize(
    ("slots", "memory", "shm", "taken"),
    [
        (4, 24 * GIB, 24 * GIB, 2 * GIB),  # by the work, not by what is there
        (4, 4 * GIB, 24 * GIB, int(1.2 * GIB)),  # a small machine: 30 %, as Ray
        (4, 24 * GIB, GIB, int(0.95 * GIB)),  # all of a small /dev/shm
        (4, 24 * GIB, 64 * 2**20, 2 * GIB),  # a container's: too small, so on disk
        (4, 24 * GIB, None, 2 * GIB),
        (1, 2**20, 2**20, 80 * 10**6),  # Ray starts with no less
    ],
)
def test_the_object_store_is_as_large_as_the_work_wants(
    slots: int, memory: int, shm: int | None, taken: int
) -> None:
    assert store_bytes(slots, memory=memory, shm=shm) == taken
