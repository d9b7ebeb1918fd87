"""``serve.py --churn``: searches while the index changes under them, each answer checked.

32 clients search by vector and by id while another process adds a run, deletes, compacts, rolls
back, promotes, and has the server reload after each. Afterwards every answer is held against
brute force (NumPy, over the run's own embeddings) over the rows of the snapshot that it names:
each hit must be a row of that snapshot with its own cosine as its score, and not the detection
asked for. Where the index is exact, the hits' cosines must be those of the nearest; where it is
not, recall is told.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _common import ENVIRONMENT, HERE
from _processes import ONEPASS, watched
from _serve_speed import CLIENTS, SEARCH, K, text
from _serving import Request, Server, serving, start_client, write_requests
from _vectors import Floats, embeddings, made_queries, made_run, nearest, unit

from index.search.snapshot import Snapshot
from index.storage.layout import current_version
from pipelines.run import Run

ROWS, MORE = 20_000, 2_000
ASKED = 500  # different queries of each kind
DELETED = 50  # of a thousand frames
FACTORIES = ("Flat", "HNSW32")  # one exact, one not
SCORE = 1e-4  # a score may be off the true cosine by so much
TIE = 1e-5
CHANGE_SECONDS = 300


def churn(given: argparse.Namespace, real: Run) -> list[dict[str, Any]]:
    """Once on an exact index and once on an approximate one."""
    work = given.work / "churn"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    bench = Churn(given, real, work)
    return [bench.run(factory) for factory in FACTORIES]


class Churn:
    """The runs, the queries, and every vector by its detection's id."""

    def __init__(self, given: argparse.Namespace, real: Run, work: Path) -> None:
        self.given, self.work = given, work
        self.runs = [
            made_run(real, given.work / f"made-{rows}-from-{first}", rows, seed=7, first=first)
            for first, rows in ((0, ROWS), (ROWS, MORE))
        ]
        table = pa.concat_tables(
            [run.table(["detection_id", "frame", "embedding"]) for run in self.runs]
        )
        self.vectors = unit(embeddings(table))
        self.place = {one: at for at, one in enumerate(table["detection_id"].to_pylist())}
        # Never deleted and never added: known to every version.
        stays = np.flatnonzero(table["frame"].to_numpy()[:ROWS] % 1000 >= DELETED)[:ASKED]
        ids = table["detection_id"].take(pa.array(stays)).to_pylist()
        queries = made_queries(real, given.work, given.queries)[:ASKED]
        self.own = [-1] * len(queries) + stays.tolist()  # the row that asks, or -1
        self.asked: Floats = np.concatenate([unit(queries), self.vectors[stays]])
        bodies: list[dict[str, Any]] = [{"vector": text(query[None])} for query in queries]
        bodies += [{"detection_id": one} for one in ids]
        requests: list[Request] = [("POST", SEARCH, body | {"k": K}) for body in bodies]
        self.requests = write_requests(work / "requests.json", requests)

    def run(self, factory: str) -> dict[str, Any]:
        index, answers = self.work / f"index-{factory}", self.work / "answers.jsonl"
        command = [*ONEPASS, "index", "build", str(self.runs[0].path), "--out", str(index)]
        watched([*command, "--factory", factory], self.work / "build.log")
        with serving("onepass", index, self.work) as server:
            told, changes = self.search(server, index, answers)
        return self.report(index, factory, told, changes, answers)

    def search(
        self, server: Server, index: Path, answers: Path
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Ask while it changes, until there are answers enough and every change was made."""
        version = current_version(index)
        assert version is not None
        words = [str(index), str(self.runs[1].path), version, f"frame % 1000 < {DELETED}"]
        client = start_client(
            server,
            self.requests,
            connections=CLIENTS,
            least=self.given.searches,
            keep=str(answers),
        )
        changer = subprocess.Popen(
            [sys.executable, str(HERE / "_churn.py"), *words, str(server.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        try:
            assert changer.stdout
            lines = [changer.stdout.readline() for _ in range(5 * self.given.cycles)]
            if not all(lines):
                raise RuntimeError(f"the changes ended with {changer.wait()}")
            out = client.communicate(timeout=CHANGE_SECONDS)[0]
            lines += changer.communicate(timeout=CHANGE_SECONDS)[0].splitlines()
        finally:
            for process in (client, changer):
                process.kill()
                process.wait()
        if client.returncode or changer.returncode:
            raise RuntimeError(f"client {client.returncode}, changes {changer.returncode}")
        return json.loads(out), [json.loads(line) for line in lines]

    def report(
        self,
        index: Path,
        factory: str,
        told: dict[str, Any],
        changes: list[dict[str, Any]],
        answers: Path,
    ) -> dict[str, Any]:
        counted = Counter(one["change"] for one in changes)
        reloads = Counter(one["reload"] for one in changes)
        statuses: Counter[int] = Counter()
        kept: dict[str, Counter[tuple[int, str]]] = defaultdict(Counter)
        with answers.open() as file:
            for number, status, body in map(json.loads, file):
                statuses[status] += 1
                if status == 200:
                    kept[json.loads(body)["snapshot"]][number, body] += 1
        print(
            f"\nchurn, {factory}, {CLIENTS} clients, {sum(statuses.values())} searches at "
            f"{told['rate']:.0f}/s (p50 {told['p50']:.1f}, p99 {told['p99']:.1f} ms) during "
            + ", ".join(f"{count} {name}" for name, count in counted.items())
        )
        print(f"  {'version':<9}{'made by':<10}{'rows':>7}{'answers':>9}{'wrong':>7}{'recall':>9}")
        versions = []
        for version, bodies in sorted(kept.items()):
            snapshot = Snapshot.open(index, version)
            one = self.check(snapshot, bodies, exact=factory == "Flat")
            one = {"version": version, "made by": snapshot.manifest.made_by} | one
            versions.append(one)
            print(
                f"  {version:<9}{one['made by']:<10}{one['rows']:>7}{one['answers']:>9}"
                f"{one['wrong']:>7}{one['recall']:>9.4f}"
            )
        wrong = sum(one["wrong"] for one in versions)
        failed = sum(count for status, count in statuses.items() if status != 200)
        met = not (wrong or failed or told["problems"] or set(reloads) - {200})
        print(
            f"  answers {dict(statuses)}, connections {told['problems'] or 'all kept'}, reloads "
            f"{dict(reloads)}, wrong {wrong}: {'met' if met else 'missed'}",
            flush=True,
        )
        return {
            "factory": factory,
            "client": told,
            "changes": changes,
            "statuses": dict(statuses),
            "versions": versions,
            "met": met,
        }

    def check(
        self, snapshot: Snapshot, bodies: Counter[tuple[int, str]], *, exact: bool
    ) -> dict[str, Any]:
        """Hold the answers of one version against brute force over its rows."""
        ids = snapshot.columns(snapshot.matching(None))["detection_id"]
        rows = np.array([self.place[one] for one in ids])
        within = np.zeros(len(self.vectors), bool)
        within[rows] = True
        places, cosines = nearest(self.asked, self.vectors[rows], K + 1)
        wrong = answers = 0
        shares = []
        for (number, body), count in bodies.items():
            hits = json.loads(body)["hits"]
            found = np.array([self.place.get(hit["detection_id"], -1) for hit in hits])
            others = rows[places[number]] != self.own[number]
            truth, best = rows[places[number]][others][:K], cosines[number][others][:K]
            true = self.vectors[found] @ self.asked[number]
            right = (
                len(set(found.tolist())) == K
                and (found >= 0).all()
                and within[found].all()
                and self.own[number] not in found
                and np.abs(true - [hit["score"] for hit in hits]).max() < SCORE
                and (not exact or np.abs(np.sort(true)[::-1] - best).max() < TIE)
            )
            wrong += 0 if right else count
            answers += count
            shares.append(len(set(found.tolist()) & set(truth.tolist())) / K)
        return {
            "rows": len(rows),
            "answers": answers,
            "wrong": wrong,
            "recall": float(np.mean(shares)),
        }
