"""The executor in this process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.errors import StalledError
from pipelines.engines import forward as forwarding
from pipelines.engines.engine import Engine
from pipelines.execution import local
from pipelines.extract import extract
from pipelines.run import Run
from tests.helpers.killed_runs import check, extract_command, finish, make_source
from tests.helpers.pictures import drawn
from tests.helpers.processes import group
from tests.integration.pipelines.execution.suite import ExecutorSuite
from tests.integration.pipelines.execution.world import World, everything, exact, run_of, same

ROOT = Path(__file__).parents[4]
FAULT_POINTS = ROOT / "tests" / "helpers" / "fault_points"


class TestLocal(ExecutorSuite):
    executor = "local"
    other = "ray"

    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        answer = forwarding.Forward.answer
        left = [-1]

        def fail(self: Any, rows: pa.Table) -> pa.Table:
            if left[0] >= 0:
                left[0] = left[0] - 1 or -1 if left[0] else 0
                raise RuntimeError("one of a thousand batches")
            return answer(self, rows)

        def begin(times: int) -> None:
            left[0] = times

        monkeypatch.setattr(forwarding.Forward, "answer", fail)
        return begin

    def test_the_way_of_a_gpu_gives_the_same_bits(
        self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lanes that decode and two threads that forward, as far as a machine without one can go."""
        begin = local.Lanes.__init__

        def as_if(self: local.Lanes, *given: Any) -> None:
            begin(self, *given)
            self._on_gpu = True

        monkeypatch.setattr(local.Lanes, "__init__", as_if)
        monkeypatch.setattr(local, "_GPU_ROWS", local.DEFAULT_ROWS)
        outcome = extract(exact(world.boxes, "local"), tmp_path / "run")
        assert same(everything(run_of(outcome)), everything(world.reference))
        stages = {stage.name: stage for stage in outcome.run.manifest.session.stages}  # type: ignore[union-attr]
        assert stages["forward"].processes <= local.CALLS_IN_FLIGHT
        assert stages["forward"].rows == stages["decode"].rows == world.rows

    def test_a_standstill_ends_the_job(
        self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Engine, "_run", lambda *_: time.sleep(20))
        monkeypatch.setattr(local, "_STOP_SECONDS", 0.1)
        with pytest.raises(StalledError):
            extract(exact(world.boxes, "local", stall_seconds=1), tmp_path / "run")


def test_neither_ray_nor_torch_is_imported_to_plan(world: World, tmp_path: Path) -> None:
    code = (
        "import sys, json; import pipelines.extract\n"
        "from pipelines.config import ExtractConfig\n"
        f"config = ExtractConfig(source={str(world.boxes)!r}, model='tiny')\n"
        "pipelines.extract.prepare(config, lambda _: None)\n"
        "print(json.dumps([m for m in ('ray', 'torch', 'timm', 'faiss') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_ray_is_not_imported_to_extract(world: World, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipelines.extract import extract\n"
        "from pipelines.config import ExtractConfig\n"
        f"config = ExtractConfig(source={str(world.photos)!r}, model='tiny', executor='local')\n"
        f"extract(config, Path({str(tmp_path / 'run')!r}))\n"
        "assert 'ray' not in sys.modules and 'timm' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_an_image_that_ends_the_process_becomes_an_error(tmp_path: Path) -> None:
    """A decoder that calls ``os._exit`` on one image of 500."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(500):
        drawn(number % 25, width=64, height=48).save(photos / f"{number:03d}.jpg")
    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / "crash").write_text("333.jpg")
    out = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "onepass", "extract", str(photos), "--model", "tiny"),
        *("--executor", "local", "--out", str(out), "--json"),
    ]
    env = os.environ | {"FAULTS": str(faults), "PYTHONPATH": str(FAULT_POINTS)}

    def session() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
        )

    assert session().returncode == 9
    assert not (out / "manifest.json").exists()
    again = session()
    assert again.returncode == 0, again.stderr
    run = Run.open(out)
    assert run.verify() == 500
    assert run.manifest.errors == {"crashed decoder": 1}
    failed = [row for row in run.to_arrow(["image", "error"]).to_pylist() if row["error"]]
    assert [row["image"] for row in failed] == ["333.jpg"]
    assert "[333.jpg]" in failed[0]["error"]


def test_a_process_that_is_killed_loses_and_repeats_nothing(tmp_path: Path) -> None:
    rows = 2000
    source, out, log = make_source(tmp_path / "images", rows), tmp_path / "run", tmp_path / "log"
    command = [*extract_command(source, out), "--executor", "local"]
    dice = random.Random(11)  # noqa: S311
    began = time.monotonic()
    finish(command, log)
    whole = time.monotonic() - began
    undisturbed = everything(Run.open(out))
    out = tmp_path / "killed"
    command = [*extract_command(source, out), "--executor", "local"]
    for _ in range(3):
        with group(command, log) as process:
            time.sleep(dice.uniform(0.3, 0.95) * whole)
            process.kill()
    finish(command, log)
    check(out, rows)
    killed = everything(Run.open(out))
    assert np.array_equal(killed["row_id"].to_numpy(), undisturbed["row_id"].to_numpy())
    assert same(killed, undisturbed)
