"""Real vectors, and as many more as wanted made from them: finished runs, and queries beside.

    python benchmarks/_vectors.py IMAGES WORK [--crops 12000] [--rows 1000000]

**Real**: seeded random crops of the images under IMAGES, through ``onepass extract --model
lite0`` into WORK/crops, 1280 numbers a row. A crop's side is 20 to 70 % of the image's shorter
one; of photos of more than four megapixels, whose insects are small, 5 to 20 %, and five times
as many.

**Made**, N x 256: the real vectors at length 1, brought to 256 by PCA fitted on them. A made row
lies at a random place between a real vector and one of its 10 nearest neighbours, plus Gaussian
noise as long as ``NOISE`` of the way between the two, spread over the axes as the differences
between real neighbours are. So classes, density and directions are those of real data, and no
row is nearly another's copy; ``figures`` tells both sides'. Sequence, time, label and score come
from the real vector (label and sequence go with where a row lies); ``frame`` is drawn at random
from a million, so that ``frame % 1000 < 10`` is a random 1 %. Queries are made in the same way
from another seed and stand in no run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from _common import ENVIRONMENT, HERE
from _runs import RunWriter
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipelines.detections import BOX, PLAN_SCHEMA
from pipelines.model_info import ModelInfo, ModelRequest, Preprocess
from pipelines.run import Run

Floats = NDArray[np.float32]

CROPS = 12_000
DIM = 256
NEIGHBOURS = 10
NOISE = 0.5
FILES = 20  # of a made run: a tenth, a quarter and a half of it are whole files
FRAMES = 1_000_000
COPY = 0.99999  # a cosine of two real vectors that are the same
CARRIED = ("label", "label_index", "score")  # from the real vector
_LARGE = 4_000_000  # pixels
_JUDGED = 1_000  # rows whose neighbourhoods are compared with the real ones'


def real_run(images: Path | None, work: Path, crops: int = CROPS) -> Run:
    """The run of ``crops`` random crops in ``work``; extracted if it is not there yet."""
    out = work / "crops"
    if not (out / "manifest.json").is_file():
        if images is None:
            sys.exit(f"{out} is no finished run; name a folder of photos to extract it from")
        work.mkdir(parents=True, exist_ok=True)
        manifest = _write_crops(images, work / "crops.csv", crops)
        command = [sys.executable, "-m", "onepass", "extract", str(manifest)]
        command += ["--model", "lite0", "--out", str(out)]
        subprocess.run(command, check=True, cwd=HERE.parent, env=ENVIRONMENT)
    return Run.open(out)


def _write_crops(images: Path, manifest: Path, crops: int) -> Path:
    files = sorted(f for f in images.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        sys.exit(f"{images} holds no JPEG files; give a folder of photos")
    sizes = []
    for file in files:
        with Image.open(file) as image:
            sizes.append(ImageOps.exif_transpose(image).size)  # boxes are of the upright image
    large = np.array([width * height > _LARGE for width, height in sizes])
    share = np.where(large, 5.0, 1.0)
    random = np.random.default_rng(0)
    more = random.choice(len(files), crops - len(files), p=share / share.sum())
    owners = np.sort(np.concatenate([np.arange(len(files)), more]))  # each image at least once
    began = datetime(2024, 6, 1, 22)
    rows: list[dict[str, Any]] = []
    for number, owner in enumerate(owners.tolist()):
        width, height = sizes[owner]
        low, high = (0.05, 0.2) if large[owner] else (0.2, 0.7)
        side = random.uniform(low, high) * min(width, height)
        wide, tall = side * random.uniform(0.8, 1.25, 2)
        x, y = random.uniform(0, width - wide), random.uniform(0, height - tall)
        folder = files[owner].parent.relative_to(images).as_posix()
        rows.append(
            {
                "detection_id": f"crop-{number:06d}",
                "image": str(files[owner].resolve()),
                **dict(zip(BOX, (x, y, x + wide, y + tall), strict=True)),
                "sequence": f"{folder}/{owner // 10:02d}",
                "timestamp": began + timedelta(minutes=owner),
            }
        )
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), manifest)
    return manifest


def unit(vectors: NDArray[Any]) -> Floats:
    """``vectors`` at length 1: inner products of them are cosines."""
    scaled: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def embeddings(table: pa.Table) -> Floats:
    """Column ``embedding`` as an array, [N, D]."""
    column = table["embedding"].combine_chunks()
    found: Floats = column.flatten().to_numpy().reshape(len(column), -1)
    return found


class Real:
    """The real vectors in ``DIM`` dimensions, their neighbours, and what is known of each."""

    def __init__(self, run: Run) -> None:
        columns = ["image", *BOX, "sequence", "timestamp", *CARRIED, "embedding", "error"]
        table = run.table(columns)
        table = table.filter(pc.is_null(table["error"]))
        raw = unit(embeddings(table))
        # Crops of one blank sheet are copies of each other; rows made of them would be too.
        own = nearest(raw, raw, 2)[1][:, 1] < COPY
        raw, self.table = raw[own], table.filter(pa.array(own))
        self.table = self.table.drop_columns(["embedding", "error"]).combine_chunks()
        self.copies = int((~own).sum())
        centred = raw - raw.mean(axis=0)
        values, axes = np.linalg.eigh(np.cov(centred, rowvar=False))
        self.kept = float(values[-DIM:].sum() / values.sum())  # share of the variance
        self.vectors: Floats = centred @ axes[:, : -DIM - 1 : -1].astype(np.float32)
        self.near = nearest(unit(self.vectors), unit(self.vectors), NEIGHBOURS + 1)[0][:, 1:]
        apart = self.vectors[self.near[:, 0]] - self.vectors
        spread = np.sqrt((apart**2).mean(axis=0))
        self.spread: Floats = spread / np.linalg.norm(spread)

    def draw(self, random: np.random.Generator, rows: int) -> tuple[Floats, NDArray[np.int64]]:
        """``rows`` made vectors [rows, DIM], and which real one each begins at."""
        owner = random.integers(0, len(self.vectors), rows)
        other = self.near[owner, random.integers(0, NEIGHBOURS, rows)]
        way = self.vectors[other] - self.vectors[owner]
        place = random.random((rows, 1), np.float32)
        noise = random.standard_normal((rows, DIM), np.float32) * self.spread
        noise *= NOISE * np.linalg.norm(way, axis=1, keepdims=True)
        return self.vectors[owner] + place * way + noise, owner

    def table_of(self, random: np.random.Generator, first: int, rows: int) -> pa.Table:
        """``rows`` made rows as columns of a run, numbered from ``first``."""
        vectors, owner = self.draw(random, rows)
        table = self.table.take(pa.array(owner))
        numbers = np.arange(first, first + rows)
        seconds = random.integers(0, 86_400, rows) * 1_000_000
        given = {
            "row_id": numbers,
            "detection_id": [f"made-{number:08d}" for number in numbers],
            "timestamp": pc.add(table["timestamp"], pa.array(seconds, pa.duration("us"))),
            "frame": random.integers(0, FRAMES, rows),
            "score": table["score"].to_numpy() * random.uniform(0.8, 1, rows).astype(np.float32),
            "embedding": pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), DIM),
        }
        for name, values in given.items():
            column = values if isinstance(values, pa.ChunkedArray) else pa.array(values)
            at = table.schema.get_field_index(name)
            table = (
                table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
            )
        return table


def nearest(queries: Floats, vectors: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """Brute force in NumPy: rows and cosines [Q, k] of the nearest among ``vectors``, of unit length."""
    rows, cosines = [], []
    for start in range(0, len(queries), 512):
        all_cosines = queries[start : start + 512] @ vectors.T
        best = np.argpartition(all_cosines, -k, axis=1)[:, -k:]
        found = np.take_along_axis(all_cosines, best, axis=1)
        order = np.argsort(-found, axis=1)
        rows.append(np.take_along_axis(best, order, axis=1))
        cosines.append(np.take_along_axis(found, order, axis=1))
    return np.concatenate(rows), np.concatenate(cosines)


def made_run(real: Run, out: Path, rows: int, *, seed: int = 1, first: int = 0) -> Run:
    """A run of ``rows`` made rows in ``out``, numbered from ``first``; kept if it is there."""
    if (out / "manifest.json").is_file():
        return Run.open(out)
    base, random = Real(real), np.random.default_rng(seed)
    facts = ModelInfo(
        request=ModelRequest(spec="tiny"),
        weights="none: the vectors are made from real ones",
        weights_sha256="0" * 64,
        labels_sha256=None,
        num_classes=1000,
        feature_dim=DIM,
        preprocess=Preprocess(input_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    )
    writer = RunWriter(out, facts, source=f"made from {real.path.name}")
    ends = np.linspace(0, rows, min(FILES, rows) + 1, dtype=np.int64)
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        writer.add(base.table_of(random, first + start, end - start))
    told: dict[str, Any] = {"rows": rows, "seed": seed, "noise": NOISE}
    told |= {"variance kept": base.kept, "real copies left out": base.copies}
    told |= figures(base, random)
    (out / "made.json").write_text(json.dumps(told, indent=2) + "\n")
    return writer.finish()


def part_of(run: Run, out: Path, files: int) -> Run:
    """The first ``files`` files of a run as a run of its own, without copying them."""
    if (out / "manifest.json").is_file():
        return Run.open(out)
    writer = RunWriter(out, run.manifest.model, source=run.manifest.source)
    for file in run.files()[:files]:
        writer.link(file, run.manifest.files[f"detections/{file.name}"])
    return writer.finish()


def made_queries(real: Run, work: Path, count: int) -> Floats:
    """``count`` held-out vectors [count, DIM], made as the rows are, from another seed."""
    file = work / f"queries-{count}.npy"
    if not file.is_file():
        np.save(file, Real(real).draw(np.random.default_rng(2), count)[0])
    found: Floats = np.load(file)
    return found


def real_split(real: Run, work: Path, count: int) -> tuple[Run, Floats]:
    """The real run without ``count`` rows drawn at random, and the vectors of these [count, D]."""
    table = real.table([*PLAN_SCHEMA.names, *CARRIED, "embedding", "error"])
    table = table.filter(pc.is_null(table["error"]))
    held = np.zeros(table.num_rows, bool)
    held[np.random.default_rng(3).choice(table.num_rows, count, replace=False)] = True
    out = work / f"real-without-{count}"
    if not (out / "manifest.json").is_file():
        writer = RunWriter(out, real.manifest.model, source="real crops", root=real.manifest.root)
        writer.add(table.filter(pa.array(~held)))
        writer.finish()
    return Run.open(out), embeddings(table.filter(pa.array(held)))


def figures(base: Real, random: np.random.Generator) -> dict[str, dict[str, float]]:
    """How a neighbourhood looks among the real vectors and among as many made ones.

    ``nearest``: median cosine to the nearest other row. ``dimension``: the median of the
    maximum-likelihood estimate of the local dimension (Levina and Bickel) over 20 neighbours.
    """
    told: dict[str, dict[str, float]] = {}
    for name, vectors in (
        ("real", base.vectors),
        ("made", base.draw(random, len(base.vectors))[0]),
    ):
        rows = unit(vectors)
        judged = random.choice(len(rows), min(_JUDGED, len(rows)), replace=False)
        cosines = nearest(rows[judged], rows, 21)[1][:, 1:]
        apart = np.sqrt(np.maximum(2 - 2 * cosines, 1e-9))
        dimension = 1 / np.log(apart[:, -1:] / apart[:, :-1]).mean(axis=1)
        told[name] = {
            "nearest": float(np.median(cosines[:, 0])),
            "dimension": float(np.median(dimension)),
        }
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--crops", type=int, default=CROPS)
    parser.add_argument("--rows", type=int, default=0, help="of a made run; 0: none")
    given = parser.parse_args()
    real = real_run(given.images, given.work, given.crops)
    print(f"{real.path}: {real.manifest.rows.written} rows, {real.manifest.rows.failed} failed")
    if given.rows:
        run = made_run(real, given.work / f"made-{given.rows}", given.rows)
        print(f"{run.path}: {(run.path / 'made.json').read_text()}")


if __name__ == "__main__":
    main()
