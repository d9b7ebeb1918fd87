"""What an engine is worth: alone, inside ``extract``, and beside the usual script.

    python -m benchmarks.engines IMAGES [--models resnet50 mobilenetv3_large_100] [--rows 1024]

For each model (timm names, random weights, their own input size):

* **hot loop**: a single-thread process a core that does nothing but one engine on ready pixels;
  the network once a batch, and twice, which is what classifying and then extracting costs;
* **decode + best**: the fastest bf16 engine on files that the same process decodes: the most that any
  pipeline can reach where decoding shares the cores;
* **pipeline**: the steady state of ``extract``, with that engine in bf16 and by default;
* **two passes**: the usual script: float32, batches of 24, Pillow, the network twice.

The last three run on photos as they are and on crops of 256 pixels, as a detector leaves them. At
the end **agreement** of every engine and precision with exact float32 for ``lite0`` with its trained
weights, and which precision ``auto`` takes.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work), --quick, MobileNetV3-Large,
images/s: eager 19 (fp32) and 40 (bf16), compiled bf16 103, OpenVINO 145 and 262; pipeline by default
186 of photos and 103 of crops, 13 and 14 times the two passes.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import runner
from benchmarks.jobs import extract_run, hot_loop, steady_rate, two_passes

WAYS = [("eager", "fp32"), ("eager", "bf16"), ("compile", "bf16")]
if find_spec("openvino"):
    WAYS += [("openvino", "fp32"), ("openvino", "bf16")]
CROP_PIXELS = 256


def crops(source: Path, target: Path) -> Path:
    """The centre square of every image, ``CROP_PIXELS`` wide."""
    from PIL import Image, ImageOps

    target.mkdir()
    for file in sorted(source.iterdir()):
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        ImageOps.fit(upright, (CROP_PIXELS, CROP_PIXELS)).save(target / file.name, quality=90)
    return target


def agreement(images: str, spec: str) -> dict[str, Any]:
    """How far each engine and precision is from eager float32 on a folder's images."""
    import numpy as np
    import torch

    from pipelines.config import ExtractConfig
    from pipelines.engines.candidates import compare
    from pipelines.engines.engine import Engine
    from pipelines.extract import extract
    from pipelines.images.decode import PIXELS, decode_rows, unpack
    from pipelines.model_info import ModelRequest
    from pipelines.models.registry import examine
    from pipelines.sources.read import read_source

    torch.set_num_threads(1)
    model = ModelRequest(spec=spec)
    facts, plan = examine(model), read_source(images)
    decoded = decode_rows(plan.table, plan.root, {PIXELS: facts.preprocess})
    pixels = unpack(decoded, PIXELS, facts.preprocess)[np.asarray(decoded["error"].is_null())]
    exact = Engine(facts, "fp32", "eager")(pixels)
    found: dict[str, Any] = {}
    for engine, precision in WAYS:
        answers = Engine(facts, precision, engine)(pixels)  # type: ignore[arg-type]
        audit = compare(answers.embedding, answers.logits, exact.embedding, exact.logits)
        found[f"{engine} {precision}"] = audit.model_dump()
    config = ExtractConfig(source=images, model=spec, executor="local")
    with runner.folder() as work:
        run = extract(config, work / "run").run
        found["auto takes"] = f"{run.manifest.engine} {run.manifest.precision}"
    return found


def measure(name: str, sources: dict[str, Path], given: Any, work: Path) -> runner.Report:
    """All contenders of one model."""
    model = {"spec": f"timm:{name}"}
    report = runner.Report(f"{name}, images/s; {given.rows} images a pipeline")

    def loop(engine: str, precision: str, **how: Any) -> runner.Measures:
        how |= {"engine": engine, "precision": precision, "seconds": given.seconds}
        return {
            "images/s": sum(
                one["rate"] for one in runner.together(hot_loop, runner.CORES, model=model, **how)
            )
        }

    def pipeline(source: Path, **how: Any) -> runner.Measures:
        out = work / "run"
        shutil.rmtree(out, ignore_errors=True)
        known = runner.call(extract_run, source=source, model=model, out=out, **how).answer()
        report.facts[f"{source.name}, {how or 'default'}"] = known
        return {"images/s": steady_rate(out, runner.CORES)[0]}

    def usual(source: Path) -> runner.Measures:
        rows = min(96, given.rows)
        return {
            "images/s": runner.call(two_passes, images=source, name=name, rows=rows).answer()[
                "rate"
            ]
        }

    hot: dict[str, runner.Contender] = {
        f"hot loop {engine} {precision}": lambda e=engine, p=precision: loop(e, p)  # type: ignore[misc]
        for engine, precision in WAYS
    }
    report.run(hot, 1)  # settles which engine is best, and builds what is not built yet
    bf16 = [engine for engine, precision in WAYS if precision == "bf16"]
    best = max(bf16, key=lambda engine: report.median(f"hot loop {engine} bf16", "images/s"))
    report.rounds.clear()
    contenders: dict[str, runner.Contender] = {
        **hot,
        f"twice a batch {best} bf16": lambda: loop(best, "bf16", passes=2),
    }
    for kind, source in sources.items():
        contenders |= {
            f"{kind}: decode + {best}": lambda s=source: loop(best, "bf16", images=str(s)),  # type: ignore[misc]
            f"{kind}: pipeline {best} bf16": lambda s=source: pipeline(  # type: ignore[misc]
                s, engine=best, precision="bf16"
            ),
            f"{kind}: pipeline by default": lambda s=source: pipeline(s),  # type: ignore[misc]
            f"{kind}: two passes": lambda s=source: usual(s),  # type: ignore[misc]
        }
    report.run(contenders, given.rounds)
    fastest = f"hot loop {best} bf16"
    report.ratio(fastest, "hot loop eager bf16", "images/s")
    report.ratio(fastest, f"twice a batch {best} bf16", "images/s")
    for kind in sources:
        report.ratio(f"{kind}: pipeline {best} bf16", fastest, "images/s")
        report.ratio(f"{kind}: pipeline {best} bf16", f"{kind}: decode + {best}", "images/s")
        report.ratio(f"{kind}: pipeline by default", f"{kind}: two passes", "images/s")
    return report


def main() -> None:
    parser = runner.arguments(__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--models", nargs="+", default=["mobilenetv3_large_100"], help="timm names")
    parser.add_argument("--seconds", type=float, default=4, help="of each hot loop")
    parser.add_argument("--rows", type=int, default=2048, help="images of each pipeline")
    given = runner.parsed(parser, seconds=1.0, rows=1024)
    told = []
    with runner.folder() as work:
        photos = runner.link_images(given.images, work / "photos", given.rows)
        sources = {"photos": photos, "crops": crops(photos, work / "crops")}
        for name in given.models:
            report = measure(name, sources, given, work)
            report.show()
            told.append(vars(report))
        sample = runner.link_images(given.images, work / "sample", 50 if given.quick else 200)
        found = runner.call(agreement, images=sample, spec="lite0").answer()
    print("\nlite0, agreement with exact float32")
    for way, audit in found.items():
        print(f"  {way:<16} {audit if isinstance(audit, str) else json.dumps(audit)}")
    if given.json:
        result = {"models": told, "agreement": found}
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
