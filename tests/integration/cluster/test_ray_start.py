"""What a Ray of our own costs before its first answer: no torch where none is needed, nor a child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT
from tests.helpers.pictures import photo_folder

pytestmark = pytest.mark.ray

# A process of its own: the tests' has torch. It extracts twice and prints one JSON document.
SCRIPT = """
import json, os, subprocess, sys
from pathlib import Path
from cluster import children
from pipelines.execution import ray_pass
from pipelines.extract import Options, extract
from pipelines.model_info import ModelRequest

photos, out = sys.argv[1:]
found = {"children": [], "requests": [], "first": [], "board": False}
board_looks, begin = ray_pass.DriverBoard.look, children.Child.__init__
begun = []

def look(self, seen):
    tally = board_looks(self, seen)
    maps = Path(f"/proc/{self._last.board}/maps")
    if maps.is_file():
        found["board"] = found["board"] or "libtorch" in maps.read_text()
        found["looked"] = True
        below = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        found["processes"] = sorted(Path(f"/proc/{pid}/comm").read_text().strip() for pid in below)
    return tally

def counted(self):
    begun.append(self)
    begin(self)

ray_pass.DriverBoard.look, children.Child.__init__ = look, counted
for name in ("one", "two"):
    options = Options(precision="fp32", engine="eager", executor="ray")
    outcome = extract(photos, ModelRequest(spec="tiny"), Path(out) / name, options)
    found["children"].append(len(begun))
    found["first"].append(outcome.first_answer_seconds)
    found["requests"].append(json.loads((Path(out) / name / "request.json").read_text()))
found["driver"] = [name for name in ("torch", "torchvision", "timm") if name in sys.modules]
print(json.dumps(found))
"""


def test_neither_driver_nor_board_imports_torch(tmp_path: Path) -> None:
    photos = photo_folder(tmp_path / "photos", 24)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(photos), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["driver"] == []
    assert found["looked"]
    assert not found["board"]
    # The second resolves by what the first found out, and gets the same request without a child.
    assert found["children"] == [1, 1]
    assert found["requests"][0] == found["requests"][1]
    # Of Ray's own processes those that the work needs.
    assert found["processes"] == ["gcs_server", "raylet"]
