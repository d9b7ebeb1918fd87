"""How fast is the one pass: against the hardware, against two passes, against Daft.

    python benchmarks/throughput.py IMAGE_FOLDER [--json out.json] [--rounds 3]

Four questions, one run, contenders interleaved, medians reported:

1. **hot loop**: N single-thread processes, N = cores, that do nothing but the network on
   ready pixels: what the cores can do. **pipeline**: the steady state of ``extract``, reading,
   decoding, answering and writing Parquet. Both in eager bf16, as Daft below; what other
   engines are worth is in ``engines.py``.
2. **two passes**: what people have today: float32, batch 24, Pillow, classify every image
   and then run the network again to extract.
3. **small job**: 768 images with start-up, the whole process timed from outside, and the
   time to the first answers; Daft with the same model, precision and batch beside it.

Every contender runs the same network on the same files. IMAGE_FOLDER's images are repeated
under new names where it has fewer than are needed.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
from pathlib import Path

from _common import CORES, hot_loop, link_images, timed

SMALL_JOB = 768


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", default="resnet50", help="a timm name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12, help="of each hot loop")
    parser.add_argument("--rows", type=int, default=1536, help="of each pipeline run")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    work = Path(tempfile.mkdtemp(prefix="onepass-bench-"))
    try:
        large = link_images(given.images, work / "large", given.rows)
        small = link_images(given.images, work / "small", SMALL_JOB)
        rounds = [one_round(given, work, large, small, number) for number in range(given.rounds)]
    finally:
        shutil.rmtree(work)
    names = rounds[0].keys()
    result = {name: statistics.median(r[name] for r in rounds) for name in names}
    result["pipeline / hot loop"] = statistics.median(
        r["pipeline img/s"] / r["hot loop img/s"] for r in rounds
    )
    result["pipeline / two passes"] = statistics.median(
        r["pipeline img/s"] / r["two passes img/s"] for r in rounds
    )
    result["small job: onepass / daft"] = statistics.median(
        r["small job img/s"] / r["small job daft img/s"] for r in rounds
    )
    print(
        f"\n{given.model}, 224x224, {CORES} cores, {platform.processor() or platform.machine()}, "
        f"{given.rounds} rounds, medians (min..max)"
    )
    for name, value in result.items():
        spread = [r[name] for r in rounds if name in r]
        around = f"  ({min(spread):.2f}..{max(spread):.2f})" if spread else ""
        print(f"  {name:<34}{value:8.2f}{around}")
    if given.json:
        given.json.write_text(json.dumps({"median": result, "rounds": rounds}, indent=2) + "\n")


def one_round(
    given: argparse.Namespace, work: Path, large: Path, small: Path, number: int
) -> dict[str, float]:
    found: dict[str, float] = {}
    found["hot loop img/s"] = hot_loop(f"timm:{given.model}", "eager", "bf16", given.seconds)
    wall, told = timed("_extract.py", large, given.model, work / f"large-{number}", "eager", "bf16")
    found["pipeline img/s"] = told["steady"]
    found["two passes img/s"] = timed("_two_passes.py", small, given.model, 96)[1]["rate"]
    wall, told = timed("_extract.py", small, given.model, work / f"small-{number}")
    found["small job img/s"] = SMALL_JOB / wall
    found["small job first answer s"] = told["first"]
    wall, told = timed("_daft.py", small, given.model, work / f"daft-{number}")
    found["small job daft img/s"] = SMALL_JOB / wall
    found["small job daft first answer s"] = told["first"]
    print(f"round {number + 1}: " + ", ".join(f"{k} {v:.1f}" for k, v in found.items()), flush=True)
    return found


if __name__ == "__main__":
    main()
