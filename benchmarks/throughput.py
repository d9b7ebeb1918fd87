"""How fast is the one pass: whole small jobs beside Daft, long ones beside the hardware.

    python -m benchmarks.throughput IMAGES [--rows 3072] [--rounds 3]

All contenders compute the same network (a timm name, the same random weights) in float32 on the same
files, squashed to 224 pixels.

* **small**: 768 images as a whole process, start-up included, and the time to the first answer:
  ``extract`` with the local executor and with Ray, and Daft, which needs ``pip install daft``. The
  engine is the one that ``auto`` takes; Daft has PyTorch.
* **steady**: --rows images by either executor, images/s from the first answer to the last. Beside
  them the **hot loop**, which decodes, runs the same engine and does nothing else, as a process a
  core and as one process with a thread a core. ``core_ms``: milliseconds of a core an image,
  which say the same where other programs run.

The images of the folder are repeated under new names. The engine is built before the first round.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work), --quick, images/s: small job
9.0 locally, 7.1 on Ray, 3.7 Daft (first answer 4.6, 6.5, 12.6 s); steady 159 locally, 46 on Ray; hot
loop 64 (processes) and 73 (threads); core_ms 10.7 locally, 9.6 in the hot loop.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from benchmarks import runner
from benchmarks.jobs import extract_run, first_answer, hot_loop


def daft_job(images: str, name: str, weights: str, out: str) -> dict[str, float]:
    """The same job in Daft: its native runner, a process a core, float32."""
    import timm

    daft = import_module("daft")
    untrained = timm.create_model(name)
    dim = getattr(untrained, "head_hidden_size", None) or untrained.num_features
    answer_type = {
        "label_index": daft.DataType.int64(),
        "embedding": daft.DataType.fixed_size_list(daft.DataType.float32(), dim),
    }
    stamp = Path(tempfile.mkdtemp()) / "first"

    @daft.cls(max_concurrency=len(os.sched_getaffinity(0)), use_process=True)
    class Forward:
        def __init__(self) -> None:
            import torch

            torch.set_num_threads(1)
            self.model = timm.create_model(name).eval()
            self.model.load_state_dict(torch.load(weights, weights_only=True))
            self.model = self.model.to(memory_format=torch.channels_last)

        def answer(self, images: Any) -> list[dict[str, object]]:
            import torch

            pixels = np.stack([np.asarray(image) for image in images.to_pylist()])
            with torch.inference_mode():
                x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127.5) / 127.5
                pooled = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
                best = self.model.get_classifier()(pooled).argmax(1).tolist()
            if not stamp.exists():
                stamp.write_text(str(time.time()))
            rows = zip(best, pooled.numpy(), strict=True)
            return [{"label_index": label, "embedding": row} for label, row in rows]

        batches = daft.method.batch(return_dtype=daft.DataType.struct(answer_type), batch_size=32)
        answer = batches(answer)

    daft.set_runner_native()
    frame = daft.from_pydict({"image": sorted(str(file) for file in Path(images).iterdir())})
    pixels = frame["image"].download().decode_image(mode="RGB").resize(224, 224)
    frame = frame.with_column("pixels", pixels)
    frame = frame.with_column("out", Forward().answer(frame["pixels"]))
    frame.exclude("pixels").write_parquet(out).collect()
    return {"first_at": float(stamp.read_text())}


def save_weights(name: str, file: str) -> dict[str, object]:
    """Random weights of a timm network, the same for all contenders."""
    import timm
    import torch

    torch.manual_seed(0)
    torch.save(timm.create_model(name).state_dict(), file)
    return {}


def least_cosine(ours: Path, daft: Path) -> float:
    """Between the embeddings of one run and of Daft's output, image by image."""
    sides = []
    for at, vector in ((ours, "embedding"), (daft, "out.embedding")):
        table = ds.dataset(at).to_table().flatten()
        names = pa.array([Path(name).name for name in table["image"].to_pylist()])
        table = table.append_column("name", names).sort_by("name")
        flat = table[vector].combine_chunks().flatten().to_numpy().astype(float)
        rows = flat.reshape(table.num_rows, -1)
        sides.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return float((sides[0] * sides[1]).sum(1).min())


