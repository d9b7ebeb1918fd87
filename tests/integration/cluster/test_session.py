"""The Ray that a session starts: its token, its object store, its messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

pytestmark = pytest.mark.ray

# A process of its own: the tests' may hold another Ray. It prints one JSON document.
SCRIPT = """
import json, os, subprocess, sys
from pathlib import Path
import ray
from ray._private.utils import publish_error_to_driver
from cluster.session import session
from cluster.waiting import waiting_tasks

def facts():
    return os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN")

JOIN = '''
import json, sys
from common.errors import ClusterError
from cluster.session import session
try:
    with session(sys.argv[1]):
        print(json.dumps("joined"))
except ClusterError as error:
    print(json.dumps(str(error)))
'''

def join(address, **env):
    command = [sys.executable, "-c", JOIN, address]
    # Ray would take this machine's other address in place of 127.0.0.1, where nothing listens.
    env = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **env}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    return json.loads(done.stdout)

def holds(file, token):
    try:
        return token.encode() in file.read_bytes()
    except OSError:
        return False

report = {"tokens": []}
for number in range(2):
    with session():
        mode, token = ray.get(ray.remote(facts).remote(), timeout=60)
        report["tokens"].append(token)
        report["mode"] = mode
        report["env"] = [key for key in os.environ if key.startswith("RAY_AUTH")]
        if number:
            continue
        for message in ("no memory " * 50 + "\\nadvice", "8 PYTHON worker processes have been started"):
            publish_error_to_driver("test", message, ray._private.worker.global_worker.gcs_client)
        context = ray.get_runtime_context()
        address = context.gcs_address
        report["store"] = ray.cluster_resources()["object_store_memory"]
        report["idle"] = waiting_tasks()
        blocked = ray.remote(num_gpus=2)(facts).remote()
        ray.wait([blocked], timeout=3)
        report["waits"] = waiting_tasks()
        report["address"] = address
        report["without"] = join(address)
        report["wrong"] = join(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 64)
        report["right"] = join(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
        logs = Path(ray._private.worker.global_worker.node.get_session_dir_path())
        report["files"] = sum(file.is_file() for file in logs.rglob("*"))
        report["written"] = [str(f) for f in logs.rglob("*") if f.is_file() and holds(f, token)]
        report["listed"] = [str(f) for f in Path("/proc").glob("[0-9]*/cmdline") if holds(f, token)]
os.environ["RAY_AUTH_MODE"] = "disabled"
with session():
    report["disabled"] = ray.get(ray.remote(facts).remote(), timeout=60)
report["home"] = [str(file) for file in Path.home().rglob("*")]
print(json.dumps(report))
"""


def test_a_local_ray_refuses_drivers_without_its_token(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # and nothing else: messages of Ray are on stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ray: no memory ")]
    assert line.endswith(" …")
    assert "advice" not in done.stderr
    assert "worker processes" not in done.stderr
    assert report["mode"] == "token"
    first, second = report["tokens"]
    assert len(first) == len(second) == 64
    assert first != second  # each Ray has one of its own
    assert report["env"] == []  # nothing is left where a command of the user would inherit it
    assert report["home"] == []  # nor in ~/.ray, where Ray would put one
    assert first not in done.stdout.replace(json.dumps(report["tokens"]), "") + done.stderr
    assert report["files"] > 5
    assert (report["written"], report["listed"]) == ([], [])

    assert report["address"] in report["without"]
    assert "it asks for a token, and none was given" in report["without"]
    assert "the token is wrong" in report["wrong"]
    assert "RAY_AUTH_TOKEN_PATH" in report["without"]
    assert report["right"] == "joined"
    assert report["disabled"] == ["disabled", None]  # what the user chose

    assert report["idle"].startswith("no task waits for resources; free: ")
    assert report["waits"].startswith("waiting for resources: 1 x 1 CPU + 2 GPU; free: ")
    assert "0 of 0 GPU" in report["waits"]
    assert 80e6 <= report["store"] <= 2**40


# What listens, and what others could read or write, while a session works; one JSON document.
LISTENING = """
import json, os, stat, time
from pathlib import Path
import psutil, ray
from cluster.session import session

def work(_):
    time.sleep(0.5)
    return os.getpid()

report = {}
with session():
    import ray.data
    ray.get([ray.remote(work).remote(n) for n in range(3)], timeout=60)
    assert ray.data.range(100).map_batches(lambda batch: batch).count() == 100
    me = psutil.Process()
    sockets = [
        (process.name(), connection.laddr.ip)
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    report["sockets"] = sockets
    folder = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    report["folder"] = str(folder)
    private = folder.parents[1]
    status = private.stat()
    report["mode"], report["owner"] = stat.S_IMODE(status.st_mode), status.st_uid == os.getuid()
report["left"] = private.exists()
print(json.dumps(report))
"""


@pytest.mark.parametrize("folder", ["", "r" * 60])
@pytest.mark.timeout(200)
def test_a_local_ray_is_reached_and_read_by_this_user_alone(tmp_path: Path, folder: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    if folder:
        (tmp_path / folder).mkdir()
        environment["TMPDIR"] = str(tmp_path / folder)
    before = set(Path("/tmp/ray").glob("session_2*"))  # noqa: S108
    done = subprocess.run(
        [sys.executable, "-c", LISTENING],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["sockets"]) > 4
    loopback = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert {address for _, address in report["sockets"]} <= loopback
    assert "/onepass-ray-" in report["folder"]
    assert (report["mode"], report["owner"]) == (0o700, True)
    assert not report["left"]
    made = set(Path("/tmp/ray").glob("session_2*")) - before  # noqa: S108
    assert Path(report["folder"]) not in made
