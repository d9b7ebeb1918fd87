"""The wheel, installed as README.md says into an environment of its own, far from the checkout.

Minutes, most of them pip's: ``pytest -m long tests/integration/onepass/test_wheel.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.helpers.api.world import free_port
from tests.helpers.pictures import photo_folder

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[3]
PHOTO = "photos/night0/0000.jpg"
HEAVY = ("duckdb", "faiss", "h5py", "pandas", "pyarrow", "pydantic", "ray", "torch")


class Installed(NamedTuple):
    """The programs of the environment, and a folder with photos to work in."""

    programs: Path
    folder: Path

    def command(self, *command: str) -> str:
        """Run a program in the folder; its standard output."""
        done = subprocess.run(
            [str(self.programs / command[0]), *command[1:]],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def python(self, code: str) -> str:
        return self.command("python", "-c", textwrap.dedent(code))


def environment() -> dict[str, str]:
    """Without what leads to the checkout, or to a cluster."""
    hidden = ("PYTHONPATH", "RAY_ADDRESS", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def pip(python: Path, *arguments: str | Path) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info")  # index/build is none
    shutil.copytree(  # setuptools writes into what it builds
        ROOT,
        folder / "tree",
        ignore=lambda parent, names: skipped(parent, names) if Path(parent) == ROOT else set(),
    )
    pip(Path(sys.executable), "wheel", "--no-deps", "-w", folder, folder / "tree")
    (file,) = folder.glob("onepass-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    constraints = ("--constraint", ROOT / "constraints.txt")
    pip(programs / "python", "install", *constraints, f"onepass[lite0,openvino] @ {wheel.as_uri()}")
    photo_folder(folder / "work" / "photos", 12)
    return Installed(programs, folder / "work")


def test_what_the_wheel_holds(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "onepass/py.typed" in names
    assert {f"api/page/{file.name}" for file in (ROOT / "api" / "page").iterdir()} <= names
    assert any(name.endswith("/LICENSE") for name in names)
    folders = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert folders.isdisjoint({"tests", "benchmarks", "docs", "examples", "deploy"})
    modules = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    assert {str(file.relative_to(ROOT)) for file in modules} <= names


def test_import_is_light(installed: Installed) -> None:
    answer = installed.python(
        f"""
        import json, sys, time
        started = time.perf_counter()
        import onepass
        seconds = time.perf_counter() - started
        heavy = [name for name in {HEAVY!r} if name in sys.modules]
        print(json.dumps([onepass.__version__, onepass.__file__, seconds, heavy]))
        """
    )
    version, file, seconds, heavy = json.loads(answer)
    assert re.fullmatch(r"\d+\.\d+.*", version)
    assert Path(file).is_relative_to(installed.programs.parent)
    assert not heavy
    assert seconds < 1


def test_the_first_ten_minutes(installed: Installed) -> None:
    run = installed.command
    assert "extract" in run("onepass", "--help")
    assert re.search(r"\d+\.\d+", run("onepass", "--version"))
    run("onepass", "extract", "photos/", "--model", "lite0", "--out", "runs/first")
    run("onepass", "inspect", "runs/first", "--verify")
    run("onepass", "index", "build", "runs/first", "--out", "photos.index")
    found = run("onepass", "query", "photos.index", "--image", PHOTO, "-k", "3", "--json")
    assert json.loads(found)["hits"][0]["image"] == "night0/0000.jpg"
    run("onepass", "link", "runs/first")
    with served(installed) as url:
        assert httpx.get(f"{url}/v1/index").json()["rows"] == 12
        assert "<html" in httpx.get(url, follow_redirects=True).text

    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    shapes = "\nprint(len(run), run.embeddings().shape, index.versions)"
    assert installed.python(code + shapes) == "12 (12, 1280) ['v0001', 'v0002']\n"


@contextmanager
def served(installed: Installed) -> Iterator[str]:
    """The URL of ``onepass serve photos.index``, which runs while the block does."""
    port = free_port()
    command = [installed.programs / "onepass", "serve", "photos.index", "--port", str(port)]
    server = subprocess.Popen(command, cwd=installed.folder, env=environment())
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(30)
