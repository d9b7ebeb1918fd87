"""The start of a local Ray: no torch where none is needed, and no needless processes."""

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
from pipelines.config import ExtractConfig
from pipelines.extract import extract

photos, out = sys.argv[1:]
report = {"children": [], "requests": [], "progress": False}
snapshot, child_init = ray_pass.ProgressActor.snapshot, children.Child.__init__
started = []

def look(self):
    latest = snapshot(self)
    maps = Path(f"/proc/{self._last.process}/maps")
    if maps.is_file():
        report["progress"] = report["progress"] or "libtorch" in maps.read_text()
        report["looked"] = True
        below = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        report["processes"] = sorted(Path(f"/proc/{pid}/comm").read_text().strip() for pid in below)
    return latest

def counted(self):
    started.append(self)
    child_init(self)

ray_pass.ProgressActor.snapshot, children.Child.__init__ = look, counted
for name in ("one", "two"):
    config = ExtractConfig(
        source=photos, model="tiny", precision="fp32", engine="eager", executor="ray"
    )
    extract(config, Path(out) / name)
    report["children"].append(len(started))
    report["requests"].append(json.loads((Path(out) / name / "request.json").read_text()))
report["driver"] = [name for name in ("torch", "torchvision", "timm") if name in sys.modules]
print(json.dumps(report))
"""


def test_neither_driver_nor_progress_actor_imports_torch(tmp_path: Path) -> None:
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
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["driver"] == []
    assert report["looked"]
    assert not report["progress"]
    # The second uses what the first has resolved, and gets the same request without a child.
    assert report["children"] == [1, 1]
    first, second = ({**each, "path": None, "sha256": None} for each in report["requests"])
    assert first == second
    # Of Ray's own processes only those that the work needs.
    assert report["processes"] == ["gcs_server", "raylet"]
