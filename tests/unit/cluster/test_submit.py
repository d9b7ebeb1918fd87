"""Submitting a job, as far as it goes without a cluster."""

from __future__ import annotations

import socket
import time
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.job_submission import JobStatus
from setuptools import find_packages

import cluster.submit
from cluster.submit import Ended, check_command, follow, read_env, submit
from common.errors import ClusterError, LeftRunningError, WorkError

URL = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["extract", "/data", "--out", "runs/a"], "--out runs/a"),
        (["extract", "/data", "--out=runs/a"], "--out runs/a"),
        (["extract", "/data", "--checkpoint", "w.pth", "--out", "/runs/a"], "--checkpoint w.pth"),
        (["extract", "photos", "--out", "/runs/a"], "the path photos"),
        (["link", "runs/a"], "the path runs/a"),
        (["tracks", "evaluate", "runs/a", "--truth", "/gt"], "the path runs/a"),
        (["index", "build", "runs/a", "--out", "/index"], "the path runs/a"),
    ],
)
def test_relative_paths_are_refused_before_anything_is_sent(
    arguments: list[str], named: str
) -> None:
    with pytest.raises(ClusterError, match=f"^{named}: .* give an absolute path"):
        submit(URL, arguments)


@pytest.mark.parametrize(
    "command",
    [
        "extract s3://bucket/images --model timm:a/b --out /runs/a",
        "extract gs://b/images --out=s3://b/runs/a",
        "index build /runs/a --out=/index",
        "tracks evaluate /runs/a --truth /gt",
        "models describe timm:resnet18",
        "probe train /runs/a --labels category",
    ],
)
def test_absolute_paths_and_uris_pass(command: str) -> None:
    check_command(command.split())


@pytest.mark.parametrize(
    "source",
    ["postgresql+psycopg://anna:s3cret@host/ami", "postgresql://host/ami?password=s3cret"],
)
def test_passwords_are_not_sent_to_the_list_of_jobs(source: str) -> None:
    with pytest.raises(ClusterError, match="PGPASSWORD") as refused:
        submit(URL, ["extract", source, "--out", "/run"])
    assert "s3cret" not in str(refused.value)
    with pytest.raises(ClusterError, match="check that Ray's dashboard answers"):
        submit(URL, ["extract", "postgresql://anna@host:5432/ami", "--out", "/run"])


def test_a_command_and_a_scheme_are_needed() -> None:
    with pytest.raises(ClusterError, match="nothing to submit"):
        submit(URL, [])
    with pytest.raises(ClusterError, match="as http://HOST:8265"):
        submit("127.0.0.1:8265", ["link", "/runs/a"])


def test_the_code_that_is_sent_is_the_code_that_is_packaged() -> None:
    settings = tomllib.loads((cluster.submit._CHECKOUT / "pyproject.toml").read_text())
    packaged = settings["tool"]["setuptools"]
    packages = find_packages(
        str(cluster.submit._CHECKOUT), include=packaged["packages"]["find"]["include"]
    )
    assert "pipelines.engines" in packages  # packages inside packages as well
    assert {name.split(".")[0] for name in packages} == set(cluster.submit.CODE)


def test_a_dead_address_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # restored afterwards
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # Ray would prefer it to ours
    with pytest.raises(ClusterError, match=f"`address='{URL}'`: .*dashboard"):
        submit(URL, ["link", "/runs/a"])


def test_a_silent_address_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setattr(cluster.submit, "_FIRST_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match=r"(?i)timed out"):
            submit(url, ["link", "/runs/a"])


@dataclass
class Job:
    """Ray's client for one job, whose log comes in the given connections' pieces."""

    connections: list[list[str | BaseException]]
    status: JobStatus = JobStatus.SUCCEEDED
    message: str | None = None
    exit_code: int | None = None
    gone: bool = False
    opened: int = field(default=0, init=False)

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        pieces = self.connections[min(self.opened, len(self.connections) - 1)]
        self.opened += 1
        for piece in pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def get_job_info(self, job_id: str) -> Any:
        if self.gone:
            raise ConnectionError("refused")
        ended = self.opened >= len(self.connections)
        return _Details(self.status if ended else JobStatus.RUNNING, self.message, self.exit_code)


@dataclass
class _Details:
    status: JobStatus
    message: str | None
    driver_exit_code: int | None


def run(job: Job, monkeypatch: pytest.MonkeyPatch) -> tuple[Ended, str]:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    log: list[str] = []
    ended = follow(job, URL, "job_1", log=log.append)
    return ended, "".join(log)


def test_a_broken_log_stream_continues_without_repeating(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = Job([["one\n", RuntimeError("closed")], ["one\ntw"], ["one\ntwo\n", "three\n"]])
    ended, log = run(job, monkeypatch)
    assert log == "one\ntwo\nthree\n"
    assert ended == Ended("job_1", "SUCCEEDED", "", 0)


@pytest.mark.parametrize(
    ("log", "message", "line"),
    [
        (
            ["many\n"],
            "failed with exit code 2, last available logs (tr…):\nmany\n",
            "failed with exit code 2",
        ),
        ([], "no environment:\n disk full", "no environment: disk full"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, log: list[str | BaseException], message: str, line: str
) -> None:
    ended, _ = run(Job([log], JobStatus.FAILED, message), monkeypatch)
    assert ended.message == line


@pytest.mark.parametrize(
    ("status", "command", "exit_code"),
    [
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, 130, 130),
        (JobStatus.FAILED, -9, 1),  # killed by a signal
        (JobStatus.FAILED, None, 1),  # it never began
        (JobStatus.STOPPED, None, 130),
        (JobStatus.SUCCEEDED, 0, 0),
    ],
)
def test_the_exit_code_is_the_commands_own(
    monkeypatch: pytest.MonkeyPatch, status: JobStatus, command: int | None, exit_code: int
) -> None:
    ended, _ = run(Job([["many\n"]], status, "why", command), monkeypatch)
    assert ended.exit_code == exit_code


def test_variables_are_taken_by_name_and_no_message_shows_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret=x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    assert read_env(["AWS_SECRET_ACCESS_KEY", "AWS_REGION=eu=1", "EMPTY="]) == {
        "AWS_SECRET_ACCESS_KEY": "s3cret=x",
        "AWS_REGION": "eu=1",
        "EMPTY": "",
    }
    with pytest.raises(ClusterError, match="`env='AWS_ACCESS_KEY_ID'`"):
        submit(URL, ["link", "/runs/a"], env=["AWS_ACCESS_KEY_ID"])
    with pytest.raises(ClusterError, match=r"`env`, the 2. of 2") as refused:
        read_env(["A=1", "AWS KEY=s3cret"])
    assert "s3cret" not in str(refused.value)


def test_a_cluster_that_is_gone_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.submit, "_LOST_SECONDS", -1.0)
    with pytest.raises(WorkError, match=r"stopped answering while job job_1 ran \(refused\)"):
        run(Job([["one\n"]], gone=True), monkeypatch)


def test_ctrl_c_leaves_the_job_running_and_says_how_to_stop_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(LeftRunningError, match=f"ray job stop --address {URL} job_1") as caught:
        run(Job([["one\n", KeyboardInterrupt()]]), monkeypatch)
    assert caught.value.exit_code == 130
