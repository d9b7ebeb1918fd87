"""Time and memory of ``onepass link`` by preset, on one long made sequence.

    python -m benchmarks.tracks_cost [--detections 200] [--frames 1000] [--dim 1280] [--rounds 3]

The scene of ``link.py``: objects that walk at random and look nearly alike. Every preset is a command of its
own, in turn; own MiB are anonymous pages. The last lines are ratios of the first preset to each other one.

Printed last on 2026-12-01, 2 cores (AMD EPYC, busy with other work): default 20.0 s and 829 MiB, online 10.2 s and 408 MiB. Of
long sequences (``--detections 4 --dim 64``): 50,000 frames 730 MiB, 100,000 frames 846 MiB.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import runner
from benchmarks.link import write_scene
from tracks.association.options import PRESETS
from tracks.store import read_tracks


def linked(run: Path, preset: str) -> runner.Measures:
    """One command."""
    words = ["link", str(run), "--preset", preset]
    ran = runner.process([*runner.ONEPASS, *words], memory=True)
    tracks = len(read_tracks(run)["track_id"].drop_null().unique())
    return {"seconds": ran.seconds, "own MiB": ran.own_mib(), "tracks": float(tracks)}


def main() -> None:
    parser = runner.arguments(__doc__)
    parser.add_argument("--detections", type=int, default=200, help="of a frame")
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    given = runner.parsed(parser, detections=20, frames=20)
    report = runner.Report(f"onepass link, {given.frames} frames of {given.detections} detections")
    with runner.folder() as work:
        run = write_scene(work / "run", given.frames, detections=given.detections, dim=given.dim)
        contenders = {
            preset: lambda preset=preset: linked(run, preset)  # type: ignore[misc]
            for preset in given.presets
        }
        report.run(contenders, given.rounds)
    first, *rest = given.presets
    for other in rest:
        for measure in ("seconds", "own MiB"):
            report.ratio(first, other, measure)
    report.show()
    report.write(given.json)


if __name__ == "__main__":
    main()
