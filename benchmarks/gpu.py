"""What a GPU answers alone, what feeds it, and what ``extract`` makes of both.

    python benchmarks/gpu.py IMAGES [--models lite0 timm:resnet50] [--rows 40000] [--boxes 1 100]
                             [--ways eager:fp16 ...] [--seconds 4] [--json F]

IMAGES is a folder of JPEGs. For each model:

1. **hot loop**: one process with the GPU and pixels that are decoded already. ``device``: they
   lie on the card, nothing is copied. ``1 call`` and ``2 calls``: through the engine, copies
   included, as an actor with one and with two calls in flight does it: the ceiling of a pipeline.
2. **decode**: a process a core reads, decodes and cuts; what each of ``--boxes`` boxes an image
   costs. So many cores would feed the GPU.
3. **extract**: a whole run, its steady rate, how busy card and cores were, and what it was held
   back by: the lower of the two rates above, unless it stays below three quarters of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import CORES, jpegs, link_images
from PIL import Image

from pipelines.engines.engine import Engine
from pipelines.extract import Options, Progress, extract
from pipelines.images.decode import PIXELS, decode_rows
from pipelines.model_info import ModelInfo, ModelRequest
from pipelines.models.registry import examine
from pipelines.sources.plan import read_source

BLOCK = 512
HELD_BACK = 0.75  # of the slower stage: below it something else is in the way


@dataclass
class Watch:
    """How busy the card (per cent, MiB) and the cores (share) are, five times a second."""

    samples: list[tuple[float, float, float, float]]

    def __enter__(self) -> Watch:
        self._smi = subprocess.Popen(
            [
                "nvidia-smi",
                "--query-gpu=utilization.gpu,memory.used",
                "--format=csv,noheader,nounits",
                "-lms",
                "200",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._smi.terminate()
        self._smi.wait()

    def _read(self) -> None:
        assert self._smi.stdout
        before = _core_times()
        for line in self._smi.stdout:
            now = _core_times()
            total = max(1, now[1] - before[1])
            used, before_now = (now[0] - before[0]) / total, now
            before = before_now
            try:
                busy, memory = (float(part) for part in line.split(","))
            except ValueError:
                continue
            self.samples.append((time.time(), busy, memory, used))

    def between(self, begin: float, end: float) -> dict[str, float]:
        seen = [sample for sample in self.samples if begin <= sample[0] <= end]
        if not seen:
            return {}
        return {
            "gpu_busy": statistics.mean(s[1] for s in seen) / 100,
            "gpu_mib": max(s[2] for s in seen),
            "cores_busy": statistics.mean(s[3] for s in seen),
        }


def _core_times() -> tuple[int, int]:
    """Busy and all jiffies of this machine."""
    values = [int(v) for v in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return sum(values) - values[3] - values[4], sum(values)


def hot_loop(facts: ModelInfo, engine_name: Any, precision: Any, seconds: float) -> dict[str, Any]:
    began = time.perf_counter()
    run = Engine(facts, precision, engine_name)
    told: dict[str, Any] = {"load_s": time.perf_counter() - began, "batch": run._rows}
    how = facts.preprocess
    dice = np.random.default_rng(0)
    blocks = [dice.integers(0, 256, (BLOCK, *how.input_size, 3), np.uint8) for _ in range(4)]
    there = torch.from_numpy(blocks[0][: min(run._rows, BLOCK)]).to(run.device)
    with torch.inference_mode():
        for _ in range(3):
            run._execute(there)
        torch.cuda.synchronize()
        began, rows = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 2:
            for _ in range(4):
                run._execute(there)
            torch.cuda.synchronize()
            rows += 4 * len(there)
        told["device"] = rows / (time.perf_counter() - began)
    for calls in (1, 2):
        done, ready = [0] * calls, threading.Barrier(calls + 1)

        def ask(number: int, done: list[int] = done, ready: threading.Barrier = ready) -> None:
            for _ in range(3):  # a thread's first calls pay for its stream, memory and kernels
                run(blocks[number])
            ready.wait()
            stop = time.perf_counter() + seconds
            while time.perf_counter() < stop:
                run(blocks[number])
                done[number] += BLOCK

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(calls)]
        for thread in threads:
            thread.start()
        ready.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        told[f"calls_{calls}"] = sum(done) / (time.perf_counter() - began)
    return told


def _decode_part(given: tuple[str, ModelInfo, int, int, float]) -> float:
    """Rows a second of one process, in a window that the others share."""
    source, facts, part, parts, seconds = given
    torch.set_num_threads(1)
    plan = read_source(source)
    begin = plan.table.num_rows * part // parts
    rows, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        piece = plan.table.slice((begin + rows) % max(1, plan.table.num_rows - 128), 128)
        decode_rows(piece, plan.root, {PIXELS: facts.preprocess})
        rows += 128
    return rows / passed


def decode_rate(source: Path, facts: ModelInfo, seconds: float) -> float:
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        asked = [(str(source), facts, part, CORES, seconds) for part in range(CORES)]
        return sum(pool.map(_decode_part, asked, chunksize=1))


def make_manifest(images: Path, folder: Path, rows: int, boxes: int) -> Path:
    """``rows`` rows, ``boxes`` of each image: one is the image itself, more are crops of it."""
    count = -(-rows // boxes)
    link_images(images, folder, count)
    if boxes == 1:
        return folder
    sizes: dict[int, tuple[int, int]] = {}
    dice, lines, known = np.random.default_rng(1), ["image,x1,y1,x2,y2"], len(jpegs(images))
    for number, file in enumerate(sorted(folder.glob("*.jpg"))):
        at = number % known
        if at not in sizes:
            with Image.open(file) as image:
                sizes[at] = image.size
        width, height = sizes[at]
        side = min(width, height)
        for _ in range(boxes):
            w, h = dice.uniform(0.08, 0.2, 2) * side
            x, y = dice.uniform(0, width - w), dice.uniform(0, height - h)
            lines.append(f"{file.name},{x:.1f},{y:.1f},{x + w:.1f},{y + h:.1f}")
    manifest = folder / "rows.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def whole_run(source: Path, request: ModelRequest, out: Path) -> dict[str, Any]:
    """``extract`` as it is by default; its steady rate is that of the middle of its answers."""
    seen: list[tuple[float, int, int]] = []

    def report(now: Progress) -> None:
        if now.stage == "extracting" and now.done:
            seen.append((time.time(), now.done, now.planned))

    began = time.time()
    with Watch([]) as watch:
        run = extract(str(source), request, out, Options(), report=report).run
    wall = time.time() - began
    planned = run.manifest.rows.planned
    early = next(at for at in seen if at[1] >= 0.2 * planned)
    late = next(at for at in seen if at[1] >= 0.9 * planned)
    told = {
        "rows": planned,
        "failed": run.manifest.rows.failed,
        "wall_s": wall,
        "first_answer_s": seen[0][0] - began,
        "precision": run.manifest.precision,
        "engine": run.manifest.engine,
        "notes": list(run.manifest.notes),
        "steady": (late[1] - early[1]) / (late[0] - early[0]) if late[0] > early[0] else 0.0,
        "between_first_and_last": run.manifest.session and run.manifest.session.rows_a_second,
        **watch.between(early[0], late[0]),
    }
    shutil.rmtree(out)
    return told


def verdict(told: dict[str, Any], decode: float, ceiling: float) -> str:
    slower = min(decode, ceiling)
    name = "decode" if decode < ceiling else "the GPU"
    share = told["steady"] / slower
    if share < HELD_BACK:
        return f"{share:.0%} of {name} alone: held back between the stages"
    return f"limited by {name}: {share:.0%} of what it does alone"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--models", nargs="+", default=["lite0", "timm:resnet50"])
    parser.add_argument("--ways", nargs="+", default=["eager:fp16", "eager:bf16", "eager:fp32"])
    parser.add_argument("--boxes", nargs="*", type=int, default=[1, 100])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device")
    print(f"{torch.cuda.get_device_name()}, {CORES} cores, torch {torch.__version__}", flush=True)
    work = Path(tempfile.mkdtemp(prefix="onepass-gpu-"))
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(), "cores": CORES, "models": {}}

    def keep() -> None:
        if given.json:
            given.json.write_text(json.dumps(result, indent=2) + "\n")

    try:
        sources = {
            boxes: make_manifest(given.images, work / f"boxes-{boxes}", given.rows, boxes)
            for boxes in given.boxes
        }
        for spec in given.models:
            request = ModelRequest(spec=spec)
            facts = examine(request)
            kept: dict[str, Any] = {"hot": {}, "decode": {}, "extract": {}}
            result["models"][spec] = kept
            for way in given.ways:
                engine, precision = way.split(":")
                hot = hot_loop(facts, engine, precision, given.seconds)
                kept["hot"][way] = hot
                torch.cuda.empty_cache()
                print(
                    f"{spec} {way}: batch {hot['batch']}, images/s on the card "
                    f"{hot['device']:.0f}, 1 call {hot['calls_1']:.0f}, 2 calls "
                    f"{hot['calls_2']:.0f}; loaded in {hot['load_s']:.1f} s",
                    flush=True,
                )
                keep()
            for boxes, source in sources.items():
                decode = decode_rate(source, facts, given.seconds)
                kept["decode"][boxes] = decode
                told = whole_run(source, request, work / "run")
                kept["extract"][boxes] = told
                way = f"{told['engine']}:{told['precision']}"
                ceiling = kept["hot"].get(way, {}).get("calls_2", float("inf"))
                print(
                    f"{spec}, {boxes} boxes an image: decode on {CORES} cores {decode:.0f}/s "
                    f"({ceiling / decode * CORES:.0f} cores would feed {way}); extract "
                    f"{told['rows']} rows at {told['steady']:.0f}/s, {told['wall_s']:.0f} s in all, "
                    f"first answer after {told['first_answer_s']:.0f} s; GPU "
                    f"{told.get('gpu_busy', 0):.0%} busy, {told.get('gpu_mib', 0):.0f} MiB, cores "
                    f"{told.get('cores_busy', 0):.0%}; {verdict(told, decode, ceiling)}",
                    flush=True,
                )
                for note in told["notes"]:
                    print(f"    {note}", flush=True)
                keep()
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
