"""``index.py --compare``: onepass at ``auto`` beside hnswlib and usearch, at equal recall."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from _common import CORES, HERE, spread, verdict
from _contenders import Child
from _processes import ONEPASS, Watched, watched
from _truth import exact
from _vectors import Floats, made_queries, made_run, real_split

from index.storage.layout import read_manifest
from pipelines.run import Run

K = 10
RECALL = 0.95
ASKED = (0.95, 0.96, 0.97, 0.98, 0.99)  # of onepass, until the held-out queries reach RECALL
HIGHEST = 2048  # the largest search parameter tried
OTHERS = ("hnswlib", "usearch")
MODES = {"batch": {"threads": CORES, "size": 0}, "single": {"threads": 1, "size": 1}}


def compare(given: argparse.Namespace, real: Run) -> list[dict[str, Any]]:
    """Both sets of vectors, real and made."""
    base, held_out = real_split(real, given.work, given.queries)
    found = [Set("real", base, held_out, given).compare()]
    made = made_run(real, given.work / f"made-{given.rows}", given.rows)
    queries = made_queries(real, given.work, given.queries)
    return [*found, Set("made", made, queries, given).compare()]


class Set:
    """One set of vectors, its held-out queries, and every contender's index of it."""

    def __init__(self, name: str, run: Run, queries: Floats, given: argparse.Namespace) -> None:
        self.name, self.run, self.queries, self.given = name, run, queries, given
        self.folder = given.work / f"compare-{name}-{run.manifest.rows.written}"
        self.folder.mkdir(exist_ok=True)
        self.asked, self.truth = self.folder / "queries.npy", self.folder / "truth.npy"

    def compare(self) -> dict[str, Any]:
        np.save(self.asked, self.queries)
        if not self.truth.is_file() or len(np.load(self.truth)) != len(self.queries):
            np.save(self.truth, exact(self.run, self.queries, K)[""])
        built = {kind: self.built(kind) for kind in OTHERS}
        built["onepass"] = self.built_onepass()
        with contextlib.ExitStack() as stack:
            children = {}
            for kind in ("onepass", *OTHERS, "faiss"):
                place = self.folder / ("onepass" if kind == "faiss" else kind)
                try:
                    children[kind] = Child(kind, place, self.asked, self.truth)
                except RuntimeError:
                    if kind != "faiss":
                        raise
                    continue  # it has said why
                stack.callback(children[kind].close)
            efforts = {kind: least_effort(child) for kind, child in children.items()}
            rounds = []
            for number in range(self.given.rounds):
                order = list(children) if number % 2 else list(children)[::-1]
                rounds.append(
                    {
                        mode: {
                            kind: children[kind].ask(
                                what="rate",
                                effort=efforts[kind]["effort"],
                                seconds=self.given.seconds,
                                **how,
                            )["rate"]
                            for kind in order
                        }
                        for mode, how in MODES.items()
                    }
                )
        return self.report(built, efforts, rounds)

    def built(self, kind: str) -> dict[str, Any]:
        """Build facts of hnswlib or usearch; the index and these are kept from run to run."""
        file, facts, log = (self.folder / f"{kind}{end}" for end in ("", ".json", ".log"))
        if not facts.is_file():
            script = [sys.executable, str(HERE / "_contenders.py"), "build", kind]
            done = watched([*script, str(self.run.path), str(file)], log)
            told = done.told() | json.loads(log.read_text().splitlines()[-1])
            facts.write_text(json.dumps(told))
        known: dict[str, Any] = json.loads(facts.read_text())
        return known

    def built_onepass(self) -> dict[str, Any]:
        """Build anew, asking for more recall until the queries here find enough: a user's knob."""
        index = self.folder / "onepass"
        for asked in ASKED:
            shutil.rmtree(index, ignore_errors=True)
            done = build(self.run, index, self.folder / "onepass.log", recall=asked)
            child = Child("onepass", index, self.asked, self.truth)
            measured = least_effort(child)["recall"]
            child.close()
            if measured >= RECALL:
                break
            print(f"{self.name}: --recall {asked} gave {measured:.3f} here; asking for more")
        return done.told() | {"asked": asked, **about(index)}

    def report(
        self,
        built: dict[str, Any],
        efforts: dict[str, dict[str, Any]],
        rounds: list[dict[str, dict[str, float]]],
    ) -> dict[str, Any]:
        facts = self.run.manifest
        print(
            f"\n{self.name} vectors, {facts.rows.written} x {facts.model.feature_dim}, "
            f"{len(self.queries)} held-out queries, {CORES} threads in a batch, 1 for single "
            f"queries, {len(rounds)} rounds, medians (min..max)"
        )
        print(f"  onepass took {built['onepass']['factory']} {built['onepass']['search_params']}")
        print(f"  {'':<9}{'recall@10':>10}{'effort':>8}{'build s':>9}{'fill s':>8}{'MiB':>7}")
        for kind, effort in efforts.items():
            told = built.get(kind, {})
            fill = told.get("fill")
            print(
                f"  {kind:<9}{effort['recall']:>10.4f}{effort['effort'] or 'built':>8}"
                + (f"{told['seconds']:>9.1f}" if told else f"{'':>9}")
                + (f"{fill:>8.1f}" if fill else f"{'':>8}")
                + (f"{told['own']:>7.0f}" if told else "")
            )
        ratios: dict[str, float] = {}
        for mode in MODES:
            for kind in efforts:
                rates = spread((one[mode][kind] for one in rounds), 0)
                line = f"  {mode:<7}{kind:<9}{rates:<28}queries/s"
                if kind != "onepass":
                    each = [one[mode]["onepass"] / one[mode][kind] for one in rounds]
                    ratios[f"{mode}, onepass / {kind}"] = statistics.median(each)
                    line += f"   onepass / it {spread(each, 2)}"
                    if kind in OTHERS:
                        line += f"  {verdict(statistics.median(each), 1.0)}"
                print(line, flush=True)
        return {
            "set": self.name,
            "rows": facts.rows.written,
            "dim": facts.model.feature_dim,
            "built": built,
            "efforts": efforts,
            "ratios": ratios,
            "rounds": rounds,
        }


def least_effort(child: Child) -> dict[str, Any]:
    """The smallest search parameter whose measured recall reaches RECALL, and that recall."""

    def recall(effort: int) -> float:
        asked = child.ask(what="recall", effort=effort, threads=CORES)
        return float(asked["recall"])

    if not child.facts["tunable"]:
        return {"effort": 0, "recall": recall(0)}
    high = K
    while (reached := recall(high)) < RECALL and high < HIGHEST:
        high *= 2
    low = high // 2 if high > K else high - 1  # too little
    while high - low > 1:
        middle = (low + high) // 2
        if (measured := recall(middle)) >= RECALL:
            high, reached = middle, measured
        else:
            low = middle
    return {"effort": high, "recall": reached}


def build(run: Run, index: Path, log: Path, *, recall: float, memory: str | None = None) -> Watched:
    """``onepass index build`` as a whole process."""
    command = [*ONEPASS, "index", "build", str(run.path), "--out", str(index)]
    command += ["--recall", str(recall), *(["--memory", memory] if memory else [])]
    return watched(command, log)


def about(index: Path) -> dict[str, Any]:
    """What the served version says of the part that searches spend their time in."""
    told = read_manifest(index).largest.model_dump()
    return {name: told[name] for name in ("factory", "search_params", "recall")}
