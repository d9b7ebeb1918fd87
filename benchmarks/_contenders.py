"""onepass, FAISS itself, hnswlib and usearch behind one interface, each in a process of its own.

    _contenders.py build KIND RUN FILE     fill an index from a run and store it (not onepass)
    _contenders.py ask KIND INDEX QUERIES.npy TRUTH.npy     answer lines of JSON on stdin

hnswlib and usearch hold float32 with M = 16 and ef_construction = 200, and are given vectors and
queries at length 1 with inner product, their fastest way to cosine; that scaling is not timed.
onepass is ``Snapshot.search`` as it was built, given raw queries; ``faiss`` is the FAISS index
behind it, called directly with prepared queries at the parameters that onepass settled on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import faiss
import hnswlib
import numpy as np
import pyarrow as pa
from _common import CORES, ENVIRONMENT, HERE
from _truth import Rows, recall_of
from _vectors import Floats, embeddings, unit
from usearch.index import Index

from index.search.accelerator import Accelerator, SearchParams
from index.search.factory import FLAT
from index.search.snapshot import Snapshot
from index.storage.layout import SEARCH, SEGMENTS, VECTORS
from index.storage.store import open_store
from pipelines.run import Run

K = 10
M, EF_CONSTRUCTION = 16, 200
_BATCH = 50_000


class Contender(Protocol):
    """An opened index; ``tunable`` says whether ``effort`` changes anything."""

    tunable: bool

    def prepare(self, *, threads: int, effort: int) -> None: ...

    def search(self, queries: Floats) -> Any: ...

    def row_ids(self, found: Any) -> Rows: ...


class Onepass:
    tunable = False

    def __init__(self, index: Path) -> None:
        self._snapshot = Snapshot.open(index)

    def prepare(self, *, threads: int, effort: int) -> None:
        faiss.omp_set_num_threads(threads)

    def search(self, queries: Floats) -> Any:
        return self._snapshot.search(queries, K).rows

    def row_ids(self, found: Rows) -> Rows:
        return row_ids(self._snapshot, found)


class Faiss:
    tunable = False

    def __init__(self, index: Path) -> None:
        self._snapshot = Snapshot.open(index)
        manifest = self._snapshot.manifest
        entry = manifest.largest
        if len(manifest.segments) != 1 or entry.factory == FLAT:
            sys.exit(f"faiss: left out, {entry.factory} in {len(manifest.segments)} parts")
        folder = index / SEGMENTS / entry.name
        store = open_store(folder / VECTORS)
        self._accelerator = Accelerator.open(folder / SEARCH, store, manifest.metric)
        self._effort = SearchParams(entry.search_params)

    def prepare(self, *, threads: int, effort: int) -> None:
        faiss.omp_set_num_threads(threads)

    def search(self, queries: Floats) -> Any:
        return self._accelerator.search(queries, K, self._effort)[1]

    def row_ids(self, found: Rows) -> Rows:
        return row_ids(self._snapshot, found)


class Hnswlib:
    tunable = True

    def __init__(self, file: Path, dim: int) -> None:
        self._index = hnswlib.Index("ip", dim)
        if file.is_file():
            self._index.load_index(str(file))
        self._threads = 1

    def reserve(self, rows: int) -> None:
        self._index.init_index(rows, M=M, ef_construction=EF_CONSTRUCTION)

    def fill(self, vectors: Floats, ids: Rows) -> None:
        self._index.add_items(vectors, ids, num_threads=CORES)

    def save(self, file: Path) -> None:
        self._index.save_index(str(file))

    def prepare(self, *, threads: int, effort: int) -> None:
        self._threads = threads
        self._index.set_ef(effort)

    def search(self, queries: Floats) -> Any:
        return self._index.knn_query(queries, K, num_threads=self._threads)[0]

    def row_ids(self, found: Any) -> Rows:
        return np.asarray(found, np.int64)


class Usearch:
    tunable = True

    def __init__(self, file: Path, dim: int) -> None:
        self._index = Index(
            ndim=dim, metric="ip", dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION
        )
        if file.is_file():
            self._index.load(str(file))
        self._threads = 1

    def reserve(self, rows: int) -> None:
        """It grows by itself."""

    def fill(self, vectors: Floats, ids: Rows) -> None:
        self._index.add(ids.astype(np.uint64), vectors, threads=CORES, copy=True)

    def save(self, file: Path) -> None:
        self._index.save(str(file))

    def prepare(self, *, threads: int, effort: int) -> None:
        self._threads = threads
        self._index.expansion_search = effort

    def search(self, queries: Floats) -> Any:
        one = queries[0] if len(queries) == 1 else queries
        return self._index.search(one, K, threads=self._threads).keys

    def row_ids(self, found: Any) -> Rows:
        return np.asarray(found, np.int64)


def row_ids(snapshot: Snapshot, rows: Rows) -> Rows:
    """The run's ``row_id`` of each of the snapshot's ``rows``, in their shape."""
    ids = snapshot.columns(rows.reshape(-1))["row_id"]
    return np.array(ids, np.int64).reshape(rows.shape)


class Child:
    """A contender in its own process, asked over its stdin."""

    def __init__(self, kind: str, index: Path, queries: Path, truth: Path) -> None:
        command = [sys.executable, str(HERE / "_contenders.py"), "ask", kind]
        self._process = subprocess.Popen(
            [*command, str(index), str(queries), str(truth)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self.facts = self._answer()

    def ask(self, **what: Any) -> dict[str, Any]:
        """Ask ``recall`` or ``rate``; see ``answer``."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"a contender ended with {self._process.returncode}")
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def answer(contender: Contender, queries: Floats, truth: Rows, asked: dict[str, Any]) -> Any:
    """``recall`` over all queries, or the ``rate`` of ``size`` queries a call for ``seconds``."""
    contender.prepare(threads=asked["threads"], effort=asked["effort"])
    if asked["what"] == "recall":
        found = contender.search(queries)
        return {"recall": recall_of(truth, contender.row_ids(found))}
    size = asked["size"] or len(queries)
    parts = [queries[at : at + size] for at in range(0, len(queries) - size + 1, size)]
    contender.search(parts[-1])
    calls = 0
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < asked["seconds"]:
        contender.search(parts[calls % len(parts)])
        calls += 1
    return {"rate": calls * size / spent}


