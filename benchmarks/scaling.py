"""How images/s grow: with threads and processes on this machine, and with workers of a Ray cluster.

    python -m benchmarks.scaling [--images PHOTOS] [--lanes 1 2 4] [--workers 1 2]

* **lanes**: loops that decode alone, and that decode and answer with each engine in float32, as one
  process with so many threads and one engine (what the local executor is), and as so many processes
  with a thread and an engine each. ``core_ms``: milliseconds of a core an image.
* **workers**: ``extract`` on a cluster of Ray nodes on this machine, each held to one core, in turn;
  images/s while all are at work, the share of their time that actors waited for blocks, and
  efficiency: images/s over those of one worker times the workers. Beyond the number of cores workers
  share them.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work), --quick, images/s: decode
513 and 537 with 1 and 2 threads, eager 61 and 42, OpenVINO 90 and 152 (2 processes: 489, 57, 71); one
worker on Ray, eager, 71.
"""

from __future__ import annotations

import os
import shutil
import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import runner
from benchmarks.jobs import extract_run, hot_loop, steady_rate

SLOTS = 3  # of a node: its actor, tasks beside it, and room for Ray's checkpoint filter
BLOCK_ROWS = 64  # small, because a rate is taken between whole blocks
ENGINES = [None, "eager", *(["openvino"] if find_spec("openvino") else [])]


def few_actors(actors: int, **how: Any) -> dict[str, Any]:
    """``extract_run`` with at most so many actors: nodes have more slots than cores."""
    from tests.helpers.few_actors import only

    only(actors, BLOCK_ROWS)
    return extract_run(**how)


def lanes(given: Any, images: Path) -> dict[str, runner.Contender]:
    """Threads and processes, for decoding alone and with each engine."""

    def loop(engine: str | None, threads: int, processes: int) -> runner.Measures:
        how: dict[str, Any] = {"model": {"spec": given.model}, "precision": "fp32"}
        how |= {"engine": engine, "seconds": given.seconds, "images": str(images)}
        found = runner.together(hot_loop, processes, lanes=threads, **how)
        core = statistics.mean(one["core_ms"] for one in found)
        return {"images/s": sum(one["rate"] for one in found), "core_ms": core}

    found: dict[str, runner.Contender] = {}
    for engine in ENGINES:
        for count in given.lanes:
            name = f"{engine or 'decode'}, {count}"
            found[f"{name} threads"] = lambda e=engine, n=count: loop(e, n, 1)  # type: ignore[misc]
            if count > 1:
                found[f"{name} processes"] = lambda e=engine, n=count: loop(e, 1, n)  # type: ignore[misc]
    return found


def workers(given: Any, images: Path, count: int, work: Path) -> runner.Measures:
    """One extraction on a fresh cluster of ``count`` nodes."""
    from tests.helpers.ray_cluster import cluster

    cores = sorted(os.sched_getaffinity(0))
    held = [[cores[number % len(cores)]] for number in range(count)]
    out, manifest = work / "run", work / "rows.csv"
    shutil.rmtree(out, ignore_errors=True)
    files = sorted(images.iterdir())[: given.rows * count]
    manifest.write_text("\n".join(["image", *map(str, files)]) + "\n")
    how: dict[str, Any] = {
        "precision": "fp32",
        "engine": "eager",
        "executor": "ray",
        "batch_rows": 32,
    }
    with cluster(*[SLOTS] * count, cores=held) as nodes:
        how["address"] = nodes.address
        how |= {"source": manifest, "model": {"spec": given.model}, "out": out}
        known = runner.call(few_actors, env=nodes.env, actors=count, **how).answer()
    return {"images/s": steady_rate(out, count)[0], "waited": known["waited"]}


def main() -> None:
    parser = runner.arguments(__doc__)
    parser.add_argument("--images", type=Path, help="a folder of JPEG files; drawn if not given")
    parser.add_argument("--model", default="timm:mobilenetv3_large_100")
    parser.add_argument("--lanes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3, help="of each loop")
    parser.add_argument("--rows", type=int, default=512, help="images a worker")
    given = runner.parsed(parser, lanes=[1, 2], workers=[1], seconds=0.5)
    report = runner.Report(f"scaling, {given.model}, float32")
    with runner.folder() as work:
        most = given.rows * max([1, *given.workers])
        images = runner.link_images(given.images, work / "images", most)
        contenders = lanes(given, images)
        for count in given.workers:
            contenders[f"{count} workers"] = lambda n=count: workers(given, images, n, work)  # type: ignore[misc]
        report.run(contenders, given.rounds)
    for engine in ENGINES:
        for count in (n for n in given.lanes if n > 1):
            name = f"{engine or 'decode'}, {count}"
            report.ratio(f"{name} threads", f"{name} processes", "images/s")
    report.show()
    if given.workers:
        one = report.median(f"{given.workers[0]} workers", "images/s") / given.workers[0]
        for count in given.workers:
            efficiency = report.median(f"{count} workers", "images/s") / count / one
            print(f"  {count} workers: efficiency {efficiency:.2f}")
    report.write(given.json)


if __name__ == "__main__":
    main()
