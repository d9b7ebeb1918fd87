"""What the benchmarks share: whole processes with a JSON answer, and folders of images."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
# Scripts find their own folder first, where index.py would stand before the package of that name.
sys.path.insert(0, str(HERE.parent))
CORES = len(os.sched_getaffinity(0))
ENVIRONMENT = {"PYTHONPATH": str(HERE.parent), **os.environ}
_CROP_PIXELS = 256


def timed(script: str, *arguments: object, seconds: float = 900) -> tuple[float, dict[str, Any]]:
    """Run a script as a whole process; its wall time and the JSON of its last line.

    A script tells ``first`` as a clock time; it comes back as seconds since its start.
    """
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    began = time.time()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds, env=ENVIRONMENT
    )
    wall = time.time() - began
    told = json.loads(done.stdout.splitlines()[-1])
    if "first" in told:
        told["first"] -= began
    return wall, told


def model_request(name: str, **own: object) -> str:
    """What the helper scripts take for MODEL: a timm network, and how it wants its images."""
    return json.dumps({"spec": f"timm:{name}", **own})


def hot_loop(
    model: str,
    engine: str,
    precision: str,
    seconds: float,
    *,
    passes: int = 1,
    folder: Path | None = None,
    processes: int = CORES,
    lanes: int = 1,
) -> dict[str, float]:
    """Of ``processes`` with ``lanes`` threads each, all in the same window: ``_engine_loop.py``.

    Returns:
        Images a second of all, and the milliseconds of a core that an image takes.
    """
    script = [sys.executable, str(HERE / "_engine_loop.py"), model, engine, precision]
    command = [*script, *map(str, (seconds, passes, lanes)), *([str(folder)] if folder else [])]
    told = together(command, processes)
    core = statistics.mean(one["core ms"] for one in told)
    return {"rate": sum(one["rate"] for one in told), "core ms": core}


def together(
    command: list[str], processes: int, began: Callable[[list[int]], None] = lambda pids: None
) -> list[dict[str, Any]]:
    """Start a script so many times, let all go on once each has said ``ready``; what each tells.

    ``began`` is told their ids when they have gone on.
    """
    running = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        for _ in range(processes)
    ]
    try:
        for process in running:  # the first to start builds what is not built yet
            assert process.stdout
            if process.stdout.readline() != "ready\n":
                sys.exit(f"{' '.join(command)} failed")
        for process in running:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        began([process.pid for process in running])
        return [json.loads(process.stdout.readline()) for process in running if process.stdout]
    finally:
        for process in running:
            process.kill()
            process.communicate()


def jpegs(source: Path) -> list[Path]:
    """The JPEG files under ``source``; ends the benchmark where there is none."""
    files = sorted(f for f in source.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        sys.exit(f"{source} holds no JPEG files")
    return files


def link_images(source: Path, target: Path, count: int) -> Path:
    """``count`` distinct files, so that no contender decodes an image only once."""
    files = jpegs(source)
    target.mkdir()
    for number in range(count):
        (target / f"{number:06d}.jpg").symlink_to(files[number % len(files)].resolve())
    return target


def crop_images(source: Path, target: Path, count: int) -> Path:
    """Centre squares of up to ``count`` images at 256 pixels: the size of a detector's crops."""
    target.mkdir()
    for number, file in enumerate(jpegs(source)[:count]):
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        crop = ImageOps.fit(upright, (_CROP_PIXELS, _CROP_PIXELS), Image.Resampling.BILINEAR)
        crop.save(target / f"{number:06d}.jpg", quality=90)
    return target


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Median (lowest..highest)."""
    known = list(values)
    middle = f"{statistics.median(known):.{digits}f}"
    return f"{middle:>8} ({min(known):.{digits}f}..{max(known):.{digits}f})"


def verdict(value: float, target: float) -> str:
    """The target beside the word for ``value``, which is meant to reach it."""
    return f">= {target:g}  {'met' if value >= target else 'missed'}"
