"""How much memory commands take, and whether it grows with the work.

    python -m benchmarks.memory [extract] [clips] [link] [--rows 4000 16000]

Whole processes at several sizes of the same work; the most that any process of each role took for
itself (anonymous pages, MiB), and by how many times the largest size exceeds the smallest.

* **extract**: --rows boxes of drawn images through ``tiny``, locally and on Ray; at the end, the bytes
  that the command's own process takes for each row more.
* **clips**: ``onepass clips`` at three scales of --clips videos of 64 frames, 1280 numbers each.
* **link**: ``onepass link`` of --frames frames of 200 detections, 1280 numbers each.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work), --quick, own MiB: extract 467 and 477
at 1,000 and 2,000 rows, clips 150 and 196 at 20 and 40, link 188 and 230 at 10 and 20 frames.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import runner
from benchmarks.link import write_scene
from benchmarks.made import column, write_run
from tests.helpers.killed_runs import make_source

DIM, CLIP_FRAMES, CLIPS_A_FILE = 1280, 64, 125


def by_role(ran: runner.Ran) -> runner.Measures:
    """Own MiB of the command itself and of the largest of Ray's and other processes below it."""
    command = max(own for title, own in ran.peaks if "onepass" in title)
    below = max((own for title, own in ran.peaks if "onepass" not in title), default=0.0)
    return {"seconds": ran.seconds, "own MiB": command, "below it MiB": below}


def extract(work: Path, rows: int, executor: str) -> runner.Measures:
    """One extraction of ``rows`` boxes."""
    source, out = work / f"images-{rows}", work / "run"
    shutil.rmtree(out, ignore_errors=True)
    manifest = source / "rows.csv" if source.is_dir() else make_source(source, rows)
    words = ["extract", str(manifest), "--model", "tiny", "--out", str(out)]
    words += ["--executor", executor]
    return by_role(runner.process([*runner.ONEPASS, *words], memory=True))


def clips(work: Path, count: int) -> runner.Measures:
    """``onepass clips`` of a run of ``count`` made videos."""

    def tables() -> Iterator[pa.Table]:
        for first in range(0, count, CLIPS_A_FILE):
            clip = np.repeat(np.arange(first, min(first + CLIPS_A_FILE, count)), CLIP_FRAMES)
            dice = np.random.default_rng(first)
            yield pa.table(
                {
                    "row_id": np.arange(first * CLIP_FRAMES, first * CLIP_FRAMES + len(clip)),
                    "sequence": [f"clip{number:06d}.mp4" for number in clip],
                    "frame": np.tile(np.arange(CLIP_FRAMES), len(clip) // CLIP_FRAMES),
                    "split": ["val" if number % 5 == 4 else "train" for number in clip],
                    "category": [f"class {number % 10}" for number in clip],
                    "embedding": column(dice.standard_normal((len(clip), DIM), np.float32)),
                }
            )

    run = write_run(work / "clips-run", DIM, tables())
    out = work / "clips"
    shutil.rmtree(out, ignore_errors=True)
    words = ["clips", str(run.path), "--out", str(out), "--scales", "1.0,0.85,1.15"]
    return by_role(runner.process([*runner.ONEPASS, *words], memory=True))


def link(work: Path, frames: int) -> runner.Measures:
    """``onepass link`` of one made sequence of ``frames`` frames."""
    run = write_scene(work / "link-run", frames, detections=200, dim=DIM)
    return by_role(runner.process([*runner.ONEPASS, "link", str(run)], memory=True))


def main() -> None:
    parts = ["extract", "clips", "link"]
    parser = runner.arguments(__doc__, rounds=1)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; all")
    parser.add_argument("--rows", type=int, nargs="+", default=[4_000, 16_000])
    parser.add_argument("--clips", type=int, nargs="+", default=[125, 500])
    parser.add_argument("--frames", type=int, nargs="+", default=[50, 200])
    given = runner.parsed(parser, rows=[1_000, 2_000], clips=[20, 40], frames=[10, 20])
    chosen = given.parts or parts
    if unknown := set(chosen) - set(parts):
        parser.error(f"{unknown}: the parts are {', '.join(parts)}")
    report = runner.Report("memory by the size of the work")
    with runner.folder() as work:
        sizes = {"extract": given.rows, "clips": given.clips, "link": given.frames}
        for part in chosen:
            for executor in ("local", "ray") if part == "extract" else ("",):
                names = [f"{part} {executor} {size}".replace("  ", " ") for size in sizes[part]]
                for name, size in zip(names, sizes[part], strict=True):
                    run = {
                        "extract": lambda s=size, e=executor: extract(work, s, e),  # type: ignore[misc]
                        "clips": lambda s=size: clips(work, s),
                        "link": lambda s=size: link(work, s),
                    }
                    report.run({name: run[part]}, given.rounds)
                report.ratio(names[-1], names[0], "own MiB")
                grown = report.median(names[-1], "own MiB") - report.median(names[0], "own MiB")
                more = sizes[part][-1] - sizes[part][0]
                report.facts[f"{part} {executor}, bytes a piece more"] = grown * runner.MIB / more
    report.show()
    print("  " + ", ".join(f"{name} {value:.0f}" for name, value in report.facts.items()))
    report.write(given.json)


if __name__ == "__main__":
    main()
