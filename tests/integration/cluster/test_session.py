"""The Ray that a session starts: its token, its object store, and what is left of them."""

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

ask = '''
import json, sys
from common.errors import ClusterError
from cluster.session import session
try:
    with session(sys.argv[1]):
        print(json.dumps("let in"))
except ClusterError as error:
    print(json.dumps(str(error)))
'''

def other(address, **env):
    asked = [sys.executable, "-c", ask, address]
    done = subprocess.run(asked, env={**os.environ, **env}, capture_output=True, text=True)
    return json.loads(done.stdout)

def holds(file, token):
    try:
        return token.encode() in file.read_bytes()
    except OSError:
        return False

found, before = {"tokens": []}, dict(os.environ)
for number in range(2):
    with session():
        mode, token = ray.get(ray.remote(facts).remote(), timeout=60)
        found["tokens"].append(token)
        found["mode"] = mode
        found["env"] = [key for key in os.environ if key.startswith("RAY_AUTH")]
        if number:
            continue
        for said in ("no memory " * 50 + "\\nadvice", "8 PYTHON worker processes have been started"):
            publish_error_to_driver("test", said, ray._private.worker.global_worker.gcs_client)
        context = ray.get_runtime_context()
        address = context.gcs_address
        found["store"] = ray.cluster_resources()["object_store_memory"]
        found["idle"] = waiting_tasks()
        blocked = ray.remote(num_gpus=2)(facts).remote()
        ray.wait([blocked], timeout=3)
        found["waits"] = waiting_tasks()
        found["address"] = address
        found["without"] = other(address)
        found["wrong"] = other(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 64)
        found["right"] = other(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
        logs = Path(ray._private.worker.global_worker.node.get_session_dir_path())
        found["files"] = sum(file.is_file() for file in logs.rglob("*"))
        found["told"] = [str(f) for f in logs.rglob("*") if f.is_file() and holds(f, token)]
        found["listed"] = [str(f) for f in Path("/proc").glob("[0-9]*/cmdline") if holds(f, token)]
os.environ["RAY_AUTH_MODE"] = "disabled"
with session():
    found["disabled"] = ray.get(ray.remote(facts).remote(), timeout=60)
found["home"] = [str(file) for file in Path.home().rglob("*")]
print(json.dumps(found))
"""


def test_a_ray_of_ours_lets_nobody_in_without_its_token(tmp_path: Path) -> None:
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
    found = json.loads(done.stdout)  # and nothing else: what Ray says is no answer
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("ray: no memory ")]
    assert said.endswith(" …")
    assert "advice" not in done.stderr
    assert "worker processes" not in done.stderr
    assert found["mode"] == "token"
    first, second = found["tokens"]
    assert len(first) == len(second) == 64
    assert first != second  # each Ray has one of its own
    assert found["env"] == []  # nothing is left where a command of the user would inherit it
    assert found["home"] == []  # nor in ~/.ray, where Ray would put one
    assert first not in done.stdout.replace(json.dumps(found["tokens"]), "") + done.stderr
    assert found["files"] > 5
    assert (found["told"], found["listed"]) == ([], [])

    said = f"Ray at {found['address']} could not be reached: "
    assert found["without"].startswith(f"{said}it asks for a token, and none was given; ")
    assert found["wrong"].startswith(f"{said}the token is wrong; ")
    assert "RAY_AUTH_TOKEN_PATH" in found["without"]
    assert found["right"] == "let in"
    assert found["disabled"] == ["disabled", None]  # what the user chose

    assert found["idle"].startswith("nothing waits for a place; free: ")
    assert found["waits"].startswith("waiting for a place: 1 x 1 CPU + 2 GPU; free: ")
    assert "0 of 0 GPU" in found["waits"]
    assert 80e6 <= found["store"] <= 2**40
