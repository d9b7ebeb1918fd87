"""Finished runs for benchmarks: written from tables, and many vectors made from few real ones.

**Real** vectors are random crops of photos through ``onepass extract --model lite0``, 1280 numbers
a row. **Made** ones have 256: the real vectors brought to 256 by PCA; a made row lies at a random
place between a real vector and one of its 10 nearest neighbours, plus Gaussian noise half as long
as the way between the two. So classes, density and directions are those of real data, and no row
is nearly another's copy. Label and sequence come from the real vector; ``frame`` is random, so
that ``frame % 1000 < 10`` is a random 1 %.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.runner import ONEPASS, process
from pipelines.detections import PLAN_SCHEMA, result_fields
from pipelines.run import Run
from tests.helpers.runs import TINY_FACTS, write_parts

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
DIM = 256
NEIGHBOURS = 10
NOISE = 0.5
FILE_ROWS = 50_000
SAME = 0.99999  # a cosine of two crops that show the same blank sheet
CARRIED = ["image", "sequence", "timestamp", "x1", "y1", "x2", "y2"]


def write_run(path: Path, dim: int, tables: Iterable[pa.Table]) -> Run:
    """A finished run of ``dim`` numbers a row, a file a table; columns that a table lacks are null."""
    shutil.rmtree(path, ignore_errors=True)  # one that was not finished
    facts = TINY_FACTS.model_copy(update={"feature_dim": dim})
    fields = [*PLAN_SCHEMA, *result_fields(dim)]

    def complete(table: pa.Table) -> pa.Table:
        columns = {name: table[name] for name in table.column_names}
        columns |= {
            field.name: table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
            for field in fields
        }
        return pa.table(columns)

    return write_parts(path, map(complete, tables), facts)


def column(vectors: Floats) -> pa.Array:
    """Vectors [N, D] as a column of a table."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def embeddings(table: pa.Table) -> Floats:
    """Column ``embedding`` [N, D]."""
    values = table["embedding"].combine_chunks()
    found: Floats = values.flatten().to_numpy().reshape(len(values), -1)
    return found


def unit(vectors: Floats) -> Floats:
    """Vectors [N, D] at length 1: inner products of them are cosines."""
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def nearest(queries: Floats, vectors: Floats, k: int) -> tuple[Floats, Rows]:
    """Cosines and rows [Q, k] of the nearest, by FAISS's brute force; both sides of length 1."""
    import faiss

    cosines, rows = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    return cosines, rows


def real_run(images: Path | None, work: Path, crops: int) -> Run:
    """The run of random crops of the photos under ``images``; extracted once and kept in ``work``."""
    out = work / f"crops-{crops}"
    if not (out / "manifest.json").is_file():
        if images is None:
            sys.exit(f"{out} is no finished run: give --images, a folder of photos")
        from PIL import Image

        files = sorted(f for f in images.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg"))
        dice = np.random.default_rng(0)
        lines = ["image,sequence,x1,y1,x2,y2"]
        for owner in np.sort(dice.integers(0, len(files), crops)).tolist():
            with Image.open(files[owner]) as image:
                width, height = image.size
            wide, tall = dice.uniform(0.2, 0.7) * min(width, height) * dice.uniform(0.8, 1, 2)
            x, y = dice.uniform(0, width - wide), dice.uniform(0, height - tall)
            box = f"{x:.1f},{y:.1f},{x + wide:.1f},{y + tall:.1f}"
            lines.append(f"{files[owner].resolve()},{files[owner].parent.name},{box}")
        manifest = work / "crops.csv"
        manifest.write_text("\n".join(lines) + "\n")
        process([*ONEPASS, "extract", str(manifest), "--model", "lite0", "--out", str(out)])
    return Run.open(out)


class Maker:
    """Makes vectors like those of a real run, [N, DIM]."""

    def __init__(self, run: Run) -> None:
        table = run.to_arrow([*CARRIED, "label", "label_index", "score", "embedding", "error"])
        table = table.filter(table["error"].is_null())
        raw = unit(embeddings(table))
        own = nearest(raw, raw, 2)[0][:, 1] < SAME
        self.table = table.filter(pa.array(own)).drop_columns(["embedding", "error"])
        centred = raw[own] - raw[own].mean(axis=0)
        _, axes = np.linalg.eigh(np.cov(centred, rowvar=False))
        self.vectors: Floats = centred @ axes[:, : -DIM - 1 : -1].astype(np.float32)
        scaled = unit(self.vectors)
        self.near = nearest(scaled, scaled, NEIGHBOURS + 1)[1][:, 1:]
        apart = self.vectors[self.near[:, 0]] - self.vectors
        along = np.sqrt((apart**2).mean(axis=0))
        self.along: Floats = along / np.linalg.norm(along)  # how differences spread over the axes

    def draw(self, dice: np.random.Generator, rows: int) -> tuple[Floats, Rows]:
        """Made vectors [rows, DIM], and which real one each begins at."""
        owner = dice.integers(0, len(self.vectors), rows)
        way = self.vectors[self.near[owner, dice.integers(0, NEIGHBOURS, rows)]]
        way -= self.vectors[owner]
        noise = dice.standard_normal((rows, DIM), np.float32) * self.along
        noise *= NOISE * np.linalg.norm(way, axis=1, keepdims=True)
        at = dice.random((rows, 1), np.float32)
        return self.vectors[owner] + at * way + noise, owner

    def run(self, out: Path, rows: int, *, first: int = 0) -> Run:
        """A run of made rows, numbered from ``first``; kept where it is there already."""
        if (out / "manifest.json").is_file():
            return Run.open(out)
        return write_run(out, DIM, self._tables(np.random.default_rng(first + 1), rows, first))

    def _tables(self, dice: np.random.Generator, rows: int, first: int) -> Iterator[pa.Table]:
        for start in range(0, rows, FILE_ROWS):
            count = min(FILE_ROWS, rows - start)
            vectors, owner = self.draw(dice, count)
            numbers = np.arange(first + start, first + start + count)
            table = self.table.take(pa.array(owner))
            given = {
                "row_id": pa.array(numbers),
                "detection_id": pa.array([f"made-{number:08d}" for number in numbers]),
                "frame": pa.array(dice.integers(0, 1_000_000, count)),
                "embedding": column(vectors),
            }
            for name, values in given.items():
                table = table.append_column(name, values)
            yield table
