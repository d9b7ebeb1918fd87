"""One extraction on a cluster of several nodes, with faults in it, and its outcome.

Where the command ends with an error or is killed, the same command is given again, as a user would,
until the run is finished or the limit of commands is reached.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.run import Run
from tests.helpers.faults import ACTOR_TITLE, INSIDE, PROGRESS_TITLE, Faults
from tests.helpers.killed_runs import make_source
from tests.helpers.processes import group
from tests.helpers.ray_cluster import Cluster

NODES, SLOTS = 3, 2
BLOCK_ROWS = 128
SLOW_SECONDS = 0.25  # every block takes so much longer, so that faults happen in mid-run
STALL_SECONDS = 120
MOST_COMMANDS = 8  # for one run
LEFT_SECONDS = 20.0  # in which workers of a run must end after it


@dataclass
class Outcome:
    """One run, from its first command to its end."""

    seconds: float
    commands: int = 1
    happened: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)  # faults after which the command was given again
    hangs: int = 0
    lost: int = 0
    twice: int = 0
    other: int = 0  # rows that differ from the undisturbed run's
    left: list[str] = field(default_factory=list)  # processes that did not end
    errors: list[str] = field(default_factory=list)  # last lines of commands that failed
    log: str = ""  # of all commands

    @property
    def is_whole(self) -> bool:
        """Whether nothing is lost, twice, different, left behind or still running."""
        return not (self.hangs or self.lost or self.twice or self.other or self.left)


class Chaos:
    """The cluster, the images, and the rows of an undisturbed run."""

    def __init__(
        self, nodes: Cluster, work: Path, rows: int, dice: random.Random, hang_seconds: float
    ) -> None:
        self.nodes, self.work, self.rows, self.dice = nodes, work, rows, dice
        self.hang_seconds = hang_seconds
        self.faults = Faults(nodes, work / "faults", dice)
        self.source = make_source(work / "images", rows)
        self.log = work / "log"
        self._runs = 0
        self.truth: pa.Table | None = None

    def run(
        self,
        planned: Sequence[tuple[int, float, str]] = (),
        *,
        most_commands: int = MOST_COMMANDS,
    ) -> Outcome:
        """One run with ``planned`` faults.

        Args:
            planned: for each fault the number of data files and the seconds since the start after
                which it is caused, and its kind.
            most_commands: how often the command is given at most.
        """
        self._runs += 1
        out = self.work / f"run-{self._runs}"
        command = [
            *(sys.executable, "-m", "tests.helpers.few_actors", str(NODES), str(BLOCK_ROWS)),
            *("extract", str(self.source), "--model", "tiny", "--out", str(out)),
            # Named, because bits are compared and the defaults depend on the machine.
            *("--precision", "fp32", "--engine", "eager"),
            *("--stall-seconds", str(STALL_SECONDS)),
        ]
        began = time.monotonic()
        ran = Outcome(0.0, commands=0)
        waiting = sorted(planned)

        def is_due() -> bool:
            files, seconds, _ = waiting[0]
            return time.monotonic() - began >= seconds and files <= len(
                list((out / "detections").glob("*.parquet"))
            )

        at = self._log_bytes()
        while ran.commands < most_commands:
            ran.commands += 1
            code, last = self._command(command, is_due, waiting, ran)
            if code == 0:
                break
            ran.again.append(last or "start")
        ran.seconds = time.monotonic() - began
        ran.log = self.log.read_bytes()[at:].decode(errors="replace")
        self.faults.clear()
        self._judge(out, ran)
        shutil.rmtree(out, ignore_errors=True)
        while len(self.nodes.nodes) < NODES:
            self.nodes.add(SLOTS)
        self.nodes.wait_for(NODES)
        return ran

    def _command(
        self,
        command: list[str],
        is_due: Callable[[], bool],
        waiting: list[tuple[int, float, str]],
        ran: Outcome,
    ) -> tuple[int, str | None]:
        """Give the command once; its exit code, and the last fault that it met."""
        deadline = time.monotonic() + self.hang_seconds
        at, before = self._log_bytes(), len(ran.happened)
        with group(command, self.log, env=self.nodes.env) as driver:
            while driver.poll() is None:
                if time.monotonic() > deadline:
                    ran.hangs += 1
                    break
                while waiting and is_due():
                    _, _, kind = waiting.pop(0)
                    done = driver.poll() is None and self.faults.do(kind, driver)
                    if done and kind not in INSIDE:
                        ran.happened.append(kind)
                ran.happened += self.faults.happened()
                time.sleep(0.02)
        ran.happened += self.faults.happened()
        code = driver.returncode
        if code:
            lines = self.log.read_bytes()[at:].decode(errors="replace").strip().splitlines()
            # The last line may be a raylet's.
            lines = [line for line in lines if not line.startswith("ray: ")]
            ran.errors.append(f"{code}: {lines[-1] if lines else ''}")
        return code, ran.happened[-1] if len(ran.happened) > before else None

    def _log_bytes(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _judge(self, out: Path, ran: Outcome) -> None:
        try:
            run = Run.open(out)
            table = run.to_arrow(["row_id", "label", "score", "embedding", "error"])
            run.verify()
        except Exception as error:  # any error is a run that is not whole
            ran.errors.append(f"not verified: {error}")
            ran.lost = self.rows
            return
        ids = Counter(table["row_id"].to_pylist())
        ran.lost = sum(row not in ids for row in range(self.rows))
        ran.twice = sum(count > 1 for count in ids.values())
        if self.truth is None:
            self.truth = table
        elif not ran.lost and not ran.twice:
            ran.other = differing(self.truth, table)
        deadline = time.monotonic() + LEFT_SECONDS
        while titles := self._left():
            if time.monotonic() > deadline:
                ran.left = titles
                break
            time.sleep(0.2)

    def _left(self) -> list[str]:
        """Processes on the cluster that belong to a run."""
        return ["actor" for _ in self.nodes.pids(ACTOR_TITLE)] + [
            "progress actor" for _ in self.nodes.pids(PROGRESS_TITLE)
        ]


def differing(a: pa.Table, b: pa.Table) -> int:
    """Number of rows whose results differ in any bit."""
    rows = np.zeros(a.num_rows, bool)
    for name in ("label", "score", "error"):
        pairs = zip(a[name].to_pylist(), b[name].to_pylist(), strict=True)
        rows |= np.array([x != y for x, y in pairs])
    bits_a, bits_b = (
        t["embedding"].combine_chunks().flatten().to_numpy().view(np.uint32).reshape(t.num_rows, -1)
        for t in (a, b)
    )
    return int((rows | (bits_a != bits_b).any(1)).sum())
