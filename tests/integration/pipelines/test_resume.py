"""Ray, killed in the middle, continued with the same command: every row once, nothing lost."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest

from onepass.cli.main import main
from pipelines.execution.checkpoints import committed_rows
from pipelines.progress.event_log import read_events
from tests.helpers.killed_runs import (
    check,
    events_before_kill,
    extract_command,
    finish,
    kill_once,
    make_source,
)
from tests.helpers.processes import group

pytestmark = pytest.mark.ray

ROWS = 2000


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kills_lose_and_repeat_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = 10
    source, out, log = make_source(tmp_path / "images", ROWS), tmp_path / "run", tmp_path / "log"
    command = [*extract_command(source, out), "--executor", "ray"]
    dice = random.Random(7)  # noqa: S311
    committed = 0
    for _ in range(kills):
        rows = kill_once(command, out, events_before_kill(dice, kills), log)
        assert not (out / "manifest.json").exists()
        assert committed <= rows <= ROWS
        committed = rows
    assert committed > 0, "no kill came after a commit: nothing was resumed"
    finish(command, log)
    assert f"{committed} of them from before" in log.read_text()
    check(out, ROWS)
    check_events(out, kills, committed)
    monkeypatch.setattr(sys, "argv", ["onepass", "inspect", str(out), "--verify"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 0
    assert "each row exactly once" in capsys.readouterr().out


def check_events(out: Path, kills: int, committed: int) -> None:
    """The last session tells of all its rows; those that were killed say no last word."""
    events = read_events(out)
    ended = [line["session"] for line in events if line["event"] == "end"]
    last = [line for line in events if line["session"] == ended[0]]
    assert len(ended) == 1
    assert 1 <= len({line["session"] for line in events}) <= kills + 1  # one may die planning
    assert last[0]["before"] == committed
    for stage in ("decode", "forward", "write"):
        rows = [x["rows"] for x in last if x["event"] == "block" and x["stage"] == stage]
        assert sum(rows) == ROWS - committed


@pytest.mark.long
def test_a_cluster_of_two_slots_does_not_starve_on_resume(tmp_path: Path) -> None:
    source, out, log = make_source(tmp_path / "images", 600), tmp_path / "run", tmp_path / "log"
    command = extract_command(source, out)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Ray's sockets need a short path, which pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        head = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *(f"--port={port}", f"--temp-dir={folder}", "--num-cpus=2"),
            *("--include-dashboard=false", "--disable-usage-stats"),
        ]
        # Without this, a token left in the home folder would lock the head and not the driver.
        open_to_all = {"RAY_AUTH_MODE": "disabled"}
        env = {**open_to_all, "RAY_ADDRESS": f"127.0.0.1:{port}"}
        with group(head, tmp_path / "head.log", env=open_to_all):
            _wait_for(port, seconds=60)
            kill_once(command, out, 4, log, env=env)
            before = committed_rows(out)
            assert 0 < before < 600
            finish(command, log, env=env, seconds=240)
    check(out, 600)
    assert f"{before} of them from before" in log.read_text()


def _wait_for(port: int, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise TimeoutError(f"Ray did not listen on {port} in {seconds:g} s")
