"""Does a server stay as it is? An hour of searches, live linking and a writer, every answer compared.

    python -m benchmarks.soak [--minutes 60] [--clients 16] [--rows 5000] [--every 60]

``onepass serve`` is a process of its own. Meanwhile, as processes and threads beside it:

* **clients** search by vector (exact, and with the approximate index) and by id. Each answer names the
  version that gave it, and is compared with brute force over the rows of that version, which are known
  from what the writer did and not from the index: answers wait until the writer knows their version.
  A detection that was deleted in the version being served must not be found;
* **one camera** sends five frames a second of objects that come and go; an object must keep its track,
  and every fiftieth frame is sent twice;
* **one writer** adds a run, deletes the one of two turns before, compacts and prunes, by the command
  line, once a minute.

Every ten seconds memory, open files, mapped files that are deleted, and the disk space of the index and
of the state of linking are looked at. They are flat where, after the first ten minutes (of a shorter
soak a sixth, one minute at least), the medians of the first and the last third differ by 5 % or a stated step at most.
Exit code 1 where something is not flat, wrong or an error.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work), 60 minutes, 16 clients: 506,300
answers, 16,710 frames and 182 versions, nothing wrong; after ten minutes RSS 406 to 408 MiB, anonymous 242 to 244,
34 handles, index 7.1 MiB, state of linking 4.0.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runner
from benchmarks.soak_world import Camera, Searches, Writer
from tests.helpers.api.world import free_port
from tests.helpers.indexes import embeddings, make_run
from tests.helpers.killed_servers import wait_until_ready

SAMPLE_SECONDS = 10.0
WARM_UP_SECONDS = 600.0
MIN_WARM_UP_SECONDS = 60.0  # the log of SQLite grows to its 4 MiB
RECALL = 0.95  # that an index is tuned for
# The smallest growth that is none, by measure.
STEPS = {
    "RSS MiB": 16.0,
    "anonymous MiB": 8.0,
    "handles": 8.0,
    "deleted maps": 8.0,
    "index MiB": 1.0,
    "link MiB": 1.0,
}


def sample(pid: int, index: Path, state: Path) -> dict[str, float]:
    """What a server holds now."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if " kB" in line}
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {
        "RSS MiB": int(kib["VmRSS"]) / 1024,
        "anonymous MiB": int(kib["RssAnon"]) / 1024,
        "handles": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "deleted maps": len([line for line in maps if line.endswith("(deleted)")]),
        "index MiB": folder_bytes(index) / runner.MIB,
        "link MiB": folder_bytes(state) / runner.MIB,
    }


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below; those that are removed meanwhile do not count."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def judge(samples: list[dict[str, float]], warm_up: float) -> dict[str, dict[str, Any]]:
    """For each measure the medians of the first and last third after the warm-up, and its slope."""
    warm = [each for each in samples if each["seconds"] >= warm_up]
    third = max(1, len(warm) // 3)
    judged = {}
    for name, step in STEPS.items():
        first, last = (
            statistics.median(each[name] for each in part) for part in (warm[:third], warm[-third:])
        )
        hours = [each["seconds"] / 3600 for each in warm]
        slope = np.polyfit(hours, [each[name] for each in warm], 1)[0] if len(warm) > 1 else 0.0
        judged[name] = {
            "first": first,
            "last": last,
            "an hour": float(slope),
            "flat": bool(last - first <= max(step, 0.05 * first)),
        }
    return judged


def show(
    samples: list[dict[str, float]], judged: dict[str, dict[str, Any]], warm_up: float
) -> None:
    """Print a line a minute, and a verdict a measure."""
    heads = [*STEPS, "answers", "frames", "versions"]
    print(f"{'minute':>7}" + "".join(f"{head:>15}" for head in heads))
    minutes = defaultdict(list)
    for each in samples:
        minutes[int(each["seconds"] // 60)].append(each)
    for minute, group in minutes.items():
        middle = {head: statistics.median(each[head] for each in group) for head in heads}
        print(f"{minute:>7}" + "".join(f"{middle[head]:>15,.1f}" for head in heads))
    print(f"after {warm_up:.0f} s, medians of the first and the last third:")
    for name, each in judged.items():
        verdict = "flat" if each["flat"] else "GROWS"
        print(
            f"  {name:<15}{each['first']:>10.1f}{each['last']:>10.1f}"
            f"{each['an hour']:>+10.1f} an hour  {verdict}"
        )


def soak(given: Any, work: Path) -> dict[str, Any]:
    """Run all of it for so many minutes."""
    vectors = embeddings(given.rows, dim=64)
    index, state = work / "index", work / "state"
    base = make_run(work / "base", vectors)
    build = [*runner.ONEPASS, "index", "build", str(base), "--out", str(index)]
    runner.process([*build, "--factory", "IVF32,Flat"])  # or so few rows are all compared
    port, over = free_port(), threading.Event()
    command = [*runner.ONEPASS, "serve", str(index), "--port", str(port)]
    command += ["--link-state", str(state / "links.sqlite3")]
    with (work / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=runner.ENVIRONMENT, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    samples: list[dict[str, float]] = []
    try:
        if not wait_until_ready(url):
            raise RuntimeError(f"not ready: {(work / 'server.log').read_text()[-1000:]}")
        searches = Searches(url, vectors, over)
        camera = Camera(url, vectors.shape[1], over)
        writer = Writer(url, work, index, searches, over, given.every)
        workers = [camera.run, writer.run, searches.check, *[searches.ask] * given.clients]
        threads = [threading.Thread(target=each, daemon=True) for each in workers]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while (seconds := time.monotonic() - began) < 60 * given.minutes:
            counts = {"answers": searches.compared, "frames": camera.frames}
            counts |= {"versions": searches.versions_made, "seconds": seconds}
            samples.append(sample(server.pid, index, state) | counts)
            time.sleep(SAMPLE_SECONDS)
        over.set()
        for thread in threads:
            thread.join(120)
    finally:
        server.terminate()
        server.wait(60)
    searches.finish()
    found = {
        "compared": searches.compared,
        "recall": searches.recall,
        "not found, rightly": searches.absent,
        "frames": camera.frames,
        "versions": searches.versions_made,
        "wrong": searches.wrong + camera.wrong,
        "errors": searches.errors + camera.errors + writer.errors,
        "threads that hang": sum(thread.is_alive() for thread in threads),
        "exit code": server.returncode,
    }
    return {"samples": samples, "found": found}


def main() -> None:
    parser = runner.arguments(__doc__, rounds=1)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rows", type=int, default=5_000, help="that are always there")
    parser.add_argument("--every", type=float, default=60, help="seconds of a turn of the writer")
    given = runner.parsed(parser, minutes=2, clients=4, rows=1_000, every=10)
    warm_up = min(WARM_UP_SECONDS, max(MIN_WARM_UP_SECONDS, 10 * given.minutes))
    with runner.folder() as work:
        result = soak(given, work)
    judged = judge(result["samples"], warm_up)
    found = result["found"]
    print(f"{runner.machine()}; {given.minutes:g} minutes, {given.clients} clients")
    show(result["samples"], judged, warm_up)
    for name, value in found.items():
        shown = f"{len(value)} {value[:3]}" if isinstance(value, list) else f"{value:.4g}"
        print(f"  {name:<20}{shown}")
    if given.json:
        given.json.write_text(json.dumps({"judged": judged, **result}, indent=2) + "\n")
    clean = not (found["wrong"] or found["errors"] or found["threads that hang"])
    if not (clean and found["recall"] >= RECALL and all(each["flat"] for each in judged.values())):
        sys.exit(1)


if __name__ == "__main__":
    main()
