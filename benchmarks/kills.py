"""What is lost when commands are killed at random moments and given again: rows, answers, frames.

    python -m benchmarks.kills [--kills 1000] [--seed 0] [--what build add ...]

Each kill is SIGKILL to the whole session of a command, at a moment drawn from the time that an
undisturbed one takes, or right before one of the changes to files that it makes (on Ray: at a moment). Up to three sessions of one piece of work are killed, then the same command
runs to its end:

* **extract-local**, **extract-ray**, **migrate**: every row once, bit for bit that of an undisturbed
  run, Parquet and HDF5; between kills a run is finished and whole, or does not open;
* **build**, **add**, **compact**, **promote**: what is served has the rows of before or of after, and
  all versions their sha256, at every moment; after the last command the rows are the undisturbed ones;
* **serve**: servers that start or answer are killed; every answer is that of brute force;
* **link**: a camera sends a frame again until it is answered; all answers and the open tracks are
  those of a server that was never killed.

No process, draft, temporary file or unnamed segment may be left. Commands are forked from a Python
that has imported everything, so that a moment falls into the work and not into the imports; on Ray
they are whole processes. Exit code 1 where anything is lost, twice, other or hangs.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work), in five runs: 1,005 kills (extract-local
85, extract-ray 34, migrate 90, build 133, add 162, compact 88, promote 162, serve 120, link 131), 936 of them
at work: nothing lost, twice, other, left, or hanging.
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path

import faiss

from benchmarks import runner
from tests.helpers.fork_server import ForkServer
from tests.helpers.killed_indexes import COMMANDS, IndexCommand, IndexWorld, Migrate
from tests.helpers.killed_runs import make_source
from tests.helpers.killed_servers import kill_linking, kill_servers
from tests.helpers.kills import Extract, ExtractOnRay, Findings, Target, kill_command

WHAT = ("extract-local", "extract-ray", "migrate", *COMMANDS, "serve", "link")
ROWS, VECTORS = 400, 3_000


def kill(
    what: str,
    kills: int,
    seed: int,
    work: Path,
    forks: ForkServer,
    *,
    rows: int = ROWS,
    vectors: int = VECTORS,
) -> Findings:
    """Kill one command so often.

    Args:
        what: the command, of ``WHAT``.
        kills: how often.
        seed: of the moments.
        work: a new folder.
        forks: runs the commands.
        rows: of a run that is extracted.
        vectors: of an index.
    """
    dice = random.Random(f"{seed} {what}")
    work.mkdir()
    if what == "serve":
        return kill_servers(forks, work, kills, dice)
    if what == "link":
        return kill_linking(forks, work, kills, dice)
    target: Target
    if what in COMMANDS:
        target = IndexCommand(forks, IndexWorld(work / "world", vectors).make(), what)
    else:
        source = make_source(work / "images", rows)
        target = (ExtractOnRay if what == "extract-ray" else Extract)(forks, source, rows)
        if what == "migrate":
            target.prepare(work / "old")
            target.run(work / "old", work / "log", {})
            target = Migrate(forks, work / "old" / "run", work / "served")
    return kill_command(target, work, kills, dice)


def table(rows: dict[str, Findings]) -> str:
    """One line a command."""
    heads = ("what", "kills", "at work", "lost", "twice", "hangs", "wrong")
    lines = [f"{heads[0]:<15}" + "".join(f"{head:>9}" for head in heads[1:])]
    for what, each in rows.items():
        numbers = (each.kills, each.at_work, each.lost, each.twice, each.hangs, len(each.wrong))
        lines.append(f"{what:<15}" + "".join(f"{number:>9}" for number in numbers))
    return "\n".join(lines)


def main() -> None:
    parser = runner.arguments(__doc__, rounds=1)
    parser.add_argument("--kills", type=int, default=1000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--work", type=Path, help="a folder to keep, to look into what is wrong")
    given = runner.parsed(parser, kills=len(WHAT))
    found: dict[str, Findings] = {}
    with runner.folder(given.work) as work:
        temporary = work / "tmp"
        temporary.mkdir()
        # FAISS on a few rows is ten times slower when its threads wait for each other.
        faiss.omp_set_num_threads(1)
        env = {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
        with ForkServer(command_line=True, env=env) as forks:
            for number, what in enumerate(given.what):
                share = (given.kills + number) // len(given.what)
                began = time.monotonic()
                found[what] = kill(what, share, given.seed, work / what, forks)
                each = found[what]
                done = f"{what}: {each.kills} kills in {time.monotonic() - began:.0f} s"
                print(f"{done}, wrong {each.wrong[:5]}", file=sys.stderr, flush=True)
        left = sorted(entry.name for entry in temporary.iterdir())
    print(f"{runner.machine()}; seed {given.seed}\n{table(found)}")
    print(f"temporary files left: {len(left)} {left[:5]}")
    if given.json:
        report = {what: asdict(each) for what, each in found.items()}
        given.json.write_text(json.dumps({"seed": given.seed, "left": left, **report}, indent=2))
    if left or not all(each.is_clean for each in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
