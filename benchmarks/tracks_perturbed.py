"""How well onepass tracks what detectors really give, and made scenes whose truth is certain.

    python -m benchmarks.tracks_perturbed DATA [CLIP ...] [--work DIR] [--only-presets]

The clips of ``tracks.py`` at one rate each, with boxes shifted by 5 % of their size, 5 and 20 % of boxes
missing, 10 % false boxes, and a camera that moves by 120 pixels in the middle
(``benchmarks/tracking/perturbed.py``); and photos pasted on a plain background: walkers, sitters which jump,
crossings (``benchmarks/tracking/pasted.py``). Rows as in ``tracks.py``, without frames for BoT-SORT. False boxes
are not judged: they are no individual; what they do to the tracks of others is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import runner
from benchmarks.tracking.clips import CLIPS, load, phases
from benchmarks.tracking.pasted import SCENES, pasted
from benchmarks.tracking.perturbed import KINDS, background_of, perturb
from benchmarks.tracks import Cases, measure

STRIDES = {"flies": 25, "ethoscope-flies": 40, "trex-guppies": 5, "tud-stadtmitte": 5, "fish": 2}
PASTED_STRIDES = (1, 2, 5)


def perturbed_cases(name: str, data: Path, work: Path, most: int) -> Cases:
    """Every kind of one clip, from ``most`` first frames and with another chance for each."""
    whole, stride = load(CLIPS[name], data, work), STRIDES[name]
    background = background_of(whole, work)
    thinned = [whole.thin(stride, first) for first in phases(stride, most)]
    return {
        f"{name}/{stride}, {kind}": [
            perturb(case, kind, background, seed) for seed, case in enumerate(thinned)
        ]
        for kind in KINDS
    }


def pasted_cases(name: str, data: Path, work: Path, most: int) -> Cases:
    """A made scene at several rates."""
    whole = pasted(name, data, work)
    return {
        f"{name}, one frame in {stride}": [
            whole.thin(stride, first) for first in phases(stride, most)
        ]
        for stride in PASTED_STRIDES
    }


def main() -> None:
    parser = runner.arguments(__doc__, rounds=1)
    names = [*STRIDES, *SCENES]
    parser.add_argument("data", type=Path)
    parser.add_argument("clips", nargs="*", metavar="CLIP", help=f"of {', '.join(names)}; all")
    parser.add_argument("--work", type=Path, help="keeps the runs of the embeddings")
    parser.add_argument("--phases", type=int, default=2, help="first frames of each rate")
    parser.add_argument("--only-presets", action="store_true", help="no other trackers")
    given = runner.parsed(parser, clips=["sitters"], phases=1)
    if unknown := set(given.clips) - set(names):
        parser.error(f"{unknown}: the clips are {', '.join(names)}")

    def cases_of(name: str, given: argparse.Namespace, work: Path) -> Cases:
        made = perturbed_cases if name in CLIPS else pasted_cases
        return made(name, given.data, work, given.phases)

    title = "identities of boxes as detectors give them, and of made scenes"
    measure(title, given.clips or names, given, cases_of)


if __name__ == "__main__":
    main()
