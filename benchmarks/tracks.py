"""How well onepass tracks real individuals, beside trackers that people use, on the same boxes.

    python -m benchmarks.tracks DATA [CLIP ...] [--strides N ...] [--phases 4] [--work DIR]

Every clip of ``benchmarks/tracking/clips.py`` (two courting flies, 20 flies in tubes, eight guppies, ten
people, eight fish) at several rates: one frame in N is seen, from up to --phases different first frames,
because one swap moves a figure by 0.1. The true boxes are the detections; their identities are what is asked
for. --work keeps the run of each clip's embeddings: one crop a box, EfficientNet-Lite0.

Rows are the presets of ``onepass link``, through ``onepass link`` itself, and the trackers of
``benchmarks/tracking/others.py``: as shipped, and at the best of their settings, chosen by HOTA for each
clip and rate, which is more than onepass allows itself. HOTA and IDF1 as mean and worst, switches and tracks
as mean over the first frames. At the end, one line a clip and rate: the first preset beside the best of the
others.

Needs ``pip install 'onepass[tracks]'`` and then ``pip install --no-deps 'trackers>=2.6'``.

Printed last on 2026-12-01, 2 cores (AMD EPYC, busy with other work), in one run, IDF1 of default, of online, and of the best of
the others, mean over rates: flies 1.000, 0.963, 1.000; tubes 1.000, 0.996, 0.999; guppies 0.787, 0.601, 0.713; people
0.975, 0.829, 0.902; fish 0.914, 0.699, 0.679.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks import runner
from benchmarks.tracking.clips import CLIPS, Case, Ints, judge, load, phases, pictures
from benchmarks.tracking.linking import link_cases, write_cases
from benchmarks.tracking.others import every_tracker, with_camera_motion
from tracks.association.options import PRESETS

SCORES = ("hota", "idf1", "switches", "tracks", "truth_tracks")
Rounds = list[runner.Measures]
Cases = Mapping[str, Sequence[Case]]  # by the title of their table
Tables = dict[str, dict[str, Rounds]]  # by title and tracker, the scores of each case


def judged(cases: Sequence[Case], labels: Sequence[Ints]) -> Rounds:
    """The scores of each case."""
    found = [judge(case, of_case) for case, of_case in zip(cases, labels, strict=True)]
    return [{name: float(getattr(one, name)) for name in SCORES} for one in found]


def mean(rounds: Rounds, measure: str) -> float:
    """Of a measure over the cases."""
    return float(np.mean([one[measure] for one in rounds]))


def presets(run: Path, cases: Cases) -> Tables:
    """By title and preset, the scores of each case; ``run`` is written."""
    flat = [case for group in cases.values() for case in group]
    write_cases(run, flat)
    found: Tables = {title: {} for title in cases}
    for preset, options in PRESETS.items():
        labels = iter(link_cases(run, flat, options))
        for title, group in cases.items():
            found[title][f"link --preset {preset}"] = judged(group, [next(labels) for _ in group])
    return found


def others(cases: Cases, wheels: Path, frames: Iterator[NDArray[np.uint8]] | None = None) -> Tables:
    """By title and tracker, the scores of each case: as shipped, and at the best of its settings.

    Args:
        cases: of one clip.
        wheels: folder for the wheel of DeepSORT.
        frames: of the clip, for BoT-SORT; without them it is not told how the camera moves.
    """
    found: Tables = {title: {} for title in cases}
    flat = [case for group in cases.values() for case in group]
    camera = None if frames is None else iter(with_camera_motion(frames, flat))
    for name, settings in every_tracker(wheels).items():
        for title, group in cases.items():
            tried = [judged(group, [setting(case) for case in group]) for setting in settings]
            if name == "BoT-SORT" and camera is not None:
                tried.insert(0, judged(group, [next(camera) for _ in group]))
            if name != "Hungarian":  # which nobody ships
                found[title][f"{name}, as shipped"] = tried[0]
            best = max(tried, key=lambda rounds: mean(rounds, "hota"))
            found[title][f"{name}, best of {len(tried)}"] = best
    return found


def merged(first: Tables, second: Tables) -> Tables:
    """The rows of both under each title."""
    return {title: {**rows, **second.get(title, {})} for title, rows in first.items()}


def show(title: str, rows: Mapping[str, Rounds]) -> None:
    """A table: a line a tracker."""
    print(f"\n{title:<30} HOTA mean worst   IDF1 mean worst  switches  tracks", flush=True)
    for name, rounds in rows.items():
        line = f"  {name:<28}"
        for measure in ("hota", "idf1"):
            worst = min(one[measure] for one in rounds)
            line += f"      {mean(rounds, measure):.3f} {worst:.3f}"
        tracks = f"{mean(rounds, 'tracks'):.1f}/{mean(rounds, 'truth_tracks'):.0f}"
        print(f"{line}  {mean(rounds, 'switches'):8.1f}  {tracks:>8}", flush=True)


def summary(tables: Tables) -> dict[str, float]:
    """One line a table: the first preset, and the best of the trackers that are not onepass."""
    ratios: dict[str, list[float]] = {"hota": [], "idf1": []}
    first = f"link --preset {next(iter(PRESETS))}"
    print(f"\n{first} beside the best of the others, mean HOTA and IDF1")
    for title, rows in tables.items():
        line = f"  {title:<30}"
        strangers = {name: rounds for name, rounds in rows.items() if "--preset" not in name}
        for measure, ratio in ratios.items():
            best = max(strangers, key=lambda name: mean(strangers[name], measure))
            own, other = mean(rows[first], measure), mean(strangers[best], measure)
            ratio.append(own / other)
            line += f"  {own:.3f} {'≥' if own >= other else '<'} {other:.3f} {best:<22}"
        print(line)
    ratio_means = {measure: float(np.mean(ratio)) for measure, ratio in ratios.items()}
    print(
        "  mean ratio: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratio_means.items())
    )
    return ratio_means


def clip_cases(name: str, given: argparse.Namespace, work: Path) -> Cases:
    """A clip at several rates."""
    clip, whole = CLIPS[name], load(CLIPS[name], given.data, work)
    return {
        f"{name}, one frame in {stride}": [
            whole.thin(stride, first) for first in phases(stride, given.phases)
        ]
        for stride in given.strides or clip.strides
    }


def measure(
    title: str,
    names: Sequence[str],
    given: argparse.Namespace,
    cases_of: Callable[[str, argparse.Namespace, Path], Cases],
    frames_of: Callable[[str, Path], Iterator[NDArray[np.uint8]] | None] = lambda name, work: None,
) -> None:
    """Link, judge and show each of ``names``, and write the report.

    Args:
        title: of the report.
        names: of clips or scenes.
        given: with ``work``, ``json`` and ``only_presets``.
        cases_of: gives the cases of a name.
        frames_of: gives its pictures, for trackers that look at them.
    """
    report = runner.Report(title)
    tables: Tables = {}
    # Products of a few boxes: with a thread a core, DeepSORT takes 100 times as long where others work.
    with threadpool_limits(1, "blas"), runner.folder(given.work) as work:
        for name in names:
            cases = cases_of(name, given, work)
            found = presets(work / f"{name}-cases", cases)
            if not given.only_presets:
                found = merged(found, others(cases, work, frames_of(name, work)))
            for heading, rows in found.items():
                show(heading, rows)
                report.rounds |= {f"{heading}: {row}": rounds for row, rounds in rows.items()}
            tables |= found
    if not given.only_presets:
        report.facts["mean ratio to the best of the others"] = summary(tables)
    report.write(given.json)


def main() -> None:
    parser = runner.arguments(__doc__, rounds=1)
    parser.add_argument("data", type=Path)
    parser.add_argument("clips", nargs="*", metavar="CLIP", help=f"of {', '.join(CLIPS)}; all")
    parser.add_argument("--work", type=Path, help="keeps the runs of the embeddings")
    parser.add_argument("--strides", type=int, nargs="+", help="instead of those of each clip")
    parser.add_argument("--phases", type=int, default=4, help="first frames of each rate")
    parser.add_argument("--only-presets", action="store_true", help="no other trackers")
    given = runner.parsed(parser, clips=["flies"], strides=[25, 50], phases=2)
    if unknown := set(given.clips) - set(CLIPS):
        parser.error(f"{unknown}: the clips are {', '.join(CLIPS)}")
    measure(
        "identities of the true boxes",
        given.clips or list(CLIPS),
        given,
        clip_cases,
        lambda name, work: pictures(CLIPS[name], given.data, work),
    )


if __name__ == "__main__":
    main()
