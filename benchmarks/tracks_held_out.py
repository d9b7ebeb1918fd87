"""How well the constants of offline linking do on clips that nobody chose them on.

    python -m benchmarks.tracks_held_out DATA [--grid GRID.json] [--phases 2] [--work DIR]

GRID.json: names of constants in ``tracks/offline`` and values to try, ``{"MISSED": [0.35, 0.7]}`` for one;
every combination is tried on every clip and rate. For each clip: the mean score of the combination that is
best on the *other* clips, beside the best on this very clip, and beside the constants as they are. The first two
differ by what tuning on a clip flatters it by.

Printed last on 2026-12-01, IDF1, mean over clips: 0.902 chosen elsewhere, 0.925 chosen here, 0.919 as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runner
from benchmarks.tracking.clips import CLIPS, Case, judge, load, phases
from benchmarks.tracking.linking import link_cases, write_cases
from tracks.association.options import PRESETS
from tracks.offline import linker

GRID: dict[str, list[float]] = {
    "FREEDOM": [1.0, 2.0, 4.0],
    "OUTLIERS": [0.03, 0.1, 0.3],
    "MISSED": [0.35, 0.7, 1.4],
}
AS_IS = "as it is"
Setting = Mapping[str, float]  # constants by name
Scores = dict[str, dict[str, float]]  # by setting and clip


def combinations(grid: Mapping[str, Sequence[float]]) -> dict[str, Setting]:
    """Every combination of the values of a grid, by what it says, and the constants as they are."""
    found: dict[str, Setting] = {AS_IS: {}}
    for values in product(*grid.values()):
        setting = dict(zip(grid, values, strict=True))
        found[", ".join(f"{name}={value}" for name, value in setting.items())] = setting
    return found


@contextmanager
def changed(setting: Setting) -> Iterator[None]:
    """Constants of offline linking with other values, in every module that has them."""
    package = linker.__name__.rpartition(".")[0]
    modules = [module for name, module in sys.modules.items() if name.startswith(package)]
    before: list[tuple[Any, str, float]] = []
    for name, value in setting.items():
        holders = [module for module in modules if hasattr(module, name)]
        if not holders:
            raise SystemExit(f"no module of {package} has {name}")
        for module in holders:
            before.append((module, name, getattr(module, name)))
            setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def measure(
    settings: Mapping[str, Setting], clips: Mapping[str, Sequence[Case]], work: Path, score: str
) -> Scores:
    """The mean score of each setting on each clip: over the first frames of a rate, then over rates."""
    found: Scores = {name: {} for name in settings}
    for clip, cases in clips.items():
        run = write_cases(work / f"{clip}-cases", cases)
        for name, setting in settings.items():
            by_stride: dict[str, list[float]] = {}
            with changed(setting):
                linked = link_cases(run, cases, PRESETS["default"])
            for case, labels in zip(cases, linked, strict=True):
                stride = case.name.partition("+")[0]
                by_stride.setdefault(stride, []).append(getattr(judge(case, labels), score))
            found[name][clip] = float(np.mean([np.mean(one) for one in by_stride.values()]))
            print(f"  {clip}: {name}: {found[name][clip]:.3f}", flush=True)
    return found


def held_out(scores: Scores) -> dict[str, tuple[float, str, float, str]]:
    """For each clip, its score and setting when chosen on the others, and when chosen on itself."""
    found = {}
    tried = {name: one for name, one in scores.items() if name != AS_IS}
    for clip in scores[AS_IS]:

        def elsewhere(name: str, clip: str = clip) -> float:
            return float(np.mean([one for other, one in scores[name].items() if other != clip]))

        def here(name: str, clip: str = clip) -> float:
            return scores[name][clip]

        chosen, best = max(tried, key=elsewhere), max(tried, key=here)
        found[clip] = (here(chosen), chosen, here(best), best)
    return found


def main() -> None:
    parser = runner.arguments(__doc__, rounds=1)
    parser.add_argument("data", type=Path)
    parser.add_argument("--grid", type=Path, help=f"default: {GRID}")
    parser.add_argument("--score", default="idf1", choices=("idf1", "hota", "ass_a"))
    parser.add_argument("--phases", type=int, default=2, help="first frames of each rate")
    parser.add_argument(
        "--full-rate", action="store_true", help="every frame as well; takes longer"
    )
    parser.add_argument("--work", type=Path, help="keeps the runs of the embeddings")
    given = runner.parsed(parser, phases=1)
    grid = json.loads(given.grid.read_text()) if given.grid else GRID
    settings = combinations(grid)
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
    print(f"\n{given.score}, {len(settings) - 1} settings; chosen elsewhere, chosen here, {AS_IS}")
    for clip, (score, chosen, most, best) in result.items():
        print(f"  {clip:<24}{score:.3f} {most:.3f} {scores[AS_IS][clip]:.3f}  {chosen} | {best}")
    means = [float(np.mean([one[at] for one in result.values()])) for at in (0, 2)]  # type: ignore[misc]
    means.append(float(np.mean(list(scores[AS_IS].values()))))
    print(f"  {'mean':<24}{' '.join(f'{mean:.3f}' for mean in means)}")
    report.facts |= {"scores": scores, "held out": result, "means": means}
    report.write(given.json)


if __name__ == "__main__":
    main()
