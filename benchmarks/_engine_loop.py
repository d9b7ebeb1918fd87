"""Nothing but an engine, in a window that others share:

    _engine_loop.py MODEL ENGINE PRECISION SECONDS PASSES LANES [FOLDER]

One process of LANES threads that share the engine, each with a core's worth of work at a time.
MODEL is a model request as JSON. Says ``ready`` once the engine is built and warm, waits for a
line, then answers batches for SECONDS. PASSES=2 runs the network twice a batch: once to classify,
again to extract. With FOLDER every batch is read and decoded from its JPEG files, as ``extract``
does it; without, the same ready pixels are answered again and again.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipelines.engines.engine import Engine
from pipelines.images.pixels import decode, read, resize
from pipelines.model_info import ModelRequest, Preprocess
from pipelines.models.registry import examine

ROWS = 32


def ready_pixels(how: Preprocess) -> Iterator[np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, *how.input_size, 3), np.uint8)
    while True:
        yield pixels


def decoded(folder: Path, how: Preprocess, at: int) -> Iterator[np.ndarray]:
    """Batches from the files, from the one at ``at`` on, round and round."""
    files = sorted(folder.iterdir())
    while True:
        pixels = torch.empty((ROWS, *how.input_size, 3), dtype=torch.uint8)
        for number in range(ROWS):
            image = decode(read(files[(at + number) % len(files)]))
            pixels[number] = resize(image.pixels, how).permute(1, 2, 0)
        at += ROWS
        yield pixels.numpy()


def main() -> None:
    model, engine_name, precision, seconds, passes, lanes = sys.argv[1:7]
    facts = examine(ModelRequest.model_validate_json(model))
    torch.set_num_threads(1)
    engine = Engine(facts, precision, engine_name, batch_rows=ROWS, lanes=int(lanes))
    how, folder = facts.preprocess, Path(sys.argv[7]) if sys.argv[7:] else None
    warm = threading.Barrier(int(lanes) + 1)
    start = threading.Event()
    done = [(0, 1.0)] * int(lanes)  # rows and seconds of each

    def lane(number: int) -> None:
        torch.set_num_threads(1)
        at = (os.getpid() + number) * 7919  # each goes its own way through the files
        batches = ready_pixels(how) if folder is None else decoded(folder, how, at)

        def answer() -> None:
            pixels = next(batches)
            for _ in range(int(passes)):
                engine(pixels)

        answer()
        answer()
        warm.wait()
        start.wait()
        began, rows = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < float(seconds):
            answer()
            rows += ROWS
        done[number] = rows, passed
        warm.wait()
        # The slower ones still count: keep the core busy until the parent ends this process.
        while time.perf_counter() - began < 3 * float(seconds):
            answer()

    for number in range(int(lanes)):
        threading.Thread(target=lane, args=(number,), daemon=True).start()
    warm.wait()
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    spent = time.process_time()
    start.set()
    warm.wait()
    core = 1000 * (time.process_time() - spent) / sum(rows for rows, _ in done)
    rate = sum(rows / passed for rows, passed in done)
    print(json.dumps({"rate": rate, "core ms": core}), flush=True)
    time.sleep(2 * float(seconds))


main()