def main() -> None:
    parser = runner.arguments(__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", default="mobilenetv3_large_100", help="a timm name")
    parser.add_argument("--small", type=int, default=768, help="images of a small job")
    parser.add_argument("--rows", type=int, default=3072, help="images of a steady run")
    parser.add_argument("--seconds", type=float, default=8, help="of each hot loop")
    given = runner.parsed(parser, small=64, rows=256, seconds=1.0)
    report = runner.Report(
        f"{given.model}, float32; small: {given.small}, steady: {given.rows} images"
    )
    with runner.folder() as work:
        runner.call(save_weights, name=given.model, file=work / "weights.pt")
        model: dict[str, Any] = {"spec": f"timm:{given.model}", "resize": "squash"}
        model |= {"checkpoint": str(work / "weights.pt"), "input_size": 224, "std": [0.5] * 3}
        model |= {"interpolation": "bilinear", "mean": [0.5] * 3}
        small = runner.link_images(given.images, work / "small", given.small)
        large = runner.link_images(given.images, work / "large", given.rows)

        def extract(images: Path, executor: str, engine: str) -> runner.Measures:
            out = work / f"{images.name}-{executor}"
            shutil.rmtree(out, ignore_errors=True)
            how: dict[str, Any] = {"executor": executor, "engine": engine, "precision": "fp32"}
            ran = runner.call(extract_run, source=images, model=model, out=out, **how)
            known = ran.answer()
            report.facts[f"engine, {images.name}, {executor}"] = known["engine"]
            if images == small:
                return {"images/s": given.small / ran.seconds, "first, s": first_answer(ran)}
            core = {"core_ms": known["core_ms"]} if executor == "local" else {}
            return {"images/s": known["between"], **core}

        def daft() -> runner.Measures:
            shutil.rmtree(work / "daft", ignore_errors=True)
            how: dict[str, Any] = {
                "name": given.model,
                "weights": work / "weights.pt",
                "out": work / "daft",
            }
            ran = runner.call(daft_job, images=small, **how)
            return {"images/s": given.small / ran.seconds, "first, s": first_answer(ran)}

        def loop(processes: int, lanes: int) -> runner.Measures:
            how: dict[str, Any] = {"engine": engine, "precision": "fp32", "seconds": given.seconds}
            answers = runner.together(
                hot_loop, processes, model=model, lanes=lanes, images=str(large), **how
            )
            core = statistics.mean(one["core_ms"] for one in answers)
            return {"images/s": sum(one["rate"] for one in answers), "core_ms": core}

        extract(small, "local", "auto")
        engine = report.facts["engine, small, local"]
        contenders: dict[str, runner.Contender] = {
            "small, local": lambda: extract(small, "local", "auto"),
            "small, Ray": lambda: extract(small, "ray", "auto"),
            "steady, local": lambda: extract(large, "local", engine),
            "steady, Ray": lambda: extract(large, "ray", engine),
            "hot loop, processes": lambda: loop(runner.CORES, 1),
            "hot loop, threads": lambda: loop(1, runner.CORES),
        }
        if find_spec("daft"):
            contenders["small, Daft"] = daft
        report.run(contenders, given.rounds)
        rates = {name: report.median(name, "images/s") for name in contenders}
        best = max((name for name in contenders if "hot" in name), key=rates.__getitem__)
        report.ratio("steady, local", best, "images/s")
        report.ratio("steady, Ray", "steady, local", "images/s")
        report.ratio(best, "steady, local", "core_ms")
        if "small, Daft" in contenders:
            report.ratio("small, local", "small, Daft", "images/s")
            report.ratio("small, Ray", "small, Daft", "images/s")
            cosine = least_cosine(work / "small-local" / "detections", work / "daft")
            report.facts["least cosine to Daft's embeddings"] = cosine
    report.show()
    print(json.dumps(report.facts, indent=2))
    report.write(given.json)


if __name__ == "__main__":
    main()
