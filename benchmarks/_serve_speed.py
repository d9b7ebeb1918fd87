"""``serve.py``: single searches, batches, and micro-batching, each beside what bounds it."""

from __future__ import annotations

import argparse
import base64
import contextlib
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import CORES, spread, verdict
from _contenders import Child, row_ids
from _serving import Server, load, serving, write_requests
from _vectors import Floats

from index.search.snapshot import Snapshot

K = 10
CLIENTS = 32
BATCH = 256
BATCH_CLIENTS = (1, 4)
SEARCH = "/v1/search"
RAW = f"Snapshot.search, {CORES} threads"
Job = Callable[[], dict[str, Any]]


class Bench:
    """An index, who asks it what, and the rounds in which servers take turns."""

    def __init__(self, given: argparse.Namespace, index: Path, queries: Floats) -> None:
        self.given, self.index, self.queries = given, index, queries
        self.work: Path = given.work / "serve"
        self.work.mkdir(exist_ok=True)
        snapshot = Snapshot.open(index)
        rows = np.random.default_rng(5).choice(
            snapshot.manifest.rows, min(8 * BATCH, snapshot.manifest.rows), replace=False
        )
        self.rows, self.ids = rows, snapshot.columns(rows)["detection_id"]
        self.snapshot = snapshot

    def asked(self, name: str, requests: list[Any]) -> Path:
        return write_requests(self.work / f"{name}.json", requests)

    def by_id(self) -> Path:
        bodies = [{"detection_id": one, "k": K} for one in self.ids]
        return self.asked("by-id", [("POST", SEARCH, body) for body in bodies])

    def by_vector(self) -> Path:
        bodies = [{"vector": text(query[None]), "k": K} for query in self.queries]
        return self.asked("by-vector", [("POST", SEARCH, body) for body in bodies])

    def job(self, server: Server, requests: Path, connections: int = CLIENTS) -> Job:
        return lambda: load(server, requests, connections=connections, seconds=self.given.seconds)

    def turns(self, jobs: dict[str, Job]) -> dict[str, list[dict[str, Any]]]:
        """Every job once a round, in an order that turns around."""
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
        for number in range(self.given.rounds):
            for name in list(jobs)[:: 1 if number % 2 else -1]:
                found[name].append(jobs[name]())
        return found


