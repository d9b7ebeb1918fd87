"""Lanes as the local executor has them, for a while: rows to pixels to tables, nothing written.

    _lane_loop.py WORK MODEL SECONDS LANES FOLDER

One process of LANES threads. WORK is ``decode``, or the engine that all share to answer what each
has decoded. Says ``ready`` once all are warm, waits for a line, works for SECONDS, and tells rows a
second, and of a row the seconds of a core and the page faults, for which threads of one process wait
for each other as well.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time

import torch

from pipelines.engines.batching import DEFAULT_ROWS
from pipelines.engines.engine import Engine
from pipelines.engines.forward import Engines, Forward, pixel_columns
from pipelines.images.decode import decode_batches
from pipelines.model_info import ModelRequest
from pipelines.models.registry import examine
from pipelines.progress.counters import Board
from pipelines.sources.plan import read_source
from tests.runs import command_of, request_of

BLOCK_ROWS = 256


def main() -> None:
    work, model, seconds, lanes, folder = sys.argv[1:6]
    torch.set_num_threads(1)
    asked = ModelRequest.model_validate_json(model)
    facts = examine(asked)
    plan = read_source(folder)
    request = request_of(command_of(model=asked, source=folder), facts)
    engine = None if work == "decode" else Engine(facts, "fp32", work, lanes=int(lanes))
    warm, start = threading.Barrier(int(lanes) + 1), threading.Event()
    board = Board()
    done = [(0, 1.0)] * int(lanes)  # rows and seconds of each

    def lane(number: int) -> None:
        torch.set_num_threads(1)
        forward = Forward(request, Engines(engine), board) if engine else None
        at = number * 7919 % plan.table.num_rows  # each goes its own way through the rows
        began, rows = 0.0, 0
        while not rows or time.perf_counter() - began < float(seconds):
            block = plan.table.slice(at, BLOCK_ROWS)
            at = at + BLOCK_ROWS if at + BLOCK_ROWS < plan.table.num_rows else 0
            for batch in decode_batches(
                block, plan.root, pixel_columns(request), DEFAULT_ROWS, done=board.decoded
            ):
                if forward:
                    forward.answer(batch)
                if not began:
                    warm.wait()
                    start.wait()
                    began = time.perf_counter()
                    continue
                rows += batch.num_rows
                if (passed := time.perf_counter() - began) >= float(seconds):
                    break
        done[number] = rows, passed
        warm.wait()

    for number in range(int(lanes)):
        threading.Thread(target=lane, args=(number,), daemon=True).start()
    warm.wait()
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    faults, spent = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    start.set()
    warm.wait()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    spent, rows = time.process_time() - spent, sum(rows for rows, _ in done)
    rate = sum(rows / passed for rows, passed in done)
    print(json.dumps({"rate": rate, "core": spent / rows, "faults": faults / rows}), flush=True)


main()
