"""A long run: does it slow down, does its driver grow, how many files does it leave?

    python benchmarks/steady.py [--rows 100000] [--images 2000] [--json F]

``extract`` with the tiny model over so many rows, boxes of drawn images. Images/s are told for
each tenth of the rows, by the times at which whole data files were done while all actors were at
work: start-up and end are in no tenth. The driver's own memory (RssAnon) is looked
at twice a second, and its growth told from the second tenth on, when everything is loaded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from _common import CORES, ENVIRONMENT
from _drawn import draw_images
from _processes import ONEPASS, sizes_of

EVERY_SECONDS = 0.5
TENTHS = 10
ALLOWED = 0.05


def draw_rows(folder: Path, rows: int, images: int) -> Path:
    """A manifest of ``rows`` boxes over ``images`` drawn images, those of an image adjacent."""
    draw_images(folder, images)
    dice = np.random.default_rng(1)
    names = sorted(file.name for file in folder.glob("*.jpg"))
    lines = ["image,x1,y1,x2,y2"]
    for row in range(rows):
        x, y = dice.uniform(0, 250), dice.uniform(0, 180)
        name = names[row * len(names) // rows]
        lines.append(f"{name},{x:.1f},{y:.1f},{x + 60:.1f},{y + 50:.1f}")
    manifest = folder / "rows.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def watch(command: list[str], out: Path, log: Path) -> dict[str, Any]:
    """Run ``command``; the driver's memory over time, and the most files of each folder."""
    memory: list[tuple[float, float]] = []
    files = {"checkpoint": 0, "checkpoint bytes": 0}
    began = time.time()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=stream, stderr=stream)
        try:
            while process.poll() is None:
                if sizes := sizes_of(process.pid):
                    memory.append((time.time(), sizes["RssAnon"]))
                found = (
                    list(os.scandir(out / "checkpoint")) if (out / "checkpoint").is_dir() else []
                )
                if len(found) > files["checkpoint"]:
                    files["checkpoint"] = len(found)
                    files["checkpoint bytes"] = sum(_size(Path(entry.path)) for entry in found)
                time.sleep(EVERY_SECONDS)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        sys.exit(f"extract ended with {process.returncode}: {log.read_text()[-1000:]}")
    return {"began": began, "seconds": time.time() - began, "memory": memory, "files": files}


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # a pending one, committed meanwhile
        return 0


def tenths(out: Path) -> list[tuple[float, float, float]]:
    """Each tenth's beginning, end and images/s, by whole files while all actors are at work."""
    done = sorted(
        (file.stat().st_mtime_ns / 1e9, pq.ParquetFile(file).metadata.num_rows)
        for file in (out / "detections").glob("*.parquet")
    )
    done = done[CORES - 1 : -CORES]  # from everyone's first to the last that leaves nobody idle
    times = np.array([at for at, _ in done])
    rows = np.cumsum([count for _, count in done])
    edges = np.interp(np.linspace(rows[0], rows[-1], TENTHS + 1), rows, times)
    each = (rows[-1] - rows[0]) / TENTHS
    return [(a, b, each / (b - a)) for a, b in itertools.pairwise(edges)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="onepass-steady-"))
    try:
        source = draw_rows(work / "images", given.rows, given.images)
        out = work / "run"
        command = [*ONEPASS, "extract", str(source), "--model", "tiny", "--out", str(out)]
        seen = watch(command, out, work / "log")
        found = tenths(out)
        folders = {
            name: [file.stat().st_size for file in (out / name).glob("*") if file.is_file()]
            for name in ("plan", "detections")
        }
        events = out / "events.jsonl"
        sizes = {name: (len(files), sum(files)) for name, files in folders.items()}
        sizes["checkpoint, at most"] = (
            seen["files"]["checkpoint"],
            seen["files"]["checkpoint bytes"],
        )
        if events.is_file():
            sizes["events.jsonl"] = (1, events.stat().st_size)
    finally:
        shutil.rmtree(work)
    looked, sizes_then = zip(*seen["memory"], strict=True)
    memory = [float(np.interp(end, looked, sizes_then)) for _, end, _ in found]
    print(f"{given.rows} rows, tiny, {CORES} cores, {seen['seconds']:.0f} s with start-up")
    print(f"{'tenth':>5} {'images/s':>9} {'driver MiB':>11}")
    for number, ((_, _, rate), mib) in enumerate(zip(found, memory, strict=True), 1):
        print(f"{number:>5} {rate:>9.0f} {mib:>11.0f}")
    change = found[-1][2] / found[0][2] - 1
    growth = memory[-1] - memory[1]
    word = "met" if abs(change) <= ALLOWED else "missed"
    print(f"last tenth against the first: {100 * change:+.1f} % (+-{100 * ALLOWED:.0f} %: {word})")
    print(
        f"driver from the second tenth to the last: {growth:+.0f} MiB, "
        f"{growth * 2**20 / (0.8 * given.rows):+.0f} bytes a row"
    )
    for name, (count, size) in sizes.items():
        print(f"{name}: {count} files, {size:,} bytes")
    if given.json:
        told = {
            "rows": given.rows,
            "seconds": seen["seconds"],
            "images/s": [rate for _, _, rate in found],
            "driver MiB": memory,
            "last against first": change,
            "files": {name: {"files": n, "bytes": size} for name, (n, size) in sizes.items()},
        }
        given.json.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
