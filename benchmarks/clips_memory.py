"""How much memory does ``onepass clips`` take, and does it grow with the number of clips.

    python benchmarks/clips_memory.py [--clips 500 2000] [--frames 64] [--dim 1280] [--json out.json]

For each number of clips it writes a run of made-up embeddings, file by file, and runs
``onepass clips`` at three scales on it as a process of its own. From /proc (Linux) it reads
the peak resident size of that process and of every process below it, as the kernel counts it;
the largest of each role is told. Resident size counts the pages of Ray's shared object store.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _common import ENVIRONMENT

from common.json_models import write_atomic
from pipelines.model_info import ModelInfo, ModelRequest, Preprocess
from pipelines.run import RowCounts, RunManifest

SCALES = "1.0,0.85,1.15"
CLIPS_PER_FILE = 125
ALLOWED_MIB = 1024
LEVEL = 1.1  # the largest run's peak over the smallest's
ROLES = ("driver", "writer", "other Ray")


def write_run(folder: Path, clips: int, frames: int, dim: int) -> None:
    """A finished run of ``clips`` videos in two splits, without an image."""
    (folder / "detections").mkdir(parents=True)
    names = []
    for first in range(0, clips, CLIPS_PER_FILE):
        numbers = np.repeat(np.arange(first, min(first + CLIPS_PER_FILE, clips)), frames)
        rows = len(numbers)
        values = np.random.default_rng(first).standard_normal((rows, dim), dtype=np.float32)
        table = pa.table(
            {
                "row_id": pa.array(np.arange(first * frames, first * frames + rows)),
                "sequence": [f"clip{number:06d}.mp4" for number in numbers],
                "frame": pa.array(np.tile(np.arange(frames), rows // frames)),
                "split": ["val" if number % 5 == 4 else "train" for number in numbers],
                "category": [f"class {number % 10}" for number in numbers],
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), dim),
                "error": pa.nulls(rows, pa.string()),
            }
        )
        names.append(f"detections/part-{first:06d}.parquet")
        pq.write_table(table, folder / names[-1])
    facts = ModelInfo(
        request=ModelRequest(spec="tiny"),
        weights="made up",
        weights_sha256="0" * 64,
        labels_sha256=None,
        num_classes=10,
        feature_dim=dim,
        preprocess=Preprocess(input_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    )
    rows = clips * frames
    manifest = RunManifest(
        source="made up",
        root=str(folder),
        model=facts,
        fingerprint=facts.fingerprint,
        precision="fp32",
        precision_audit=None,
        rows=RowCounts(planned=rows, written=rows, failed=0),
        errors={},
        versions={},
        seconds=0.0,
        files=dict.fromkeys(names, ""),
    )
    write_atomic(folder / "manifest.json", manifest.model_dump_json().encode())


def below(pid: int) -> Iterator[int]:
    """``pid`` and every process under it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
        except OSError:  # it has ended
            continue
        parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    for each in parents:
        above = each
        while above in parents and above != pid:
            above = parents[above]
        if above == pid:
            yield each


def peak_mib(pid: int) -> float | None:
    """The largest resident size a process ever had; None where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith("VmHWM:")]
    return int(found[0].split()[1]) / 1024 if found else None


def role_of(pid: int, driver: int) -> str | None:
    """What a process is; None where it has ended or cannot be told yet."""
    if pid == driver:
        return "driver"
    try:
        title = (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None
    return "writer" if b"ray::clips" in title else "other Ray"


def measure(run: Path, out: Path) -> tuple[float, dict[str, float], int]:
    """Seconds, the peak of each role in MiB, and how many writers there were."""
    command = [sys.executable, "-m", "onepass", "clips", str(run), "--out", str(out)]
    began = time.monotonic()
    peaks: dict[int, float] = {}
    roles: dict[int, str] = {}
    with subprocess.Popen(
        [*command, "--scales", SCALES], stdout=subprocess.DEVNULL, env=ENVIRONMENT
    ) as process:
        while process.poll() is None:
            for pid in list(below(process.pid)):
                size, role = peak_mib(pid), role_of(pid, process.pid)
                if size is not None and role is not None:
                    peaks[pid] = size
                    if roles.get(pid) != "writer":  # between two tasks it is called idle
                        roles[pid] = role
            time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    largest = {
        role: max((peaks[pid] for pid in peaks if roles[pid] == role), default=0.0)
        for role in ROLES
    }
    return time.monotonic() - began, largest, sum(role == "writer" for role in roles.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(f"{given.frames} frames, {given.dim}-d, scales {SCALES}; largest of each role, MiB")
    print(f"{'clips':>7}{'embeddings':>12}{'seconds':>9}{'writers':>9}", end="")
    print("".join(f"{role:>11}" for role in ROLES))
    told: list[dict[str, Any]] = []
    for clips in given.clips:
        work = Path(tempfile.mkdtemp(prefix="onepass-clips-"))
        try:
            write_run(work / "run", clips, given.frames, given.dim)
            seconds, largest, writers = measure(work / "run", work / "out")
        finally:
            shutil.rmtree(work)
        stored = clips * given.frames * given.dim * 4 / 2**20
        print(f"{clips:>7}{stored:>12.0f}{seconds:>9.1f}{writers:>9}", end="")
        print("".join(f"{largest[role]:>11.0f}" for role in ROLES), flush=True)
        told.append({"clips": clips, "seconds": seconds, "writers": writers, "MiB": largest})
    first, last = told[0]["MiB"], told[-1]["MiB"]
    growth = {role: last[role] / first[role] for role in ("driver", "writer")}
    most = max(each["MiB"]["writer"] for each in told)
    word = "met" if most <= ALLOWED_MIB else "missed"
    print(f"  writer's peak {most:.0f} MiB, target <= {ALLOWED_MIB}  {word}")
    for role, ratio in growth.items():
        word = "met" if ratio <= LEVEL else "missed"
        print(f"  {role} {ratio:.2f} times as large at {given.clips[-1]} clips as at ", end="")
        print(f"{given.clips[0]}, target <= {LEVEL:g}  {word}")
    answer = {"frames": given.frames, "dim": given.dim, "cores": len(os.sched_getaffinity(0))}
    answer |= {"scales": SCALES, "runs": told, "growth": growth}
    print(json.dumps(answer))
    if given.json:
        given.json.write_text(json.dumps(answer, indent=2) + "\n")


if __name__ == "__main__":
    main()
