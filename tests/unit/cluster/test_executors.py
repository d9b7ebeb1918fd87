"""Which executor a command gets: where clusters, jobs and GPUs decide it."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from cluster import executors
from cluster.executors import choose_executor, executor_line, local_cores, local_gpus

ADDRESS = "ray://head:10001"


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster, no job, no GPU, and no Ray in this process."""
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(executors, "has_joined_ray", lambda: False)


def test_a_plain_machine_does_the_work_in_this_process() -> None:
    assert choose_executor("auto") == "local"
    assert executor_line("auto") == "in this process"


def test_a_cluster_that_is_named_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_executor("auto", ADDRESS) == "ray"
    assert ADDRESS in executor_line("auto", ADDRESS)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert choose_executor("auto") == "ray"
    assert "10.0.0.1:6379" in executor_line("auto")
    assert ADDRESS in executor_line("auto", ADDRESS)  # the argument goes first


def test_ray_is_used_in_a_job_and_where_it_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
        assert choose_executor("auto") == "ray"
    monkeypatch.setattr(executors, "has_joined_ray", lambda: True)
    assert choose_executor("auto") == "ray"


@pytest.mark.parametrize(
    ("visible", "gpus", "executor"),
    [
        ("", 0, "local"),
        ("-1", 0, "local"),
        ("0", 1, "local"),
        ("1", 1, "local"),
        ("0,1", 2, "ray"),
        (" 2, 5 ,7", 3, "ray"),
        ("GPU-8f2c,GPU-91aa", 2, "ray"),
    ],
)
def test_two_gpus_are_work_for_ray(
    visible: str, gpus: int, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local_gpus() == gpus
    assert choose_executor("auto") == executor


@pytest.mark.parametrize("choice", ["local", "ray"])
def test_an_explicit_choice_is_kept(
    choice: executors.ExecutorName, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_executor(choice) == choice
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert choose_executor(choice, ADDRESS) == choice


def test_has_joined_ray_does_not_import_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert executors.has_joined_ray() is False
    assert "ray" not in sys.modules
    for joined in (False, True):
        ray = SimpleNamespace(is_initialized=lambda joined=joined: joined)
        monkeypatch.setitem(sys.modules, "ray", ray)
        assert executors.has_joined_ray() is joined


def test_cores_are_those_that_this_process_may_use() -> None:
    assert 1 <= local_cores() <= (os.cpu_count() or 1)
