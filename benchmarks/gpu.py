"""What a GPU answers alone, what feeds it, and what ``extract`` makes of both.

    python -m benchmarks.gpu IMAGES [--models lite0 timm:resnet50] [--rows 40000]

For each model, images/s of

* **on the card**: pixels that lie on the GPU already, nothing is copied;
* **1 call**, **2 calls**: through the engine, copies included, with so many calls in flight: two are
  what an actor has, and the ceiling of a pipeline;
* **decode**: a process a core reads, decodes and cuts photos;
* **extract**: a whole run by default, from its first fifth to its last tenth, and the mean
  utilisation that nvidia-smi reports meanwhile. Its ratio to the slower of decode and 2 calls says
  whether something between the stages holds it back.

Printed last on 2026-11, one H200, 16 cores, lite0 in fp16: 21,718 on the card, 12,489 with 1 call,
19,683 with 2; decode 3,600 in a short sample; extract 2,600 (an earlier form of this script).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runner

BLOCK = 512


def card(spec: str, engine: str, precision: str, seconds: float) -> dict[str, float]:
    """The GPU alone, from pixels that are decoded already."""
    import torch

    from pipelines.engines.engine import Engine
    from pipelines.model_info import ModelRequest
    from pipelines.models.registry import examine

    facts = examine(ModelRequest(spec=spec))
    run = Engine(facts, precision, engine)  # type: ignore[arg-type]
    shape = (BLOCK, *facts.preprocess.input_size, 3)
    blocks = [np.random.default_rng(seed).integers(0, 256, shape, np.uint8) for seed in (0, 1)]
    there = torch.from_numpy(blocks[0][: run._rows]).to(run.device)
    with torch.inference_mode():
        for _ in range(3):
            run._execute(there)
        torch.cuda.synchronize()
        began, rows = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            run._execute(there)
            torch.cuda.synchronize()
            rows += len(there)
        found = {"on the card": rows / (time.perf_counter() - began)}
    for calls in (1, 2):
        done, ready = [0] * calls, threading.Barrier(calls + 1)

        def answer(number: int, done: list[int] = done, ready: Any = ready) -> None:
            for _ in range(3):  # a thread's first calls pay for its stream, memory and kernels
                run(blocks[number])
            ready.wait()
            stop = time.perf_counter() + seconds
            while time.perf_counter() < stop:
                run(blocks[number])
                done[number] += BLOCK

        threads = [threading.Thread(target=answer, args=(number,)) for number in range(calls)]
        for thread in threads:
            thread.start()
        ready.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        found[f"{calls} call{'s' * (calls > 1)}"] = sum(done) / (time.perf_counter() - began)
    return found


def decode(source: str, spec: str, seconds: float) -> dict[str, float]:
    """Rows/s of one process, in a window that the others share."""
    import torch

    from pipelines.images.decode import PIXELS, decode_rows
    from pipelines.model_info import ModelRequest
    from pipelines.models.registry import examine
    from pipelines.sources.read import read_source

    torch.set_num_threads(1)
    facts, plan = examine(ModelRequest(spec=spec)), read_source(source)
    starts = np.random.default_rng().integers(0, max(1, plan.table.num_rows - 128), 10_000)
    runner.wait_for_the_others()
    rows, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        piece = plan.table.slice(int(starts[rows // 128 % len(starts)]), 128)
        decode_rows(piece, plan.root, {PIXELS: facts.preprocess})
        rows += 128
    return {"rate": rows / passed}


def whole_run(source: str, spec: str, out: str) -> dict[str, Any]:
    """``extract`` as it is by default."""
    from pipelines.config import ExtractConfig, Progress
    from pipelines.extract import extract

    seen: list[tuple[float, int, int]] = []

    def report(now: Progress) -> None:
        if now.stage == "extracting" and now.done:
            seen.append((time.time(), now.done, now.planned))

    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(["nvidia-smi", *query], stdout=log) as smi:
            run = extract(ExtractConfig(source=source, model=spec), Path(out), report=report).run
            smi.terminate()
        log.seek(0)
        busy = [float(line) for line in log if line.strip().isdigit()]
    early = next(at for at in seen if at[1] >= 0.2 * at[2])
    late = next(at for at in seen if at[1] >= 0.9 * at[2])
    rate = (late[1] - early[1]) / max(late[0] - early[0], 1e-9)
    took = f"{run.manifest.engine} {run.manifest.precision}"
    return {"images/s": rate, "GPU busy, %, start-up included": float(np.mean(busy)), "took": took}


def main() -> None:
    parser = runner.arguments(__doc__, rounds=1)
    parser.add_argument("images", type=Path)
    parser.add_argument("--models", nargs="+", default=["lite0"])
    parser.add_argument("--ways", nargs="+", default=["eager:fp16", "eager:bf16", "eager:fp32"])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--seconds", type=float, default=3)
    given = runner.parsed(parser, ways=["eager:fp16"], rows=4_000, seconds=1.0)
    import torch

    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs a CUDA device")
    report = runner.Report(f"{torch.cuda.get_device_name()}, {given.rows} rows, images/s")
    with runner.folder() as work:
        photos = runner.link_images(given.images, work / "photos", given.rows)
        for spec in given.models:
            for way in given.ways:
                engine, precision = way.split(":")
                how = {"engine": engine, "precision": precision, "seconds": given.seconds}
                report.rounds[f"{spec} {way}"] = [runner.call(card, spec=spec, **how).answer()]
            how = {"source": str(photos), "spec": spec, "seconds": given.seconds}
            rates = [one["rate"] for one in runner.together(decode, runner.CORES, **how)]
            report.rounds[f"{spec}, decode"] = [{"images/s": sum(rates)}]
            out = work / f"run-{spec.replace(':', '-')}"
            known = runner.call(whole_run, source=photos, spec=spec, out=out).answer()
            report.facts[f"{spec}, extract took"] = known.pop("took")
            report.rounds[f"{spec}, extract"] = [known]
            report.ratio(f"{spec}, extract", f"{spec}, decode", "images/s")
    report.show()
    print(json.dumps(report.facts, indent=2))
    report.write(given.json)


if __name__ == "__main__":
    main()