def text(vectors: Floats) -> str:
    """Base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(vectors, "<f4").tobytes()).decode()


def single(bench: Bench) -> dict[str, Any]:
    """Search by id beside a bare route: requests a second, and how long one takes."""
    nothing = bench.asked("bare", [("GET", "/readyz", None)])
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(serving("onepass", bench.index, bench.work))
        bare = stack.enter_context(serving("bare", bench.index, bench.work))
        found = bench.turns(
            {
                "bare route": bench.job(bare, nothing),
                "search by id": bench.job(ours, bench.by_id()),
                "search by vector": bench.job(ours, bench.by_vector()),
            }
        )
    print(
        f"\nsingle searches, k {K}, {CLIENTS} clients that keep their connections, medians (min..max)"
    )
    table(found)
    ratios = {}
    for name in ("search by id", "search by vector"):
        each = [
            o["rate"] / b["rate"] for o, b in zip(found[name], found["bare route"], strict=True)
        ]
        tails = [one["p99"] / one["p50"] for one in found[name]]
        ratios[name] = {"of bare": statistics.median(each), "p99/p50": statistics.median(tails)}
        judged = verdict(ratios[name]["of bare"], 0.5) if name == "search by id" else ""
        print(f"  {name + ' / bare route':<30}{spread(each, 2):<24}{judged}")
        worst = ratios[name]["p99/p50"]
        judged = f"< 5  {'met' if worst < 5 else 'missed'}"
        print(f"  {name + ', p99 / p50':<30}{spread(tails, 2):<24}{judged}", flush=True)
    return {"ratios": ratios, "rounds": found}


def batch(bench: Bench) -> dict[str, Any]:
    """``/search/batch`` of 256 beside the same vectors through ``Snapshot.search``."""
    stored = bench.snapshot.vectors(bench.rows)
    parts = [slice(at, at + BATCH) for at in range(0, len(bench.rows) - BATCH + 1, BATCH)]
    bodies = {
        "vectors": [{"vectors": text(stored[part]), "k": K} for part in parts],
        "ids": [
            {"queries": [{"detection_id": one} for one in bench.ids[part]], "k": K}
            for part in parts
        ],
    }
    queries, truth = bench.work / "batch.npy", bench.work / "batch-truth.npy"
    np.save(queries, stored)
    np.save(truth, row_ids(bench.snapshot, bench.rows)[:, None])
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(serving("onepass", bench.index, bench.work))
        child = Child("onepass", bench.index, queries, truth)
        stack.callback(child.close)
        how = {"threads": CORES, "size": BATCH, "seconds": bench.given.seconds}
        jobs: dict[str, Job] = {RAW: lambda: child.ask(what="rate", effort=0, **how)}
        for kind, asked in bodies.items():
            requests = [("POST", f"{SEARCH}/batch", body) for body in asked]
            file = bench.asked(f"batch-{kind}", requests)
            for clients in BATCH_CLIENTS:
                jobs[f"{kind}, {clients} at once"] = bench.job(ours, file, clients)
        found = bench.turns(jobs)
    raw = [one["rate"] for one in found.pop(RAW)]
    return report_batch(raw, found)


def report_batch(raw: list[float], found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    print(f"\nbatches of {BATCH}, k {K}, queries/s, medians (min..max)")
    print(f"  {RAW:<26}{spread(raw, 0)}")
    ratios = {}
    for name, rounds in found.items():
        rates = [one["rate"] * BATCH for one in rounds]
        each = [rate / alone for rate, alone in zip(rates, raw, strict=True)]
        ratios[name] = statistics.median(each)
        print(
            f"  {name:<26}{spread(rates, 0):<30}of it {spread(each, 2):<24}"
            f"{verdict(ratios[name], 0.7)}",
            flush=True,
        )
    return {"raw": raw, "ratios": ratios, "rounds": found}


def micro(bench: Bench) -> dict[str, Any]:
    """Micro-batching on against off, the same clients."""
    with contextlib.ExitStack() as stack:
        on = stack.enter_context(serving("onepass", bench.index, bench.work))
        off = stack.enter_context(serving("alone", bench.index, bench.work))
        asked = {"by id": bench.by_id(), "by vector": bench.by_vector()}
        jobs = {
            f"{name}, {mode}": bench.job(server, requests)
            for name, requests in asked.items()
            for mode, server in (("on", on), ("off", off))
        }
        found = bench.turns(jobs)
    print(f"\nmicro-batching, {CLIENTS} clients, medians (min..max)")
    table(found)
    ratios = {}
    for name in asked:
        pairs = zip(found[f"{name}, on"], found[f"{name}, off"], strict=True)
        each = [on["rate"] / off["rate"] for on, off in pairs]
        ratios[name] = statistics.median(each)
        print(f"  {name + ', on / off':<30}{spread(each, 2)}", flush=True)
    return {"ratios": ratios, "rounds": found}


def table(found: dict[str, list[dict[str, Any]]]) -> None:
    """Rates, latencies, and how many cores each side took."""
    print(f"  {'':<20}{'requests/s':<30}{'p50 ms':<24}{'p99 ms':<24}server, client cores")
    for name, rounds in found.items():
        line = f"  {name:<20}{spread((one['rate'] for one in rounds), 0):<30}"
        for size in ("p50", "p99"):
            line += f"{spread((one[size] for one in rounds), 2):<24}"
        cores = [
            statistics.median(one[f"{side} cores"] for one in rounds)
            for side in ("server", "client")
        ]
        print(f"{line}{cores[0]:.2f}, {cores[1]:.2f}")
