"""What an index is worth: recall and queries/s beside hnswlib and usearch, filters, build, update.

    python -m benchmarks.index --images PHOTOS [--work DIR] [--rows 1000000] [--crops 12000]

--work keeps the vectors (see ``made.py``) and the indexes of hnswlib and usearch (``pip install
hnswlib usearch``; float32, M 16, ef_construction 200, vectors at length 1, inner product).

* **search**: ``Snapshot.search`` of ``index build`` by default beside the others, each at the
  smallest search parameter that reaches its recall@10 on the same held-out queries, to 0.005: in
  batches on all cores, and one query a call on one thread.
* **filters**: 50, 10, 1 and 0.1 % of the rows, at random and lying together: recall against brute
  force under the same filter, and milliseconds of one query on one thread.
* **copies, recall@k**: see ``recall.py``: rows that occur once among copies beside brute force over
  them, on vectors like the real ones and on independent ones; every number of neighbours.
* **build and update**: seconds and own memory of the largest process of ``index build`` at a
  quarter, a half and all of the rows, of ``add`` of a tenth more, ``delete`` and ``compact``.

Printed last on 2026-11-30, 2 idle cores (AMD EPYC), queries/s in batches and single: 10,800 real vectors of 1,280,
onepass 71,445 and 24,369 at recall 0.993, hnswlib 45,629 and 22,480 at 0.989, usearch 20,551 and 9,440 at 0.989;
1,000,000 made vectors of 256, 58,959 and 17,580 at 0.960, 75,108 and 31,871 at 0.957, 32,788 and 12,884 at 0.957;
copies and recall@k: docs/decisions/facts.md.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import runner
from benchmarks.made import Floats, Maker, Rows, embeddings, nearest, real_run, unit, write_run
from benchmarks.recall import by_k, copies
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from index.storage.layout import read_manifest
from pipelines.detections import PLAN_SCHEMA
from pipelines.run import Run

K = 10
SAME = 0.005  # recalls this near each other are equal
M, EF_CONSTRUCTION = 16, 200
OTHERS = [name for name in ("hnswlib", "usearch") if find_spec(name)]
Search = Callable[[Floats, int, int], Rows]  # queries, threads, search parameter


def build_other(kind: str, run: str, file: str) -> dict[str, Any]:
    """Fill an index of another library from a run and store it."""
    opened = Run.open(run)
    rows, made = opened.manifest.rows.written, None
    for batch in opened.iter_batches(50_000, columns=["row_id", "embedding"]):
        table = pa.Table.from_batches([batch])
        vectors, ids = unit(embeddings(table)), table["row_id"].to_numpy()
        if made is None:
            made = _empty(kind, vectors.shape[1])
            if kind == "hnswlib":
                made.init_index(rows, M=M, ef_construction=EF_CONSTRUCTION)
        if kind == "hnswlib":
            made.add_items(vectors, ids, num_threads=runner.CORES)
        else:
            made.add(ids.astype(np.uint64), vectors, threads=runner.CORES)
    assert made is not None
    (made.save_index if kind == "hnswlib" else made.save)(file)
    return {}


def _empty(kind: str, dim: int) -> Any:
    if kind == "hnswlib":
        return import_module("hnswlib").Index("ip", dim)
    how = {"connectivity": M, "expansion_add": EF_CONSTRUCTION}
    return import_module("usearch.index").Index(ndim=dim, metric="ip", dtype="f32", **how)


def open_other(kind: str, file: Path, dim: int) -> Search:
    """The stored index of another library as a function."""
    index = _empty(kind, dim)
    (index.load_index if kind == "hnswlib" else index.load)(str(file))

    def search(queries: Floats, threads: int, effort: int) -> Rows:
        if kind == "hnswlib":
            index.set_ef(effort)
            return np.asarray(index.knn_query(queries, K, num_threads=threads)[0], np.int64)
        index.expansion_search = effort
        one = queries[0] if len(queries) == 1 else queries
        return np.asarray(index.search(one, K, threads=threads).keys, np.int64).reshape(-1, K)

    return search


def open_own(snapshot: Snapshot) -> Search:
    """``Snapshot.search`` as a function."""
    import faiss

    def search(queries: Floats, threads: int, effort: int) -> Rows:
        faiss.omp_set_num_threads(threads)
        return snapshot.search(queries, K).rows

    return search


def positions(snapshot: Snapshot) -> Rows:
    """Where the snapshot has each ``row_id`` from 0 on."""
    ids = snapshot.columns(np.arange(snapshot.manifest.rows))["row_id"]
    return np.argsort(np.array(ids))


def recall_of(truth: Rows, found: Rows) -> float:
    """Share of the true rows [Q, K] that are among the found ones."""
    pairs = zip(truth.tolist(), found.tolist(), strict=True)
    return sum(len(set(true) & set(one)) for true, one in pairs) / truth.size


def least_effort(search: Search, queries: Floats, truth: Rows, recall: float) -> int:
    """The smallest search parameter from K on that reaches ``recall``, to within a tenth."""
    effort = K
    while recall_of(truth, search(queries, runner.CORES, effort)) < recall and effort < 2048:
        effort = -(-effort * 11 // 10)
    return effort


def build(run: Run, out: Path) -> runner.Measures:
    """``onepass index build`` as a whole process."""
    shutil.rmtree(out, ignore_errors=True)
    return update("build", str(run.path), "--out", str(out))


def update(*words: str) -> runner.Measures:
    """Any ``onepass index`` command as a whole process."""
    ran = runner.process([*runner.ONEPASS, "index", *words], memory=True)
    return {"seconds": ran.seconds, "own MiB": ran.own_mib()}


def hold_out(real: Run, out: Path, count: int) -> tuple[Run, Floats]:
    """The real run without ``count`` rows at random, and the vectors of these [count, D]."""
    table = real.to_arrow(
        [*PLAN_SCHEMA.names, "label", "label_index", "score", "embedding", "error"]
    )
    table = table.filter(table["error"].is_null())
    order = np.random.default_rng(3).permutation(table.num_rows)
    rest = table.take(pa.array(np.sort(order[count:]))).drop_columns(["row_id"])
    rest = rest.append_column("row_id", pa.array(np.arange(rest.num_rows)))
    queries = embeddings(table.take(pa.array(order[:count])))
    return write_run(out, queries.shape[1], [rest]), queries


def compare(title: str, run: Run, queries: Floats, work: Path, given: Any) -> runner.Report:
    """All contenders at equal recall on one set of vectors."""
    rows, dim = run.manifest.rows.written, queries.shape[1]
    report = runner.Report(f"{title}: {rows} vectors of {dim}, {len(queries)} held-out queries")
    queries = unit(queries)
    truth = nearest(queries, unit(embeddings(run.to_arrow(["embedding"]))), K)[1]
    contenders: dict[str, runner.Contender] = {}
    own_recall = 0.0
    for kind in ("onepass", *OTHERS):
        file, true = work / f"{title}-{rows}-{kind}", truth
        if kind == "onepass":
            report.rounds[f"build {kind}"] = [build(run, file)]
            report.facts["factory"] = read_manifest(file).factory
            snapshot = Snapshot.open(file)
            search, effort, true = open_own(snapshot), 0, positions(snapshot)[truth]
        else:
            if not file.is_file():
                ran = runner.call(build_other, memory=True, kind=kind, run=run.path, file=file)
                measures = {"seconds": ran.seconds, "own MiB": ran.own_mib()}
                report.rounds[f"build {kind}"] = [measures]
            search = open_other(kind, file, dim)
            effort = least_effort(search, queries, truth, own_recall - SAME)
        recall = recall_of(true, search(queries, runner.CORES, effort))
        own_recall = recall if kind == "onepass" else own_recall
        report.facts[f"{kind}: recall@10, search parameter"] = (recall, effort)

        def measure(search: Search = search, effort: int = effort) -> runner.Measures:
            rates = {}
            for mode, threads, size in (("batch", runner.CORES, len(queries)), ("single", 1, 1)):
                began, calls = time.perf_counter(), 0
                while (spent := time.perf_counter() - began) < given.seconds:
                    at = calls * size % len(queries)
                    search(queries[at : at + size], threads, effort)
                    calls += 1
                rates[f"{mode}, queries/s"] = calls * size / spent
            return rates

        contenders[kind] = measure
    report.run(contenders, given.rounds)
    for kind in OTHERS:
        for mode in ("batch", "single"):
            report.ratio("onepass", kind, f"{mode}, queries/s")
    return report


def filters(index: Path, run: Run, queries: Floats, report: runner.Report) -> None:
    """Recall and latency of single queries under filters of several widths."""
    import faiss

    snapshot = Snapshot.open(index)
    faiss.omp_set_num_threads(1)
    table = run.to_arrow(["frame", "label_index", "embedding"])
    vectors, queries = unit(embeddings(table)), unit(queries)
    position = positions(snapshot)
    frames, labels = table["frame"].to_numpy(), table["label_index"].to_numpy()
    for share in (0.5, 0.1, 0.01, 0.001):
        few = round(1000 * share)
        last = int(np.quantile(labels, share))  # neighbouring classes lie together
        kept = {
            f"frame % 1000 < {few}": frames % 1000 < few,
            f"label_index <= {last}": labels <= last,
        }
        for where, mask in kept.items():
            rows = np.flatnonzero(mask)
            truth = position[rows[nearest(queries, vectors[rows], min(K, len(rows)))[1]]]
            chosen, spent, found = Filter(where=where), [], []
            snapshot.search(queries[:1], K, filter=chosen)  # the rows it leaves are remembered
            for query in queries:
                began = time.perf_counter()
                found.append(snapshot.search(query[None], K, filter=chosen).rows[0])
                spent.append(1000 * (time.perf_counter() - began))
            p50, p99 = np.percentile(spent, [50, 99]).tolist()
            recall = recall_of(truth, np.array(found))
            name = f"{where} ({mask.mean():.2%} of the rows)"
            report.rounds[name] = [{"recall@10": recall, "p50 ms": p50, "p99 ms": p99}]


def recalls(maker: Maker, queries: Floats, work: Path, given: Any) -> None:
    """The tables of ``recall.py``."""
    dice = np.random.default_rng(given.seed)
    rows = min(given.rows, 20_000)
    like_real = maker.draw(dice, rows)[0]
    independent = dice.standard_normal((rows, like_real.shape[1]), np.float32)
    for title, vectors in (("like real ones", like_real), ("independent", independent)):
        copies(title, vectors, work, given.seed).show()
    by_k(like_real, queries, work, ["Flat", "auto", "IVF512,PQ32x4fsr", "IVF256,SQ8"]).show()


def main() -> None:
    parser = runner.arguments(__doc__)
    parser.add_argument("--images", type=Path, help="photos, where --work has no crops yet")
    parser.add_argument("--work", type=Path, help="keeps vectors and indexes")
    parser.add_argument("--rows", type=int, default=100_000, help="made vectors")
    parser.add_argument("--crops", type=int, default=2_000, help="real vectors")
    parser.add_argument("--queries", type=int, default=500, help="held out")
    parser.add_argument("--seed", type=int, default=0, help="of the copies")
    parser.add_argument("--seconds", type=float, default=3, help="of each contender and mode")
    given = runner.parsed(parser, rows=20_000, queries=100, seconds=0.5, crops=500)
    with runner.folder(given.work) as work:
        real = real_run(given.images, work, given.crops)
        compared = compare("real", *hold_out(real, work / "real", given.crops // 10), work, given)
        compared.show()
        print(f"  {compared.facts}")
        maker = Maker(real)
        queries = maker.draw(np.random.default_rng(0), given.queries)[0]
        recalls(maker, queries, work, given)
        made = maker.run(work / f"made-{given.rows}", given.rows)
        report = compare("made", made, queries, work, given)
        index = work / f"made-{given.rows}-onepass"
        filters(index, made, queries[:200], report)
        for part in (4, 2):
            smaller = maker.run(work / f"made-{given.rows // part}", given.rows // part)
            report.rounds[f"build of 1/{part}"] = [build(smaller, work / "part")]
        more = maker.run(work / "more", given.rows // 10, first=given.rows)
        report.rounds["add a tenth"] = [update("add", str(index), str(more.path))]
        where = ("--where", "frame % 1000 < 50")
        report.rounds["delete 5 %"] = [update("delete", str(index), *where)]
        report.rounds["compact"] = [update("compact", str(index))]
        report.facts["real"] = vars(compared)
    report.show()
    report.write(given.json)


if __name__ == "__main__":
    main()
