"""``index.py --filters``: recall and latency under filters, narrow and wide, random and not."""

from __future__ import annotations

import argparse
import shutil
import time
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from _common import verdict
from _contenders import row_ids
from _index_compare import RECALL, K, build
from _truth import Chosen, exact, recall_of
from _vectors import Floats, made_queries, made_run

from index.search.filters import Filter
from index.search.snapshot import Snapshot
from pipelines.run import Run

SHARES = (0.5, 0.1, 0.01, 0.001)
FIRST_CALLS = 20


def filters(given: argparse.Namespace, real: Run) -> list[dict[str, Any]]:
    """Every filter over one index of ``--rows`` made vectors, one thread, one query a call."""
    run = made_run(real, given.work / f"made-{given.rows}", given.rows)
    index = given.work / f"compare-made-{run.manifest.rows.written}" / "onepass"
    if not (index / "CURRENT").is_file():
        shutil.rmtree(index, ignore_errors=True)
        index.parent.mkdir(exist_ok=True)
        build(run, index, given.work / "filters.log", recall=RECALL)
    queries = made_queries(real, given.work, given.queries)[: given.filter_queries]
    asked = expressions(run)
    truth = exact(
        run,
        queries,
        K,
        filters={where: chosen for where, _, _, chosen in asked},
        columns=("frame", "label_index"),
    )
    snapshot = Snapshot.open(index)
    faiss.omp_set_num_threads(1)
    print(
        f"\nfilters over {run.manifest.rows.written} made vectors ({snapshot.manifest.factory}), "
        f"{len(queries)} queries one by one, 1 thread; first: a new expression, {FIRST_CALLS} of "
        "them; ms"
    )
    head = f"  {'rows left':<18}{'recall@10':>10}  {'':<16}{'p50':>8}{'p99':>8}{'first p50':>11}"
    print(f"{head}{'first max':>11}  where")
    plain = [timed(snapshot, query, None)[1] for query in [*queries[:5], *queries]][5:]
    print(f"  {'all':<18}{'':>28}{ms(plain, 50):>8.2f}{ms(plain, 99):>8.2f}")
    found = [
        one_filter(snapshot, queries, truth[where], kind, share, where)
        for where, kind, share, _ in asked
    ]
    print(f"  lowest recall {verdict(min(one['recall'] for one in found), RECALL)}")
    return [{"where": None, "p50": ms(plain, 50), "p99": ms(plain, 99)}, *found]


def one_filter(
    snapshot: Snapshot, queries: Floats, truth: Any, kind: str, share: float, where: str
) -> dict[str, Any]:
    first = []
    for number in range(FIRST_CALLS):  # the same rows, said in another way: nothing is known of it
        new = Filter(where=f"({where}) AND frame > {-1 - number}")
        first.append(timed(snapshot, queries[number % len(queries)], new)[1])
    chosen = Filter(where=where)
    timed(snapshot, queries[0], chosen)
    each = [timed(snapshot, query, chosen) for query in queries]
    rows, spent = np.vstack([rows for rows, _ in each]), [seconds for _, seconds in each]
    told = {
        "kind": kind,
        "share": share,
        "where": where,
        "recall": recall_of(truth, row_ids(snapshot, rows)),
        "p50": ms(spent, 50),
        "p99": ms(spent, 99),
        "first p50": ms(first, 50),
        "first max": 1e3 * max(first),
    }
    print(
        f"  {kind:<11}{share:>6.2%} {told['recall']:>10.4f}  {verdict(told['recall'], RECALL):<16}"
        f"{told['p50']:>8.2f}{told['p99']:>8.2f}{told['first p50']:>11.2f}"
        f"{told['first max']:>11.2f}  {where}",
        flush=True,
    )
    return told


def timed(snapshot: Snapshot, query: Floats, chosen: Filter | None) -> tuple[Any, float]:
    began = time.perf_counter()
    rows = snapshot.search(query[None], K, chosen=chosen).rows
    return rows, time.perf_counter() - began


def ms(seconds: list[float], percent: int) -> float:
    return float(np.percentile(seconds, percent)) * 1e3


def expressions(run: Run) -> list[tuple[str, str, float, Chosen]]:
    """(where, kind, share of the rows it leaves, the same in NumPy) of every filter.

    ``random``: the frame was drawn at random. ``label``: the range of classes whose share comes
    nearest; neighbouring classes of ImageNet are alike, so its rows lie together, far from most
    queries.
    """
    found: list[tuple[str, str, float, Chosen]] = []
    for share in SHARES:
        few = round(share * 1000)
        found.append((f"frame % 1000 < {few}", "random", share, _random(few)))
    labels = np.concatenate([b["label_index"].to_numpy() for b in run.batches(["label_index"])])
    ends = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=1000))]) / len(labels)
    shares = ends[None, 1:] - ends[:-1, None]  # of classes first..last, by (first, last)
    for share in SHARES:
        off = np.where(np.tri(*shares.shape, -1, dtype=bool), np.inf, np.abs(shares - share))
        first, last = (int(at) for at in np.unravel_index(np.argmin(off), off.shape))
        where = f"label_index BETWEEN {first} AND {last}"
        found.append((where, "label", float(shares[first, last]), _labelled(first, last)))
    return found


def _random(few: int) -> Chosen:
    return lambda table: table["frame"].to_numpy() % 1000 < few


def _labelled(first: int, last: int) -> Chosen:
    def chosen(table: pa.Table) -> Any:
        labels = table["label_index"].to_numpy()
        return (labels >= first) & (labels <= last)

    return chosen
