"""How well settings of ``onepass link`` do on clips that nobody chose them on.

    python -m benchmarks.tracks_held_out DATA --grid GRID.json [--presets] [--phases 2] [--work DIR]

GRID.json: fields of ``LinkOptions`` and lists of values, ``{"distance_weight": [1, 4], "max_cost": [1, 2]}``
for one; every combination is tried on every clip and rate. For each clip: the mean score of the setting that
is best on the *other* clips, beside the best on this very clip. Their difference is what tuning on a clip
flatters it by.

Printed last on 2026-11-30 for this grid: IDF1 0.771 chosen elsewhere, 0.794 chosen here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runner
from benchmarks.tracking.clips import CLIPS, Case, judge, load, phases
from benchmarks.tracking.linking import link_cases, write_cases
from tracks.association.options import PRESETS, LinkOptions

GRID: dict[str, list[Any]] = {"distance_weight": [1.0, 4.0], "max_cost": [1.0, 2.0]}
Scores = dict[str, dict[str, float]]  # by setting and clip


def combinations(grid: Mapping[str, Sequence[Any]]) -> dict[str, LinkOptions]:
    """The default with every combination of the values of a grid, by what was changed."""
    first = PRESETS["online"]
    found = {}
    for values in product(*grid.values()):
        changes = dict(zip(grid, values, strict=True))
        found[", ".join(f"{name}={value}" for name, value in changes.items())] = first.replace(
            **changes
        )
    return found


def measure(
    settings: Mapping[str, LinkOptions], clips: Mapping[str, Sequence[Case]], work: Path, score: str
) -> Scores:
    """The mean score of each setting on each clip: over the first frames of a rate, then over rates."""
    found: Scores = {name: {} for name in settings}
    for clip, cases in clips.items():
        run = write_cases(work / f"{clip}-cases", cases)
        for name, options in settings.items():
            by_stride: dict[str, list[float]] = {}
            for case, labels in zip(cases, link_cases(run, cases, options), strict=True):
                stride = case.name.partition("+")[0]
                by_stride.setdefault(stride, []).append(getattr(judge(case, labels), score))
            found[name][clip] = float(np.mean([np.mean(one) for one in by_stride.values()]))
            print(f"  {clip}: {name}: {found[name][clip]:.3f}", flush=True)
    return found


def held_out(scores: Scores) -> dict[str, tuple[float, str, float, str]]:
    """For each clip, its score and setting when chosen on the others, and when chosen on itself."""
    found = {}
    for clip in next(iter(scores.values())):

        def elsewhere(name: str, clip: str = clip) -> float:
            return float(np.mean([one for other, one in scores[name].items() if other != clip]))

        def here(name: str, clip: str = clip) -> float:
            return scores[name][clip]

        chosen, best = max(scores, key=elsewhere), max(scores, key=here)
        found[clip] = (here(chosen), chosen, here(best), best)
    return found


def main() -> None:
    parser = runner.arguments(__doc__, rounds=1)
    parser.add_argument("data", type=Path)
    parser.add_argument("--grid", type=Path, help=f"default: {GRID}")
    parser.add_argument("--presets", action="store_true", help="the presets instead of a grid")
    parser.add_argument("--score", default="idf1", choices=("idf1", "hota", "ass_a"))
    parser.add_argument("--phases", type=int, default=2, help="first frames of each rate")
    parser.add_argument(
        "--full-rate", action="store_true", help="every frame as well; takes longer"
    )
    parser.add_argument("--work", type=Path, help="keeps the runs of the embeddings")
    given = runner.parsed(parser, phases=1)
    grid = json.loads(given.grid.read_text()) if given.grid else GRID
    settings = dict(PRESETS) if given.presets else combinations(grid)
    report = runner.Report(f"{given.score} of settings chosen on other clips")
    with runner.folder(given.work) as work:
        clips = {}
        for name, clip in CLIPS.items():
            whole = load(clip, given.data, work)
            clips[name] = [
                whole.thin(stride, first)
                for stride in clip.strides
                if stride > 1 or given.full_rate
                for first in phases(stride, given.phases)
            ]
        scores = measure(settings, clips, work, given.score)
    result = held_out(scores)
    print(f"\n{given.score} of {len(settings)} settings".ljust(26) + "chosen elsewhere   here")
    for clip, (score, chosen, most, best) in result.items():
        print(f"  {clip:<24}{score:.3f} {most:.3f}  {chosen} | {best}")
    means = [float(np.mean([one[at] for one in result.values()])) for at in (0, 2)]  # type: ignore[misc]
    print(f"  {'mean':<24}{means[0]:.3f} {means[1]:.3f}; flattered by {means[1] - means[0]:.3f}")
    report.facts |= {"scores": scores, "held out": result, "means": means}
    report.write(given.json)


if __name__ == "__main__":
    main()
