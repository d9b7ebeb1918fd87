"""Clip features at three speeds: one pass over stored frames against the usual three passes.

    python -m benchmarks.video [VIDEOS] [--clips 4] [--model torchvision:resnet50] [--frames 64]

The usual script resamples each clip to 1.0, 0.85 and 1.15 of its length and runs the network on
each; onepass runs it on each distinct frame once and resamples what came out. Both take the same
decoded frames (made clips without VIDEOS) through the same engine in the same process. Forwards are
counted where they happen and the answers compared; decoding is the same work for both and left out.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work), one made clip: 191 forwards in 9.2 s
against 64 in 7.5 s; difference 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runner

SCALES = (1.0, 0.85, 1.15)
SIDE = 256
Network = Callable[[np.ndarray], np.ndarray]


def three_passes(frames: np.ndarray, network: Network) -> np.ndarray:
    """The usual script: resample the clip's frames [T, H, W, 3], run the network, pad, average."""
    features = []
    for scale in SCALES:
        wanted = max(int(len(frames) * scale), 5)
        indices = np.linspace(0, len(frames) - 1, wanted).astype(int)
        features.append(network(np.ascontiguousarray(frames[indices])))
    longest = max(len(found) for found in features)
    padded = [np.pad(found, ((0, longest - len(found)), (0, 0))) for found in features]
    averaged: np.ndarray = np.stack(padded).mean(axis=0)
    return averaged


def frames_of(given: Any, how: Any) -> list[np.ndarray]:
    """The frames of each clip, uint8 [T, H, W, 3]; random ones without a folder of videos."""
    if given.videos is None:
        dice = np.random.default_rng(0)
        shape = (given.frames, *how.input_size, 3)
        return [dice.integers(0, 256, shape, np.uint8) for _ in range(given.clips)]
    from pipelines.images.decode import PIXELS, decode_rows, unpack
    from pipelines.sources.read import read_source

    plan = read_source(str(given.videos), kind="video", frames=given.frames)
    rows = decode_rows(plan.table, plan.root, {PIXELS: how})
    rows = rows.filter(rows["error"].is_null())
    pixels, names = unpack(rows, PIXELS, how), rows["sequence"].to_numpy()
    return [pixels[names == name] for name in dict.fromkeys(names)]


def main() -> None:
    parser = runner.arguments(__doc__)
    parser.add_argument("videos", type=Path, nargs="?", help="a folder of videos")
    parser.add_argument("--clips", type=int, default=2, help="made ones, without VIDEOS")
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--engine", default="eager", choices=["eager", "compile", "openvino"])
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--frames", type=int, default=64)
    given = runner.parsed(parser, model="tiny", precision="fp32", clips=1)
    from pipelines.engines.engine import Engine
    from pipelines.model_info import ModelRequest
    from pipelines.models.registry import examine
    from pipelines.outputs.clips.scales import multi_scale

    facts = examine(ModelRequest(spec=given.model, input_size=SIDE, resize="squash"))
    engine = Engine(facts, given.precision, given.engine)
    clips = frames_of(given, facts.preprocess)
    engine(clips[0][:8])  # whatever happens once
    forwards = 0

    def network(pixels: np.ndarray) -> np.ndarray:
        nonlocal forwards
        forwards += len(pixels)
        return engine(pixels).embedding

    answers: dict[str, list[np.ndarray]] = {}

    def measure(name: str, features: Callable[[np.ndarray], np.ndarray]) -> runner.Measures:
        nonlocal forwards
        forwards, began = 0, time.perf_counter()
        answers[name] = [features(clip) for clip in clips]
        return {"seconds": time.perf_counter() - began, "forwards": forwards}

    report = runner.Report(f"{len(clips)} clips, {given.model}, {given.engine} {given.precision}")
    one = lambda clip: multi_scale(network(clip), SCALES)  # noqa: E731
    report.run(
        {
            "three passes": lambda: measure("three", lambda clip: three_passes(clip, network)),
            "one pass": lambda: measure("one", one),
        },
        given.rounds,
    )
    for measure_name in ("seconds", "forwards"):
        report.ratio("three passes", "one pass", measure_name)
    pairs = zip(answers["three"], answers["one"], strict=True)
    worst = max(float(np.abs(a - b).max()) for a, b in pairs)
    report.facts["largest difference of a number"] = worst
    report.show()
    print(f"  {report.facts}")
    report.write(given.json)


if __name__ == "__main__":
    main()
