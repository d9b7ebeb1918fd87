"""Clip features at three speeds: one pass over stored frames against the usual three passes.

    python benchmarks/video.py VIDEOS [--model torchvision:resnet50] [--precision bf16]
                               [--engine eager] [--frames 64] [--rounds 3] [--json out.json]

VIDEOS is a folder of videos. The usual script resamples each clip to 1.0, 0.85 and 1.15 of its
length and runs the network on each; onepass runs it on each distinct frame once and resamples
what came out. Both take the same decoded, resized frames through the same engine in the same
precision and process, in turns that start with the other each round. The forwards are counted
where they happen, and the answers compared. Decoding is the same work for both, so two ratios
are told: with it and without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import spread, verdict

from pipelines.engines.engine import Engine
from pipelines.images.decode import PIXELS, decode_rows, unpack
from pipelines.model_info import ModelRequest, Reading
from pipelines.models.registry import examine
from pipelines.outputs.clips.scales import multi_scale
from pipelines.sources.plan import Plan, read_source

SCALES = (1.0, 0.85, 1.15)
SIDE = 256
TARGET = 2.5


class Counted:
    """An engine that counts the images it is given."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.images = 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.images += len(pixels)
        return self._engine(pixels).embedding


def three_passes(frames: np.ndarray, network: Counted) -> np.ndarray:
    """The usual script: resample the clip's frames, run the network, pad, average."""
    features = []
    for scale in SCALES:
        wanted = max(int(len(frames) * scale), 5)
        indices = np.linspace(0, len(frames) - 1, wanted).astype(int)
        features.append(network(np.ascontiguousarray(frames[indices])))
    longest = max(len(found) for found in features)
    padded = [np.pad(found, ((0, longest - len(found)), (0, 0))) for found in features]
    return np.stack(padded).mean(axis=0)


def one_pass(frames: np.ndarray, network: Counted) -> np.ndarray:
    return multi_scale(network(frames), SCALES)


def decoded(plan: Plan, engine: Engine) -> list[np.ndarray]:
    """The frames of each clip, uint8 ``[T, H, W, 3]``; clips with an error are left out."""
    how = engine.facts.preprocess
    rows = decode_rows(plan.table, plan.root, {PIXELS: how})
    good = np.asarray(rows["error"].is_null())
    pixels, names = unpack(rows, PIXELS, how), rows["sequence"].to_numpy()
    clips = [pixels[names == name] for name in dict.fromkeys(names[good])]
    return [clip for clip in clips if len(clip)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--engine", default="eager", choices=("eager", "compile", "openvino"))
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    facts = examine(ModelRequest(spec=given.model, input_size=SIDE, resize="squash"))
    engine = Engine(facts, given.precision, given.engine)
    began = time.perf_counter()
    plan = read_source(str(given.videos), Reading(kind="video", frames=given.frames))
    clips = decoded(plan, engine)
    decoding = time.perf_counter() - began
    engine(clips[0][:8])  # whatever happens once
    contenders: dict[str, Callable[[np.ndarray, Counted], np.ndarray]] = {
        "three passes": three_passes,
        "one pass": one_pass,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    forwards: dict[str, int] = {}
    worst = 0.0
    for number in range(given.rounds):
        answers: dict[str, list[np.ndarray]] = {}
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            network = Counted(engine)
            began = time.perf_counter()
            answers[name] = [contenders[name](clip, network) for clip in clips]
            seconds[name].append(time.perf_counter() - began)
            forwards[name] = network.images
        pairs = zip(answers["three passes"], answers["one pass"], strict=True)
        worst = max(worst, *(float(np.abs(a - b).max()) for a, b in pairs))
    report(given, clips, decoding, seconds, forwards, worst)


def report(
    given: argparse.Namespace,
    clips: list[np.ndarray],
    decoding: float,
    seconds: dict[str, list[float]],
    forwards: dict[str, int],
    worst: float,
) -> None:
    print(
        f"{given.model} {given.engine} {given.precision}, {len(clips)} clips of {len(clips[0])} "
        f"frames at {SIDE}x{SIDE}, torch {torch.__version__}, {os.cpu_count()} CPUs"
    )
    print(f"{'':<14}{'forwards':>10}   seconds, median of {given.rounds} (range)")
    for name, times in seconds.items():
        print(f"{name:<14}{forwards[name]:>10}   {spread(times)}")
    three, one = (statistics.median(seconds[name]) for name in ("three passes", "one pass"))
    told: dict[str, Any] = {
        "model": given.model,
        "seconds": seconds,
        "forwards": forwards,
        "decode_seconds": decoding,
        "ratio": three / one,
        "ratio_with_decoding": (three + decoding) / (one + decoding),
        "worst_difference": worst,
        "result_frames": int(
            multi_scale(np.zeros((len(clips[0]), 1), np.float32), SCALES).shape[0]
        ),
    }
    print(f"decoding, the same for both: {decoding:.1f} s")
    print(
        f"three passes / one pass, network  {told['ratio']:.2f}  {verdict(told['ratio'], TARGET)}"
    )
    with_decoding = told["ratio_with_decoding"]
    print(
        f"  with planning and decoding      {with_decoding:.2f}  {verdict(with_decoding, TARGET)}"
    )
    print(f"largest difference of a number    {worst:.2g} ({told['result_frames']} frames a clip)")
    if given.json:
        given.json.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
