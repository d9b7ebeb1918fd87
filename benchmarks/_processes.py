"""Commands as whole trees of processes: how long they take, and the memory of each process.

Sizes are read from /proc (Linux) ten times a second, in MiB:

* ``own``: anonymous pages (RssAnon), what a process really takes from the machine;
* ``shared``: pages of shared memory it touched (RssShmem), Ray's object store above all;
* ``resident``: all of it, pages of mapped files included, which the kernel drops when it wants
  them. This one is the kernel's own peak (VmHWM), so nothing between two looks is missed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _common import ENVIRONMENT, HERE

EVERY_SECONDS = 0.1
ONEPASS = [sys.executable, "-m", "onepass"]


@dataclass
class Peak:
    """The most that one process took; MiB."""

    title: str
    own: float = 0.0
    shared: float = 0.0
    resident: float = 0.0


@dataclass(frozen=True)
class Watched:
    """A command that ended: wall time, and the peak of every process it started."""

    seconds: float
    processes: list[Peak]

    def most(self, size: str) -> float:
        """The largest ``size`` of any process."""
        return max(float(getattr(peak, size)) for peak in self.processes)

    def told(self, few: int = 5) -> dict[str, Any]:
        """As plain records, the ``few`` largest processes named."""
        ordered = sorted(self.processes, key=lambda peak: -peak.own)
        sizes = {size: self.most(size) for size in ("own", "shared", "resident")}
        named = [asdict(peak) for peak in ordered[:few]]
        return {"seconds": self.seconds, **sizes, "processes": len(ordered), "largest": named}


def watched(command: Sequence[str], log: Path) -> Watched:
    """Run ``command`` to its end and watch its tree; output goes to ``log``.

    Raises:
        RuntimeError: it failed; the message ends with what it said last.
    """
    began = time.monotonic()
    seen: dict[tuple[int, str], Peak] = {}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=HERE.parent, env=ENVIRONMENT, stdout=stream, stderr=stream
        )
        try:
            while process.poll() is None:
                look(process.pid, seen)
                time.sleep(EVERY_SECONDS)
        finally:
            process.kill()
            process.wait()
    seconds = time.monotonic() - began
    if process.returncode != 0:
        said = log.read_text(errors="replace")[-1000:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said}")
    return Watched(seconds, list(seen.values()))


def look(root: int, seen: dict[tuple[int, str], Peak]) -> None:
    """Take the sizes of ``root``, its descendants and those ``seen`` before that still live."""
    stats = {int(e.name): stat_of(int(e.name)) for e in Path("/proc").glob("[0-9]*")}
    known = {pid for pid, born in seen if stats.get(pid) and stats[pid][19] == born} | {root}
    grew = True
    while grew:
        more = {p for p, stat in stats.items() if stat and int(stat[1]) in known} - known
        known |= more
        grew = bool(more)
    for pid in known:
        sizes = sizes_of(pid)
        if sizes is None or not stats.get(pid):
            continue
        peak = seen.setdefault((pid, stats[pid][19]), Peak(""))
        peak.title = title_of(pid) or peak.title
        peak.own = max(peak.own, sizes["RssAnon"])
        peak.shared = max(peak.shared, sizes["RssShmem"])
        peak.resident = max(peak.resident, sizes["VmHWM"])


def sizes_of(pid: int) -> dict[str, float] | None:
    """MiB of each kind in /proc/PID/status; None where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    sizes = {
        name: int(value.split()[0]) / 1024
        for name, _, value in (line.partition(":") for line in lines)
        if value.endswith("kB")
    }
    return sizes if "RssAnon" in sizes else None


def stat_of(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(pid: int) -> float:
    """Seconds of a core that a process has used so far."""
    stat = stat_of(pid)
    return (int(stat[11]) + int(stat[12])) / 100 if stat else 0.0


def title_of(pid: int) -> str:
    """What a process calls itself, shortened."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return " ".join(Path(word).name for word in words[:4] if word)[:60]


def busy_seconds(pids: Iterable[int]) -> dict[int, float]:
    """Seconds of a core that each process has used so far."""
    return {pid: cpu_seconds(pid) for pid in pids}
