"""One process, one thread, nothing but an engine, in a window that others share:

    _engine_loop.py SPEC ENGINE PRECISION SECONDS PASSES [FOLDER]

Says ``ready`` once the engine is built and warm, waits for a line, then answers batches for
SECONDS. PASSES=2 runs the network twice a batch: once to classify, again to extract. With
FOLDER every batch is read and decoded from its JPEG files, as ``extract`` does it; without,
the same ready pixels are answered again and again.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipelines.backbones import examine
from pipelines.engines.engine import Engine
from pipelines.facts import ModelRequest, Preprocess
from pipelines.images import decode, fit, read

ROWS = 32


def ready_pixels(how: Preprocess) -> Iterator[np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, *how.input_size, 3), np.uint8)
    while True:
        yield pixels


def decoded(folder: Path, how: Preprocess) -> Iterator[np.ndarray]:
    files = sorted(folder.iterdir())
    at = os.getpid() * 7919  # each process goes its own way through the files
    while True:
        pixels = torch.empty((ROWS, *how.input_size, 3), dtype=torch.uint8)
        for number in range(ROWS):
            image = decode(read(files[(at + number) % len(files)]))
            pixels[number] = fit(image.pixels, how).permute(1, 2, 0)
        at += ROWS
        yield pixels.numpy()


def main() -> None:
    spec, engine_name, precision, seconds, passes = sys.argv[1:6]
    torch.set_num_threads(1)
    facts = examine(ModelRequest(spec=spec))
    engine = Engine(facts, precision, engine_name, batch_rows=ROWS)
    how = facts.preprocess
    batches = decoded(Path(sys.argv[6]), how) if sys.argv[6:] else ready_pixels(how)

    def answer() -> None:
        pixels = next(batches)
        for _ in range(int(passes)):
            engine(pixels)

    answer()
    answer()
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    began, rows = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < float(seconds):
        answer()
        rows += ROWS
    print(json.dumps({"rate": rows / passed}), flush=True)
    # The slower ones still count: keep the core busy until the parent ends this process.
    while time.perf_counter() - began < 3 * float(seconds):
        answer()


main()
