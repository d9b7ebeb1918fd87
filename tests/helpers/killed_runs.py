"""Sessions of ``extract`` that are killed, continued with the same command, and checked."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from common.storage import list_folder
from pipelines.execution.checkpoints import committed_rows
from pipelines.run import Run
from tests.helpers.processes import POLL_SECONDS, group

BOXES = 20  # a drawn image
FILES = 8  # that a run of up to 4,096 rows on two cores writes


def make_source(folder: Path, rows: int, seed: int = 0) -> Path:
    """Write random images and a manifest of ``rows`` boxes; returns the manifest."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lines = ["image,x1,y1,x2,y2"]
    for number in range(-(-rows // BOXES)):
        name = f"{number:05d}.jpg"
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 240)).save(folder / name)
        for _ in range(min(BOXES, rows - number * BOXES)):
            x, y = rng.uniform(0, 250), rng.uniform(0, 180)
            lines.append(f"{name},{x:.1f},{y:.1f},{x + 40:.1f},{y + 40:.1f}")
    manifest = folder / "rows.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def extract_command(source: Path, out: Path, executor: str = "auto") -> list[str]:
    return [
        *(sys.executable, "-m", "onepass", "extract", str(source)),
        *("--model", "tiny", "--out", str(out), "--hdf5", "--executor", executor),
    ]


def events_before_kill(dice: random.Random, kills: int, files: int = FILES) -> int:
    """After how many events to kill, at random, so that ``kills`` of them spread over the run.

    A data file makes three: its pending checkpoint, the file, the checkpoint's commit.
    """
    return dice.randint(1, max(1, int(1.5 * 3 * files / (kills + 1))))


class EndedEarlyError(RuntimeError):
    """A session ended by itself before it was to be killed.

    Attributes:
        code: its exit status.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def kill_once(
    command: list[str],
    out: Path,
    events: int,
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    seconds: float = 120,
) -> int:
    """Run until so many new files have appeared in the run, then kill; returns the rows committed."""
    deadline = time.monotonic() + seconds
    before, seen = _names(out), set[str]()
    with group(command, log, env=env) as process:
        while len(seen) < events:
            seen |= _names(out) - before
            if process.poll() is not None:
                raise EndedEarlyError(
                    f"the session ended with {process.returncode} after {len(seen)} events, "
                    f"before its kill: {log.read_text()[-2000:]}",
                    process.returncode,
                )
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(seen)} of {events} events in {seconds:g} s")
            time.sleep(POLL_SECONDS)
    return committed_rows(out)


def kill_after(command: list[str], log: Path, seconds: float) -> bool:
    """Kill a session after so many seconds; False where it came to its end before."""
    with group(command, log) as session:
        try:
            code = session.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
    if code:
        raise RuntimeError(f"the session ended with {code}: {log.read_text()[-2000:]}")
    return False


def _names(out: Path) -> set[str]:
    return {
        f"{folder}/{entry.name}"
        for folder in ("checkpoint", "detections", "hdf5")
        for entry in list_folder(out / folder)
    }


def finish(
    command: list[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    seconds: float = 120,
) -> float:
    """Run to the end; returns the wall time."""
    began = time.monotonic()
    with group(command, log, env=env) as process:
        code = process.wait(seconds)
    if code != 0:
        raise RuntimeError(f"the last session ended with {code}: {log.read_text()[-2000:]}")
    return time.monotonic() - began


def check(out: Path, rows: int) -> None:
    """Check that every row is there once, HDF5 equals Parquet bit for bit, every file is intact."""
    run = Run.open(out)
    assert run.verify() == rows == run.manifest.rows.written
    table = pq.read_table([str(file) for file in run.files()]).sort_by("row_id")
    assert table["row_id"].to_pylist() == list(range(rows))
    assert table["detection_id"].combine_chunks().unique().to_pylist() == (
        table["detection_id"].to_pylist()
    )
    parquet = table["embedding"].combine_chunks().flatten().to_numpy().reshape(rows, -1)
    with h5py.File(out / "features.h5") as file:
        order = np.argsort(file["row_id"][:])
        assert (file["row_id"][:][order] == np.arange(rows)).all()
        assert file["features"][:][order].tobytes() == parquet.tobytes()
        assert file["valid"][:].all()
        assert (file["label_index"][:][order] == table["label_index"].to_numpy()).all()