def build(kind: type[Hnswlib] | type[Usearch], run: Run, file: Path) -> None:
    """Fill an index from a run batch by batch and store it; tells how long filling alone took."""
    made = kind(Path(), run.manifest.model.feature_dim)
    made.reserve(run.manifest.rows.written)
    spent = 0.0
    for batch in run.batches(["row_id", "embedding"], batch_rows=_BATCH):
        table = pa.Table.from_batches([batch])
        vectors, ids = unit(embeddings(table)), table["row_id"].to_numpy()
        began = time.monotonic()
        made.fill(vectors, ids)
        spent += time.monotonic() - began
    print(json.dumps({"fill": spent}))
    made.save(file)


def main() -> None:
    what, kind, place = sys.argv[1:4]
    others = {"hnswlib": Hnswlib, "usearch": Usearch}
    if what == "build":
        build(others[kind], Run.open(place), Path(sys.argv[4]))
        return
    queries, truth = (np.load(file) for file in sys.argv[4:6])
    opened: Contender
    if kind in others:
        opened = others[kind](Path(place), queries.shape[1])
    else:
        opened = Onepass(Path(place)) if kind == "onepass" else Faiss(Path(place))
    # onepass scales its queries itself; the others get them ready
    queries = np.ascontiguousarray(queries if kind == "onepass" else unit(queries))
    print(json.dumps({"tunable": opened.tunable}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(opened, queries, truth, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
