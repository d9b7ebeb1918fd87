"""How fast is the one pass: whole small jobs against Daft, long ones against the hardware.

    python benchmarks/throughput.py IMAGE_FOLDER [--rounds 3] [--rows 3072] [--json out.json]

One run, contenders interleaved, in the other order every second round; medians are told. All
compute the same network with the same weights in float32 on the same files, squashed to 224 pixels.

1. **Small job**: 768 images, the whole process timed from outside with its start-up, and the time to
   the first answers: ``extract`` with the local executor and with Ray, and Daft, which needs
   ``pip install daft``. The engine is the one that ``auto`` takes; Daft has PyTorch.
2. **Steady state**: ROWS images by either executor, images/s from the first answer to the last.
   Beside them the **hot loop**, which decodes, runs the same engine and does nothing else: the better
   of a process a core and of one process with a thread a core. **core ms** are those of a core that
   an image takes, in lanes and in the hot loop: they tell the same where other programs run.

IMAGE_FOLDER's images are repeated under new names where it has fewer than are needed. Before the
first round each engine is built, so that all rounds find it built.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import timm
import torch
from _common import CORES, hot_loop, link_images, model_request, spread, timed, verdict

SMALL_JOB = 768
Round = dict[str, float]
# Ratio, and the least that is aimed for.
RATIOS: list[tuple[str, str, float | None]] = [
    ("small local", "small daft", 1.3),
    ("small ray", "small daft", None),
    ("steady local", "hot loop", 0.95),
    ("steady ray", "steady local", 0.9),
    ("core ms hot loop", "core ms local", 0.95),
]


class Bench:
    """The contenders; what they took is kept for the report."""

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self.engines: dict[str, set[str]] = {"local": set(), "ray": set()}
        self._given, self._work = given, work
        torch.manual_seed(0)
        weights = work / "weights.pt"
        torch.save(timm.create_model(given.model).state_dict(), weights)
        self._weights = weights
        own: dict[str, Any] = {"checkpoint": str(weights), "resize": "squash", "input_size": 224}
        own |= {"interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}
        self._model = model_request(given.model, **own)
        self._small = link_images(given.images, work / "small", SMALL_JOB)
        self._large = link_images(given.images, work / "large", given.rows)
        self._extract(self._small, "local", "auto", 0)
        (self._engine,) = {name.split()[0] for name in self.engines["local"]}

    def round(self, number: int) -> Round:
        found: Round = {}
        contenders = [*(("small", who) for who in ("local", "ray", "daft"))]
        contenders += [("steady", who) for who in ("local", "processes", "threads", "ray")]
        for kind, who in contenders if number % 2 else reversed(contenders):
            found |= self._small_job(who, number) if kind == "small" else self._steady(who, number)
        best = max(("processes", "threads"), key=lambda who: found[f"hot loop {who}"])
        found["hot loop"] = found[f"hot loop {best}"]
        found["core ms hot loop"] = min(found[f"core ms {who}"] for who in ("processes", "threads"))
        return found

    def _small_job(self, who: str, number: int) -> Round:
        if who == "daft":
            out = self._work / f"daft-{number}"
            wall, told = timed("_daft.py", self._small, self._given.model, self._weights, out)
        else:
            wall, told = self._extract(self._small, who, "auto", number)
        return {f"small {who}": SMALL_JOB / wall, f"first answer {who}": told["first"]}

    def _steady(self, who: str, number: int) -> Round:
        if who in self.engines:
            told = self._extract(self._large, who, self._engine, number)[1]
            core = {"core ms local": told["core ms"]} if who == "local" else {}
            return {f"steady {who}": told["between"], **core}
        one = {"processes": 1, "lanes": CORES} if who == "threads" else {}
        seconds = self._given.seconds
        told = hot_loop(self._model, self._engine, "fp32", seconds, folder=self._large, **one)
        return {f"hot loop {who}": told["rate"], f"core ms {who}": told["core ms"]}

    def _extract(
        self, folder: Path, who: str, engine: str, number: int
    ) -> tuple[float, dict[str, Any]]:
        out = self._work / f"{folder.name}-{who}-{number}"
        shutil.rmtree(out, ignore_errors=True)
        wall, told = timed("_extract.py", folder, self._model, out, engine, "fp32", who)
        self.engines[who].add(f"{told['engine']} {told['precision']}")
        return wall, told

    def agreement(self) -> float:
        """The least cosine of onepass's and Daft's embeddings: both have done the same job."""
        ours = ds.dataset(self._work / "small-local-0" / "detections").to_table()
        theirs = ds.dataset(self._work / "daft-0").to_table().flatten()
        sides = []
        for table, image, vector in (
            (ours, "image", "embedding"),
            (theirs, "image", "out.embedding"),
        ):
            table = table.set_column(
                table.column_names.index(image),
                image,
                [[Path(name).name for name in table[image].to_pylist()]],
            ).sort_by(image)
            flat = table[vector].combine_chunks().flatten().to_numpy()
            sides.append(flat.reshape(table.num_rows, -1).astype(float))
        a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
        return float((a * b).sum(1).min())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", default="mobilenetv3_large_100", help="a timm name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each hot loop")
    parser.add_argument("--rows", type=int, default=3072, help="of each steady run")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not find_spec("daft"):
        sys.exit("Daft is not installed; run: pip install daft")

    work = Path(tempfile.mkdtemp(prefix="onepass-bench-"))
    try:
        bench = Bench(given, work)
        rounds = []
        for number in range(given.rounds):
            rounds.append(bench.round(number))
            told = ", ".join(f"{name} {value:.1f}" for name, value in rounds[-1].items())
            print(f"round {number + 1}: {told}", flush=True)
        cosine = bench.agreement()
    finally:
        shutil.rmtree(work)
    took = "; ".join(f"{who}: {', '.join(sorted(how))}" for who, how in bench.engines.items())
    print(
        f"\n{given.model}, {CORES} cores, {platform.processor() or platform.machine()}, "
        f"{given.rounds} rounds, images/s, s or ms, medians (min..max)"
    )
    print(f"  engines taken by {took}; least cosine to Daft's embeddings {cosine:.4f}")
    for name in sorted(rounds[0]):
        print(f"  {name:<30}{spread(found[name] for found in rounds)}")
    medians = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    for a, b, target in RATIOS:
        values = [found[a] / found[b] for found in rounds]
        medians[f"{a} / {b}"] = middle = statistics.median(values)
        judged = "" if target is None else verdict(middle, target)
        print(f"  {a + ' / ' + b:<30}{spread(values, 2):<22}{judged}")
    if given.json:
        told = {"engines": took, "cosine": cosine, "median": medians, "rounds": rounds}
        given.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
