"""The executor on Ray, in the session that tests share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.config import ExtractConfig
from pipelines.extract import extract
from pipelines.run import Run
from tests.helpers.commands import ROOT
from tests.helpers.killed_runs import check, extract_command, finish, kill_once, make_source
from tests.integration.pipelines.execution.suite import ExecutorSuite

pytestmark = pytest.mark.ray


@pytest.mark.usefixtures("ray_session")
class TestRay(ExecutorSuite):
    executor = "ray"
    other = "local"

    @pytest.fixture
    def failing(self, ray_faults: Path) -> Callable[[int], None]:
        def begin(times: int) -> None:
            for token in ray_faults.glob("forward@raise@*"):
                token.unlink()
            if times >= 0:
                (ray_faults / f"forward@raise@{times or 'always'}").touch()

        return begin


def test_killed_on_ray_and_ended_here(tmp_path: Path) -> None:
    source, out, log = make_source(tmp_path / "images", 600), tmp_path / "run", tmp_path / "log"
    command = extract_command(source, out)
    committed = kill_once([*command, "--executor", "ray"], out, 4, log)
    assert not (out / "manifest.json").exists()
    finish([*command, "--executor", "local"], log)
    assert Run.open(out).manifest.session.rows == 600 - committed  # type: ignore[union-attr]
    check(out, 600)


@pytest.mark.usefixtures("ray_session")
def test_killed_here_and_ended_on_ray(tmp_path: Path) -> None:
    source, out, log = make_source(tmp_path / "images", 600), tmp_path / "run", tmp_path / "log"
    committed = kill_once([*extract_command(source, out), "--executor", "local"], out, 2, log)
    outcome = extract(ExtractConfig(source=source, model="tiny", hdf5=True, executor="ray"), out)
    assert outcome.resumed_rows == committed
    check(out, 600)


def test_only_a_worker_leaves_so_that_nobody_hears_its_exit_code() -> None:
    code = (
        "from pipelines.execution.ray_internals import leave_at_exit\n"
        "leave_at_exit()\nraise SystemExit(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 3
