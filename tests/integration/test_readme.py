"""The README's commands, run as they stand there, in order, on drawn photos."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.pictures import photo_folder

ROOT = Path(__file__).parents[2]


def commands(section: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    body = text.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    block = re.search(r"```sh\n(.*?)```", body, re.DOTALL)
    assert block is not None
    return [line.split("  #")[0].strip() for line in block.group(1).splitlines() if line.strip()]


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_your_own_images(tmp_path: Path) -> None:
    photo_folder(tmp_path / "photos", 24)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    *lines, serve = commands("Your own images")
    said = {}
    for line in lines:
        done = subprocess.run(
            line.split(), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        said[line.split()[1]] = done.stdout
    assert "24 rows, 0 with errors" in said["extract"]
    assert "each row exactly once" in said["inspect"]
    nearest = said["query"].splitlines()[0].split()
    assert nearest[0] == "1"
    assert float(nearest[1]) > 0.99  # the very image that was asked for
    assert "night0/0000.jpg" in said["query"].splitlines()[0]

    port = serve.split()[-1]
    server = subprocess.Popen(serve.split(), cwd=tmp_path, env=environment)
    try:
        for _ in range(200):
            try:
                ready = httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            except httpx.TransportError:
                ready = False
            if ready:
                break
            time.sleep(0.2)
        facts = httpx.get(f"http://127.0.0.1:{port}/v1/index").json()
        assert facts["rows"] == 24
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def test_every_command_and_target_named_in_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    known = subprocess.run(
        [sys.executable, "-m", "onepass", "--help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    for name in set(re.findall(r"onepass ([a-z]+) ", text)) - {"turns"}:
        assert f"  {name} " in known, name
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
