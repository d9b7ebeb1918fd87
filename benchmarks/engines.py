"""What an engine is worth: alone, inside ``extract``, and against what people run today.

    python benchmarks/engines.py IMAGES [--rounds 3] [--models resnet50,...] [--seconds 8]
                                 [--rows 1024] [--json out.json] [--insect CHECKPOINT]

One run, contenders interleaved in rounds, medians of each round's ratios. For each model
(timm names, random weights, their own input size):

1. **hot loops**: N single-thread processes, N = cores, that do nothing but one engine on
   ready pixels, all in the same window, after everything is built. Once more with the
   network run twice a batch, which is what classifying and then extracting costs. And
   **decode + best**: the best engine on files that the same process reads and decodes: the
   most that any pipeline can reach where decoding shares the cores.
2. **pipeline**: the steady state of ``extract``, reading, decoding, answering and writing
   Parquet: with the best engine in bf16, and as it is when nothing is said (new default).
   At least ``--rows`` images; more for a fast network, so that it runs for seconds.
3. **old way**: float32, batch 24, Pillow, all cores, classify every image, then run the
   network again to extract.

2, 3 and decode + best run on two sources: the photos as they are, and crops of 256 pixels
as a detector leaves them. The best engine is the fastest bf16 hot loop of the first round.

At the end **agreement**: real weights on the same photos, how far every engine and precision
is from exact float32, and whether what ``auto`` takes is close enough.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _common import (
    CORES,
    crop_images,
    hot_loop,
    link_images,
    model_request,
    spread,
    timed,
    verdict,
)

WAYS = [("eager", "fp32"), ("eager", "bf16"), ("compile", "bf16")]
if find_spec("openvino"):
    WAYS += [("openvino", "fp32"), ("openvino", "bf16")]
SOURCES = ("photos", "crops")
PIPELINE_LOOPS = 2.5  # a pipeline runs at least so many times a hot loop's seconds
OLD_ROWS = 96  # a multiple of its batch
AGREEMENT_ROWS = 200
Round = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="resnet50,mobilenetv3_large_100", help="timm names")
    parser.add_argument("--seconds", type=float, default=8, help="of each hot loop")
    parser.add_argument("--rows", type=int, default=1024, help="of each pipeline run, at least")
    parser.add_argument("--insect", type=Path, help="weights of timm:mobilenetv2_100 to compare")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not find_spec("openvino"):
        print("openvino is not installed: its hot loops are left out")
    machine = f"{CORES} cores, {platform.processor() or platform.machine()}"
    result: dict[str, Any] = {"machine": machine, "models": {}, "agreement": []}
    work = Path(tempfile.mkdtemp(prefix="onepass-engines-"))
    try:
        crops = crop_images(given.images, work / "cut", given.rows)
        for model in given.models.split(","):
            bench = Bench(model, given, work, {"photos": given.images, "crops": crops})
            rounds = [bench.round(number) for number in range(given.rounds)]
            result["models"][model] = report(bench, rounds, machine)
    finally:
        shutil.rmtree(work)
    asked: list[tuple[object, ...]] = [("lite0",)]
    if given.insect:
        asked.append(("timm:mobilenetv2_100", given.insect, 0.5, 0.5))
    for arguments in asked:
        told = timed("_agreement.py", given.images, AGREEMENT_ROWS, *arguments)[1]
        result["agreement"].append(told)
        report_agreement(told)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


class Bench:
    """One model's contenders; what the first round finds is kept for the others."""

    def __init__(
        self, model: str, given: argparse.Namespace, work: Path, images: dict[str, Path]
    ) -> None:
        self.model = model
        self.best = ""
        self.rows = 0
        self.defaults: set[str] = set()
        self._given = given
        self._work = work / model
        self._images = images
        self._sources: dict[str, Path] = {}

    def round(self, number: int) -> Round:
        found: Round = {}
        for engine, precision in WAYS:
            found[f"hot loop {engine} {precision}"] = self._hot_loop(engine, precision)
        if not self.best:
            self._settle(found)
        for engine in dict.fromkeys(("eager", self.best)):
            found[f"twice a batch {engine} bf16"] = self._hot_loop(engine, "bf16", passes=2)
        for name, folder in self._sources.items():
            found[f"{name}: decode + best"] = self._hot_loop(self.best, "bf16", folder=folder)
            out = self._work / f"{name}-{number}"
            model = model_request(self.model)
            told = timed("_extract.py", folder, model, out / "best", self.best, "bf16")[1]
            found[f"{name}: pipeline best"] = told["steady"]
            told = timed("_extract.py", folder, model, out / "default")[1]
            found[f"{name}: pipeline default"] = told["steady"]
            self.defaults.add(f"{told['engine']} {told['precision']}")
            shutil.rmtree(out)
            told = timed("_two_passes.py", folder, self.model, min(OLD_ROWS, self.rows))[1]
            found[f"{name}: old way"] = told["rate"]
        told_all = ", ".join(f"{name} {rate:.1f}" for name, rate in found.items())
        print(f"{self.model}, round {number + 1}: {told_all}", flush=True)
        return found

    def _settle(self, found: Round) -> None:
        """Choose the best engine, and sources long enough for it."""
        rates = {engine: found[f"hot loop {engine} bf16"] for engine, p in WAYS if p == "bf16"}
        self.best = max(rates, key=rates.__getitem__)
        enough = PIPELINE_LOOPS * self._given.seconds * rates[self.best]
        self.rows = max(self._given.rows, int(enough))
        self._work.mkdir()
        for name, folder in self._images.items():
            self._sources[name] = link_images(folder, self._work / name, self.rows)

    def _hot_loop(
        self, engine: str, precision: str, *, passes: int = 1, folder: Path | None = None
    ) -> float:
        model, seconds = model_request(self.model), self._given.seconds
        return hot_loop(model, engine, precision, seconds, passes=passes, folder=folder)["rate"]


