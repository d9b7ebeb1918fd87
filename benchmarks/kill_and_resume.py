"""Kill an extraction again and again, continue it, and count what came out.

    python benchmarks/kill_and_resume.py [--executor local|ray] [--kills 100] [--rows 2000] [--seed 0]

Each session is killed with SIGKILL, all of its processes at once, at a random moment; the same
command then goes on. A run that has ended is checked and a new one begins, until there were so many
kills. Two in five of the moments are drawn from the whole time that an undisturbed run takes, the
others from one of its parts, because most of a small run is start-up: while the plan is written,
while rows are answered, while HDF5 and manifest are written.

In each run that has ended every planned row must stand exactly once, HDF5 must equal Parquet bit
for bit, ``onepass inspect --verify`` must pass, and class and embedding of every row must be bit
for bit those of the undisturbed run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from common.storage import list_folder
from pipelines.execution.checkpoints import committed_rows
from pipelines.progress.event_log import NAME as EVENTS
from pipelines.run import Run

ROOT = Path(__file__).resolve().parent.parent
BOXES = 20  # a drawn image
FILES = 8  # a run of up to 4,096 rows on two cores writes
POLL_SECONDS = 0.005
PARTS = ("starting", "planning", "working", "ending")  # of a session, in their order


@dataclass(frozen=True)
class Kill:
    """One killed session: rows committed and data files on disk when it died."""

    rows: int
    files: int
    seconds: float


def make_source(folder: Path, rows: int, seed: int = 0) -> Path:
    """Draw images with ``BOXES`` boxes each; returns the manifest."""
    folder.mkdir(parents=True)
    random_ = np.random.default_rng(seed)
    lines = ["image,x1,y1,x2,y2"]
    for number in range(-(-rows // BOXES)):
        name = f"{number:05d}.jpg"
        coarse = random_.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 240)).save(folder / name)
        for _ in range(min(BOXES, rows - number * BOXES)):
            x, y = random_.uniform(0, 250), random_.uniform(0, 180)
            lines.append(f"{name},{x:.1f},{y:.1f},{x + 40:.1f},{y + 40:.1f}")
    manifest = folder / "rows.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def extract_command(source: Path, out: Path, executor: str = "auto") -> list[str]:
    return [
        *(sys.executable, "-m", "onepass", "extract", str(source)),
        *("--model", "tiny", "--out", str(out), "--hdf5", "--executor", executor),
    ]


@contextlib.contextmanager
def group(
    command: list[str], log: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` in a session of its own; nothing of it outlives the block."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            stdout=stream,
            stderr=stream,
        )
    try:
        yield process
    finally:
        kill_all(process)


def kill_all(process: subprocess.Popen[bytes], *, wait_seconds: float = 15) -> None:
    """SIGKILL the whole group at once, then whatever it had started elsewhere."""
    known = family(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + wait_seconds
    while left := {pid for pid, then in known.items() if born(pid) == then}:
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {sorted(left)} do not die")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def family(pid: int) -> dict[int, str]:
    """``pid``, its descendants and its session's processes, each with when it was born."""
    stats = {int(entry.name): stat_of(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")}
    found = {pid}
    grew = True
    while grew:
        grew = False
        for other, stat in stats.items():
            if stat and other not in found and (int(stat[1]) in found or int(stat[3]) == pid):
                found.add(other)
                grew = True
    return {member: stat[19] for member in found if (stat := stats.get(member))}


def born(pid: int) -> str | None:
    stat = stat_of(pid)
    return stat[19] if stat and stat[0] != "Z" else None


def stat_of(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` from the state on; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def data_files(out: Path) -> int:
    return len(list_folder(out / "detections", "*.parquet"))


def events_before_kill(dice: random.Random, kills: int, files: int = FILES) -> int:
    """Draw after how many events to kill, so that ``kills`` of them spread over the run.

    A data file makes three: its pending checkpoint, the file, the checkpoint's commit.
    """
    return dice.randint(1, max(1, int(1.5 * 3 * files / (kills + 1))))


def kill_once(
    command: list[str],
    out: Path,
    events: int,
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    seconds: float = 120,
) -> Kill:
    """Run until ``events`` new names were seen in the folders it writes to; kill."""
    began = time.monotonic()
    deadline = began + seconds
    before, seen = _names(out), set[str]()
    with group(command, log, env=env) as process:
        while len(seen) < events:
            seen |= _names(out) - before
            if process.poll() is not None:
                raise RuntimeError(
                    f"the session ended with {process.returncode} after {len(seen)} events, "
                    f"before its kill: {log.read_text()[-2000:]}"
                )
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(seen)} of {events} events in {seconds:g} s")
            time.sleep(POLL_SECONDS)
    return Kill(committed_rows(out), data_files(out), time.monotonic() - began)


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
    """Every planned row once, HDF5 equal to Parquet bit for bit, every file intact."""
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


class Progress:
    """How far the session is that has just begun on a run, by what it writes."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._is_new = not (out / "request.json").is_file()
        self._earlier = self._said()

    def part(self) -> str:
        """The part of a session that is going on: one of ``PARTS``."""
        said = self._said()[len(self._earlier) :]
        if b'"name": "hdf5"' in said:
            return "ending"
        if b'"event": "session"' in said:
            return "working"
        planning = (self._out / "plan").exists() and not (self._out / "request.json").is_file()
        return "planning" if self._is_new and planning else "starting"

    def _said(self) -> bytes:
        try:
            return (self._out / EVENTS).read_bytes()
        except FileNotFoundError:
            return b""


def time_parts(command: list[str], out: Path, log: Path) -> dict[str, float]:
    """Run ``command`` undisturbed; seconds of each part, and of the whole."""
    began = time.monotonic()
    spent = dict.fromkeys(PARTS, 0.0)
    progress, before = Progress(out), began
    with group(command, log) as process:
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            part, now = progress.part(), time.monotonic()
            spent[part] += now - before
            before = now
    if process.returncode != 0:
        raise RuntimeError(f"the undisturbed run failed: {log.read_text()[-2000:]}")
    return {**spent, "whole": before - began}


def kill_in(
    command: list[str], out: Path, log: Path, part: str, wait: float, *, seconds: float = 120
) -> str | None:
    """Kill ``wait`` seconds after ``part`` has begun ("whole": the session).

    Returns:
        The part that it died in; None where it came to its end before.
    """
    progress = Progress(out)
    reached = -1 if part == "whole" else PARTS.index(part)
    deadline = time.monotonic() + seconds
    with group(command, log) as process:
        while PARTS.index(progress.part()) < reached and process.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the session is not {part} after {seconds:g} s")
            time.sleep(POLL_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
        code, died = process.poll(), progress.part()
    if code:
        raise RuntimeError(f"the session ended with {code}: {log.read_text()[-2000:]}")
    return died if code is None else None


@dataclass
class Found:
    """What the runs that came to their end hold, added up."""

    runs: int = 0
    lost: int = 0
    twice: int = 0
    other: int = 0  # rows whose class or embedding differs from the undisturbed run's

    def add(self, out: Path, rows: int, exact: pa.Table) -> None:
        self.runs += 1
        table = answers(out)
        distinct = len(set(table["row_id"].to_pylist()))
        self.lost += rows - distinct
        self.twice += table.num_rows - distinct
        if distinct == table.num_rows == rows:
            self.other += rows - _same_bits(table, exact)
            check(out, rows)
            verify = [*(sys.executable, "-m", "onepass", "inspect", str(out)), "--verify"]
            subprocess.run(verify, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def answers(out: Path) -> pa.Table:
    """Every row's class and embedding, in the plan's order."""
    columns = ["row_id", "label_index", "score", "embedding"]
    files = list_folder(out / "detections", "*.parquet")
    return pa.concat_tables(pq.read_table(file, columns=columns) for file in files).sort_by(
        "row_id"
    )


def _same_bits(table: pa.Table, exact: pa.Table) -> int:
    same = np.ones(exact.num_rows, dtype=bool)
    for name in exact.column_names:
        same &= (_bits(table[name]) == _bits(exact[name])).all(1)
    return int(same.sum())


def _bits(column: pa.ChunkedArray) -> np.ndarray:
    values = column.combine_chunks()
    flat = values.flatten() if pa.types.is_fixed_size_list(values.type) else values
    return flat.to_numpy().reshape(len(values), -1).view(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--executor", choices=["local", "ray"], default="local")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    dice = random.Random(given.seed)
    work = Path(tempfile.mkdtemp(prefix="onepass-kill-"))
    began = time.monotonic()
    found, died, after_commit = Found(), Counter[str](), 0
    try:
        source, log = make_source(work / "images", given.rows), work / "log"
        finish(extract_command(source, work / "first", given.executor), log)  # from a cold disk
        quiet = work / "undisturbed"
        length = time_parts(extract_command(source, quiet, given.executor), quiet, log)
        exact = answers(quiet)
        told = ", ".join(f"{part} {seconds:.2f}" for part, seconds in length.items())
        print(f"{given.executor}, {given.rows} rows, seed {given.seed}; undisturbed, s: {told}")
        while died.total() < given.kills:
            out, committed, kills = work / f"run-{found.runs}", 0, 0
            while died.total() < given.kills:
                part = dice.choice(["whole", "whole", *PARTS[1:]])
                wait = dice.uniform(0, length[part])
                at = kill_in(extract_command(source, out, given.executor), out, log, part, wait)
                if at is None:
                    break
                kills += 1
                died[at] += 1
                before, committed = committed, committed_rows(out)
                after_commit += committed > 0
                if committed < before:
                    raise RuntimeError(f"{before} rows were committed, {committed} are left")
            finish(extract_command(source, out, given.executor), log)  # what has ended stays
            found.add(out, given.rows, exact)
            print(f"run {found.runs}: {kills} kills, {died.total()} so far; {found}", flush=True)
            shutil.rmtree(out)
    finally:
        shutil.rmtree(work)
    print(f"{died.total()} kills in {found.runs} runs of {given.rows} rows, {given.executor}")
    print("  while " + ", ".join(f"{part} {died[part]}" for part in PARTS))
    print(f"  after a commit {after_commit}")
    print(f"  rows lost {found.lost}, twice {found.twice}, other bits {found.other}")
    print(f"  {(time.monotonic() - began) / 60:.1f} minutes")
    if found.lost or found.twice or found.other:
        sys.exit(1)


if __name__ == "__main__":
    main()
