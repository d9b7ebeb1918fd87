"""``onepass submit`` on a real cluster: two node processes that require a token."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster import submit
from tests.helpers.commands import onepass
from tests.helpers.pictures import photo_folder
from tests.helpers.processes import processes_with_env, signal_to

CHECKOUT = Path(__file__).resolve().parents[3]
CODE = ("pyproject.toml", *submit.CODE)
MARK = "ONEPASS_TEST_CLUSTER"
VARIABLE = "ONEPASS_TEST_SECRET"
RAY = str(Path(sys.executable).parent / "ray")

pytestmark = pytest.mark.ray

# Appended to a package in the copy that is submitted: each process writes what it imported.
TRACER = """
import os as _os
import pathlib as _pathlib
import sys as _sys
if "submit" not in _sys.argv:  # that process imports the same package for its help
    _trace = _pathlib.Path({folder!r}) / str(_os.getpid())
    _trace.write_text(_sys.prefix + " " + __file__)
    if "{variable}" in _os.environ:
        _pathlib.Path({folder!r}).with_name("given").write_text(_os.environ["{variable}"])
"""


@dataclass(frozen=True)
class Cluster:
    """A head and a worker, and a checkout of its own to submit from."""

    folder: Path
    url: str
    env: dict[str, str]

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @property
    def traces(self) -> Path:
        return self.folder / "traces"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "onepass", "submit", "--address", self.url, *arguments]

    def submit(self, *arguments: str, seconds: float = 120, **env: str) -> Any:
        return self.run(self.command("--", *arguments), seconds, **env)

    def ray_job(self, *arguments: str, **env: str) -> Any:
        """Ray's own command, as docs/clusters.md has it."""
        return self.run([RAY, "job", *arguments, "--address", self.url], **env)

    def run(self, command: list[str], seconds: float = 60, **env: str) -> Any:
        return subprocess.run(
            command,
            cwd=self.checkout,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="op-"))  # short: Ray puts sockets below it
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "wrong").write_text(secrets.token_hex(32))
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    env |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),  # no token of a user
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        MARK: str(folder),
    }
    port, dashboard, client, *agents = _free_ports(5)
    nodes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *options: str) -> str:
        # A temp folder for each node: two that share one unpack the job's code over each other.
        options = (*options, "--num-cpus=2", "--block", f"--temp-dir={folder / name}")
        for _ in range(2):  # a busy machine misses the 30 s that Ray gives a node to appear
            log = folder / f"{name}.log"
            with log.open("wb") as sink:
                nodes.append(
                    subprocess.Popen(
                        [RAY, "start", *options],
                        env=env,
                        stdout=sink,
                        stderr=sink,
                        start_new_session=True,
                    )
                )
            end = time.monotonic() + 90
            while nodes[-1].poll() is None and time.monotonic() < end:
                if "To terminate the Ray runtime" in (text := log.read_text()):
                    return text
                time.sleep(0.2)
        raise AssertionError(f"node {name} did not start:\n{log.read_text()}")

    try:
        text = start(
            "h",
            "--head",
            f"--port={port}",
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agents[0]}",
            f"--ray-client-server-port={client}",
        )
        address = text.split("--address='", 1)[1].split("'", 1)[0]
        start("w", f"--address={address}", f"--dashboard-agent-listen-port={agents[1]}")
        cluster = Cluster(folder, f"http://127.0.0.1:{dashboard}", env)
        _copy_checkout(cluster)
        yield cluster
    finally:
        _end(nodes, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _copy_checkout(cluster: Cluster) -> None:
    for name in CODE:
        source, target = CHECKOUT / name, cluster.checkout / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    cluster.traces.mkdir()
    with (cluster.checkout / "pipelines" / "__init__.py").open("a") as file:
        file.write(TRACER.format(folder=str(cluster.traces), variable=VARIABLE))
    for name in ("photos", ".venv", ".git", "runs"):  # what else may lie in a checkout
        (cluster.checkout / name).mkdir()
        (cluster.checkout / name / "large").write_bytes(secrets.token_bytes(2**20))


def _free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def _end(nodes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    end = time.monotonic() + 30
    while left := processes_with_env(f"{MARK}={folder}"):
        assert time.monotonic() < end, f"still alive: {left}"
        for pid in left:
            signal_to(pid, signal.SIGKILL)
        time.sleep(0.2)
    for node in nodes:
        node.wait(15)


def test_extract_on_two_nodes_with_the_code_of_this_checkout(cluster: Cluster) -> None:
    photos, out = photo_folder(cluster.folder / "data", 64), cluster.folder / "run"
    # RAY_ADDRESS, as one has it set for 'extract', must not win over --address.
    arguments = ("extract", str(photos), "--model", "tiny", "--out", str(out))
    done = cluster.submit(*arguments, seconds=180, RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "python -m onepass extract" in done.stdout
    assert f"{out}: 64 rows, 0 with errors" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(": SUCCEEDED")
    assert done.stderr == ""

    checked = onepass("inspect", out, "--verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "each row exactly once" in checked.stdout

    sent = "session_2*/runtime_resources/working_dir_files/_ray_pkg_*"
    codes = [
        next(path for path in (cluster.folder / node).glob(sent) if path.is_dir())
        for node in ("h", "w")
    ]

    def read_traces() -> list[tuple[str, Path]]:
        texts = [file.read_text().split(" ", 1) for file in cluster.traces.iterdir()]
        return [(prefix, Path(file)) for prefix, file in texts]

    def worked_on(code: Path) -> bool:
        return any(file.is_relative_to(code) for _, file in read_traces())

    for number in range(3):  # on a busy machine one node may be done before the other has begun
        if not all(map(worked_on, codes)):
            again = (*arguments[:-1], f"{out}-{number}")
            assert cluster.submit(*again, seconds=180).returncode == 0
    traces = read_traces()
    assert {prefix for prefix, _ in traces} == {sys.prefix}
    for code in codes:
        assert worked_on(code), f"no work in {code}"
        assert {f.name for f in code.iterdir()} - {"__pycache__"} == set(CODE) - {"pyproject.toml"}
        assert sum(file.stat().st_size for file in code.rglob("*.*") if file.is_file()) < 2**22
    assert all("working_dir_files" in str(file) for _, file in traces)


def test_a_job_that_fails_ends_submit_with_its_exit_code_and_its_error_in_the_log(
    cluster: Cluster,
) -> None:
    out = cluster.folder / "none"
    done = cluster.submit("extract", str(cluster.folder), "--model", "nonsense", "--out", str(out))
    assert done.returncode == 2, done.stdout + done.stderr
    *_, error, status = done.stdout.splitlines()
    assert error.startswith("error: ")
    assert status.endswith(": FAILED (Job entrypoint command failed with exit code 2)")


@pytest.mark.long
def test_ctrl_c_leaves_the_job_running(cluster: Cluster) -> None:
    photos = photo_folder(cluster.folder / "more", 4)
    arguments = ["extract", str(photos), "--model", "tiny", "--out", str(cluster.folder / "left")]
    process = subprocess.Popen(
        cluster.command("--", *arguments),
        cwd=cluster.checkout,
        env={**cluster.env, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background lets them inherit an ignored SIGINT.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Running entrypoint"):
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    job_id = error.split()[2]
    assert "RUNNING" in cluster.ray_job("status", job_id).stdout
    stop = shlex.split(error.split("stop it: ", 1)[1])
    assert stop == ["ray", "job", "stop", "--address", cluster.url, job_id]
    stopped = cluster.run(stop)
    assert stopped.returncode == 0, stopped.stderr
    assert "was stopped" in cluster.ray_job("status", job_id).stdout


@pytest.mark.long
def test_a_job_that_is_left_is_listed_and_followed_with_ray(cluster: Cluster) -> None:
    options = ("--no-wait", "--json", "--env", VARIABLE)
    command = cluster.command(*options, "--", "models", "list", "resnet18")
    left = cluster.run(command, **{VARIABLE: "s3cret"})
    assert "s3cret" not in left.stdout + left.stderr
    job_id = json.loads(left.stdout)["job_id"]
    followed = cluster.ray_job("logs", "--follow", job_id)
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "timm:resnet18" in followed.stdout
    assert (cluster.folder / "given").read_text() == "s3cret"
    assert job_id in cluster.ray_job("list").stdout
    assert cluster.ray_job("list", RAY_AUTH_TOKEN_PATH="/nowhere").returncode != 0  # noqa: S106


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": ""}, "Missing authentication token"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "cannot be opened or is empty: /nowhere/token"),
        ({"RAY_AUTH_TOKEN_PATH": ""}, "couldn't find an authentication token"),
        ({"RAY_AUTH_TOKEN_PATH": "{folder}/wrong"}, "Invalid authentication token"),
    ],
    ids=["no token", "no file", "no default file", "wrong token"],
)
def test_a_token_that_does_not_fit_is_one_line_and_exit_2(
    cluster: Cluster, env: dict[str, str], message: str
) -> None:
    env = {key: value.format(folder=cluster.folder) for key, value in env.items()}
    done = cluster.submit("link", "/runs/a", seconds=30, **env)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: --address {cluster.url}: ")
    assert message in line
    assert "RAY_AUTH_TOKEN_PATH" in line
