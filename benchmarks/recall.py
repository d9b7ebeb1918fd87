"""Recall where it is hard: rows that occur once among copies, and every number of neighbours.

``benchmarks.index`` prints both tables.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import runner
from benchmarks.made import Floats, Rows, column, nearest, unit, write_run
from index.build.version import build_index
from index.config import IndexConfig
from index.search.snapshot import Snapshot

KS = (1, 2, 5, 10, 20, 50, 100, 500)
TIE = 2e-6
# Share of the rows that are copies, of how many, and noise a number where vectors have length 1.
COPIES = [
    (0.0, 5, 0.0),
    *((0.6, 5, noise) for noise in (0.0, 0.001, 0.01)),
    *((0.9, 20, noise) for noise in (0.0, 0.001, 0.01)),
    *((0.9, 180, noise) for noise in (0.0, 0.01)),
]


def with_copies(
    singles: Floats, share: float, groups: int, noise: float, dice: np.random.Generator
) -> tuple[Floats, Rows]:
    """Some of the vectors [N, D], the others replaced by copies; the rows that occur once."""
    rows = len(singles)
    once = round(rows * (1 - share)) if share else rows
    vectors = unit(singles).copy()
    owners = dice.integers(0, groups, rows - once)
    vectors[once:] = vectors[rows - groups :][owners]
    vectors[once:] += noise * dice.standard_normal(vectors[once:].shape, np.float32)
    order = dice.permutation(rows)
    return unit(vectors[order]), np.flatnonzero(order < once)


def index_of(vectors: Floats, work: Path, factory: str) -> Snapshot:
    """A new index of vectors [N, D], whose rows are in their order."""
    ids = [f"row-{number:08d}" for number in range(len(vectors))]
    table = pa.table(
        {
            "row_id": np.arange(len(vectors)),
            "detection_id": ids,
            "image": ids,
            "embedding": column(vectors),
        }
    )
    write_run(work / "run", vectors.shape[1], [table])
    return build_index([work / "run"], work / "index", IndexConfig(factory=factory))


def copies(title: str, singles: Floats, work: Path, seed: int) -> runner.Report:
    """Recall@10 of rows that occur once, themselves left out, beside brute force."""
    report = runner.Report(f"copies: {len(singles)} vectors of {singles.shape[1]}, {title}")
    for share, groups, noise in COPIES:
        dice = np.random.default_rng(seed)
        vectors, once = with_copies(singles, share, groups, noise, dice)
        snapshot = index_of(vectors, work, "auto")
        asked = dice.choice(once, min(1_000, len(once)), replace=False)
        hits = snapshot.search(vectors[asked], 11)
        itself = hits.rows == asked[:, None]
        truth = nearest(vectors[asked], vectors, 11)[0][:, 10]  # the first is the row itself
        near = (hits.scores >= truth[:, None] - TIE) & ~itself
        manifest = snapshot.manifest
        report.rounds[f"{share:.0%} copies of {groups}, noise {noise:g}"] = [
            {
                "recall@10": float(np.minimum(near.sum(axis=1), 10).mean() / 10),
                "in the manifest": manifest.recall.measured or 0.0,
                "find themselves": float(itself.any(axis=1).mean()),
                "build s": manifest.seconds,
            }
        ]
        report.facts[f"factory at {share:.0%} of {groups}, {noise:g}"] = manifest.factory
    return report


def by_k(vectors: Floats, queries: Floats, work: Path, factories: list[str]) -> runner.Report:
    """Recall@k alone and among others with other numbers of neighbours, and whether they agree."""
    report = runner.Report(f"recall@k: {len(vectors)} vectors of {vectors.shape[1]}")
    vectors, queries = unit(vectors), unit(queries)
    truth = nearest(queries, vectors, max(KS))[0]
    for factory in factories:
        snapshot = index_of(vectors, work, factory)
        recalls, same = {}, 0
        for k in KS:
            together = snapshot.search(queries, k)
            recalls[f"@{k}"] = float((together.scores >= truth[:, k - 1 : k] - TIE).mean())
            for number in range(0, len(queries), 10):
                alone = snapshot.search(queries[number : number + 1], k)
                same += int((alone.rows[0] == together.rows[number]).all())
        asked = len(KS) * len(range(0, len(queries), 10))
        report.rounds[snapshot.manifest.factory] = [recalls | {"same alone": same / asked}]
    return report