def ratios(best: str, found: Round) -> dict[str, tuple[float, float | None]]:
    """Each ratio of a round, and its target where it has one."""
    hot = found[f"hot loop {best} bf16"]
    eager = found["hot loop eager bf16"]
    said: dict[str, tuple[float, float | None]] = {
        f"{best} bf16 / eager bf16": (hot / eager, 1.4),
        f"{best} bf16 / eager fp32": (hot / found["hot loop eager fp32"], None),
    }
    for engine in dict.fromkeys(("eager", best)):
        once, twice = found[f"hot loop {engine} bf16"], found[f"twice a batch {engine} bf16"]
        said[f"one pass / two, {engine}"] = (once / twice, 1.9)
    for name in SOURCES:
        pipeline, default = found[f"{name}: pipeline best"], found[f"{name}: pipeline default"]
        said[f"{name}: pipeline / hot loop"] = (pipeline / hot, 0.92)
        said[f"{name}: pipeline / (decode + best)"] = (
            pipeline / found[f"{name}: decode + best"],
            None,
        )
        said[f"{name}: new default / old way"] = (default / found[f"{name}: old way"], 8)
    return said


def report(bench: Bench, rounds: list[Round], machine: str) -> dict[str, Any]:
    defaults = ", ".join(sorted(bench.defaults))
    print(f"\n{bench.model}, {machine}, {len(rounds)} rounds, medians (min..max)")
    print(
        f"  best engine: {bench.best}; new default took: {defaults}; {bench.rows} rows a pipeline"
    )
    for name in rounds[0]:
        print(f"  {name:<34}{spread(found[name] for found in rounds)} img/s")
    each = [ratios(bench.best, found) for found in rounds]
    medians = {}
    for name, (_, target) in each[0].items():
        values = [known[name][0] for known in each]
        medians[name] = statistics.median(values)
        judged = "" if target is None else verdict(medians[name], target)
        print(f"  {name:<34}{spread(values, 2):<24}{judged}")
    print(flush=True)
    return {
        "best": bench.best,
        "new default": defaults,
        "rows": bench.rows,
        "ratios": medians,
        "rounds": rounds,
    }


def report_agreement(told: dict[str, Any]) -> None:
    print(f"{told['spec']}: agreement with exact float32, {told['compared'][0]['rows']} images")
    for way in told["compared"]:
        line = f"  {way['engine'] + ' ' + way['precision']:<16}"
        top1, cosine = way["top1_agreement"], way["cosine_mean"]
        line += f"top-1 {top1:.4f}  cosine {cosine:.6f} (min {way['cosine_min']:.6f})"
        if told["auto"][way["engine"]] == way["precision"]:
            line += f"  auto: top-1 {verdict(top1, 0.995)}, cosine {verdict(cosine, 0.999)}"
        print(line)


if __name__ == "__main__":
    main()
