"""What several benchmarks run in processes of their own: a whole extraction, and the loops beside it.

Each function imports what it needs itself, so that a child pays for its own work alone and a
script's ``--help`` for nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.runner import Ran, wait_for_the_others
from pipelines.run import Run

ROWS = 32  # of a batch
Pixels = np.ndarray


def extract_run(source: str, model: dict[str, Any], out: str, **options: Any) -> dict[str, Any]:
    """``extract`` of a source into ``out``; what its figures are made of.

    Returns:
        ``first_at``: when the first row was answered, seconds since the epoch. ``between``:
        images/s from the first answer to the last. ``core_ms``: milliseconds of a core that this
        process spent on an image between these. ``engine``, ``precision``, ``waited``.
    """
    from pipelines.config import ExtractConfig, Progress
    from pipelines.extract import extract

    began = time.time()
    spent: list[tuple[int, float]] = []  # rows, and seconds of a core until then

    def report(progress: Progress) -> None:
        if progress.stage == "extracting" and progress.done:
            spent.append((progress.done, time.process_time()))

    own = {name: value for name, value in model.items() if name != "spec"}
    config = ExtractConfig(source=source, model=model["spec"], **own, **options)
    outcome = extract(config, Path(out), report=report)
    session = outcome.run.manifest.session
    assert session is not None
    rows = spent[-1][0] - spent[0][0] if spent else 0
    return {
        "first_at": began + (outcome.first_answer_seconds or 0),
        "between": session.rows_a_second or 0.0,
        "core_ms": 1000 * (spent[-1][1] - spent[0][1]) / rows if rows else 0.0,
        "engine": outcome.run.manifest.engine,
        "precision": outcome.run.manifest.precision,
        "waited": session.waited or 0.0,
        "rows": outcome.run.manifest.rows.written,
    }


def first_answer(ran: Ran) -> float:
    """Seconds from a process's start to the first answer that it reports as ``first_at``."""
    return float(ran.answer()["first_at"]) - ran.began


def steady_rate(run: Path, lanes: int) -> tuple[float, float, float]:
    """Images/s while all lanes or actors are at work, and from when to when.

    A lane decodes a block and then answers it, so answers come in bursts and only whole blocks
    tell a rate. Each is one file, so it is taken from file to file: from everyone's first to the
    last that leaves everyone another, over the same number of blocks for each.
    """
    files = sorted(Run.open(run).files(), key=lambda file: file.stat().st_mtime_ns)
    first, last = lanes - 1, len(files) - 1 - lanes
    last -= (last - first) % lanes
    if last <= first:
        sys.exit(f"{len(files)} blocks are too few for a steady state of {lanes}: give more rows")
    rows = sum(pq.ParquetFile(file).metadata.num_rows for file in files[first + 1 : last + 1])
    begin, end = (files[at].stat().st_mtime_ns / 1e9 for at in (first, last))
    return rows / (end - begin), begin, end


def hot_loop(
    model: dict[str, Any],
    engine: str | None,
    precision: str,
    seconds: float,
    passes: int = 1,
    lanes: int = 1,
    images: str | None = None,
) -> dict[str, float]:
    """Nothing but one engine, in a window that several processes share (``runner.together``).

    Args:
        engine: None: images are decoded and not answered.
        passes: how often the network runs on a batch; 2: once to classify, again to extract.
        lanes: threads that share the engine, each with a core's worth of work.
        images: a folder whose files are read and decoded for every batch, as ``extract`` does;
            None: the same ready pixels again and again.

    Returns:
        ``rate``: images/s; ``core_ms``: milliseconds of a core an image.
    """
    import torch

    from pipelines.engines.engine import Engine
    from pipelines.model_info import ModelRequest
    from pipelines.models.registry import examine

    torch.set_num_threads(1)
    facts = examine(ModelRequest.model_validate(model))
    run: Callable[[Pixels], object] = lambda pixels: None  # noqa: E731
    if engine is not None:
        run = Engine(facts, precision, engine, batch_rows=ROWS, lanes=lanes)  # type: ignore[arg-type]
    warm, start = threading.Barrier(lanes + 1), threading.Event()
    done = [(0, 1.0)] * lanes  # rows and seconds of each

    def lane(number: int) -> None:
        torch.set_num_threads(1)
        batches = _batches(images, facts.preprocess, number * 7919)
        for _ in range(2):
            run(next(batches))
        warm.wait()
        start.wait()
        began, rows = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            pixels = next(batches)
            for _ in range(passes):
                run(pixels)
            rows += ROWS
        done[number] = rows, time.perf_counter() - began

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    for thread in threads:
        thread.start()
    warm.wait()
    wait_for_the_others()
    spent = time.process_time()
    start.set()
    for thread in threads:
        thread.join()
    core = 1000 * (time.process_time() - spent) / sum(rows for rows, _ in done)
    return {"rate": sum(rows / passed for rows, passed in done), "core_ms": core}


def _batches(images: str | None, how: Any, at: int) -> Iterator[Pixels]:
    """Batches uint8 ``[ROWS, H, W, 3]``; those of a folder begin at its file ``at``."""
    if images is None:
        ready = np.random.default_rng(0).integers(0, 256, (ROWS, *how.input_size, 3), np.uint8)
        while True:
            yield ready
    import torch

    from pipelines.images.formats import decode
    from pipelines.images.pixels import read, resize

    files = sorted(Path(images).iterdir())
    pixels = torch.empty((ROWS, *how.input_size, 3), dtype=torch.uint8)
    while True:
        for number in range(ROWS):
            image = decode(read(files[(at + number) % len(files)]))
            pixels[number] = resize(image.pixels, how).permute(1, 2, 0)
        at += ROWS
        yield pixels.numpy()


def two_passes(images: str, name: str, rows: int) -> dict[str, float]:
    """The usual script: Pillow, float32, batches of 24, classify every image, then run it again."""
    import timm
    import torch
    from PIL import Image

    files = sorted(Path(images).iterdir())[:rows]
    model = timm.create_model(name).eval()
    extractor = torch.nn.Sequential(*list(model.children())[:-1])

    def batches() -> Iterator[torch.Tensor]:
        for start in range(0, len(files), 24):
            opened = (Image.open(f).convert("RGB").resize((224, 224)) for f in files[start:][:24])
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in opened]))
            yield (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25

    with torch.inference_mode():
        model(next(batches()))
        began = time.perf_counter()
        for batch in batches():
            model(batch).softmax(1)
        for batch in batches():
            extractor(batch).flatten(1)
    return {"rate": len(files) / (time.perf_counter() - began)}
