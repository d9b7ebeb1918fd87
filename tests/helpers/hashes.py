"""Requirements with hashes, of what ``constraints.txt`` names: ``make hashes``, after it has changed.

pip resolves without installing, and says which file of the index it would take and its sha256, which
is the index's own. So the hashes are those of files for the machine that this runs on; they are made
for Linux on x86-64 with the Python of the images. Torch and what it brings have a file of their own,
because an image without a GPU takes another build.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
ALL = ROOT / "constraints-hashes.txt"
IMAGES = ROOT / "deploy" / "requirements.txt"
CUDA = ROOT / "deploy" / "requirements-cuda.txt"
EXTRAS = "lite0,openvino,database"  # of the images
# What comes with PyTorch for CUDA; faiss-gpu brings libraries of its own, for CUDA 12.
TORCH = re.compile(r"torch|torchvision|triton|cuda-.*|nvidia-(?!.*-cu12$).*")


def resolve(*arguments: str) -> list[tuple[str, str, str]]:
    """Name, version and sha256 of each file that pip would install, by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report), *arguments]
        subprocess.run(command, check=True)
        return packages(json.loads(report.read_text()))


def packages(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The same, from pip's report; this project itself is left out."""
    files = []
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if name != "onepass":
            sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
            files.append((name, item["metadata"]["version"], sha256))
    return sorted(files)


def write(file: Path, head: str, files: list[tuple[str, str, str]]) -> None:
    """Write requirements with their hashes."""
    lines = [f"{name}=={version} --hash=sha256:{sha256}\n" for name, version, sha256 in files]
    file.write_text(f"# {head}\n# Made by 'make hashes', for Linux on x86-64.\n" + "".join(lines))


def main() -> None:
    """Write the three files."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.exit("run this on Linux on x86-64: hashes are of the files for one kind of machine")
    every = resolve("--no-deps", "-r", str(CONSTRAINTS))
    images = resolve("-c", str(CONSTRAINTS), f"{ROOT}[{EXTRAS}]")
    write_all(every, images)


def write_all(every: list[tuple[str, str, str]], images: list[tuple[str, str, str]]) -> None:
    """Write the three files, of all that is tested and of what the images install."""
    write(
        ALL,
        "All that is tested: pip install --require-hashes --no-deps -r constraints-hashes.txt",
        every,
    )
    rest = [each for each in images if not TORCH.fullmatch(each[0])]
    write(IMAGES, "What deploy/Dockerfile installs beside PyTorch.", rest)
    torch = [each for each in images if TORCH.fullmatch(each[0])]
    write(CUDA, "PyTorch for CUDA, as deploy/Dockerfile installs it.", torch)


if __name__ == "__main__":
    main()
