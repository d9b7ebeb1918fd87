"""Processes: started in a group that nothing outlives, found by title or variable, and signalled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.005


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
    """SIGKILL the whole group at once, then what it had started outside the group."""
    tree = process_tree(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + wait_seconds
    while left := {pid for pid, then in tree.items() if start_time(pid) == then}:
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {sorted(left)} do not die")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def process_tree(pid: int) -> dict[int, str]:
    """Start times of ``pid``, its descendants and the processes of its session, by process id."""
    stats = {int(entry.name): proc_stat(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")}
    tree = {pid}
    grew = True
    while grew:
        grew = False
        for other, stat in stats.items():
            if stat and other not in tree and (int(stat[1]) in tree or int(stat[3]) == pid):
                tree.add(other)
                grew = True
    return {member: stats[member][19] for member in tree if stats.get(member)}


def start_time(pid: int) -> str | None:
    """When a living process was started, in clock ticks since boot: tells reused ids apart."""
    stat = proc_stat(pid)
    return stat[19] if stat and stat[0] != "Z" else None


def proc_stat(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` from the state on; empty where the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def title_of(pid: int) -> str:
    """A process's title, its command line; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def processes_with_env(variable: str) -> dict[int, str]:
    """Titles of living processes that have ``variable``, NAME=VALUE, in their environment.

    The parent and the group of a process do not matter.
    """
    titles = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or of another user
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                titles[int(folder.name)] = title_of(int(folder.name))
    return titles


def signal_to(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False where the process has ended."""
    if not proc_stat(pid):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
