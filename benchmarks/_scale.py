"""One run for ``scaling.py``, on the cluster of RAY_ADDRESS, or the parts of it on one core:

_scale.py SOURCE MODEL OUT WORKERS ENGINE
_scale.py --alone FOLDER MODEL ENGINE
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _extract import steady_rate
from _few_actors import only

from pipelines.engines.engine import Engine
from pipelines.extract import Options, extract
from pipelines.images.pixels import decode, read, resize
from pipelines.model_info import ModelRequest
from pipelines.models.registry import examine

ROWS = 32  # a forward pass
BLOCK_ROWS = 64
SECONDS = 3.0


def run(source: str, model: str, out: str, workers: str, engine: str) -> None:
    actors = int(workers)
    # Nodes have more slots than cores. Small blocks, because a rate is taken between whole ones.
    only(actors, BLOCK_ROWS)
    options = Options(precision="fp32", engine=engine, batch_rows=ROWS)
    outcome = extract(source, ModelRequest(spec=model), Path(out), options)
    files = sorted(file.stat().st_mtime for file in outcome.run.files())
    session = outcome.run.manifest.session
    assert session is not None
    told = {
        "waited": session.waited or 0.0,
        "rows": outcome.run.manifest.rows.written,
        "rate": steady_rate(outcome.run, actors),
        "first": outcome.first_answer_seconds,
        "from": files[actors - 1],  # all are at work
        "to": files[-actors - 1],
    }
    print(json.dumps(told))


def alone(folder: str, model: str, engine: str) -> None:
    torch.set_num_threads(1)
    facts = examine(ModelRequest(spec=model))
    how = facts.preprocess
    files = sorted(f for f in Path(folder).rglob("*") if f.suffix.lower() in (".jpg", ".jpeg"))
    pixels = torch.empty((ROWS, *how.input_size, 3), dtype=torch.uint8)
    network = Engine(facts, "fp32", engine, batch_rows=ROWS)
    at = 0

    def decode_some() -> None:
        nonlocal at
        for number in range(ROWS):
            image = decode(read(files[(at + number) % len(files)]))
            pixels[number] = resize(image.pixels, how).permute(1, 2, 0)
        at += ROWS

    costs = {
        "decode": _milliseconds(decode_some),
        "network": _milliseconds(lambda: network(pixels.numpy())),
    }
    print(json.dumps(costs))


def _milliseconds(work: Callable[[], object]) -> float:
    """Of one image; ``work`` does ``ROWS`` of them."""
    work()
    began, rows = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < SECONDS:
        work()
        rows += ROWS
    return 1000 * passed / rows


if __name__ == "__main__":
    if sys.argv[1] == "--alone":
        alone(*sys.argv[2:])
    else:
        run(*sys.argv[1:])
