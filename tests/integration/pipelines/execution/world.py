"""What executors are tried on: photos with boxes, all kinds of trouble, videos, a head."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.executors import ExecutorName
from common.parquet import open_parquet
from pipelines.config import ExtractConfig
from pipelines.extract import Outcome, extract
from pipelines.run import Run
from tests.helpers.heads import make_head
from tests.helpers.pictures import bad_folder, photo_folder
from tests.helpers.runs import make_config
from tests.helpers.videos import broken_videos, write_video

PHOTOS = 40
BOXES = (",,,", "10,20,110,120", "200.5,30.25,300.75,200")
FRAMES = 8
CLIPS = {"train/bees/one.mp4": 20, "val/flies/two.mp4": 33}


@dataclass(frozen=True)
class World:
    """Sources, and what the local executor made of them."""

    boxes: Path  # a manifest
    bad: Path  # a manifest
    photos: Path
    videos: Path
    head: Path
    folder: Path  # for runs
    reference: Run  # of ``boxes``

    @property
    def rows(self) -> int:
        return PHOTOS * len(BOXES)


def make_world(folder: Path) -> World:
    photos = photo_folder(folder / "photos", PHOTOS)
    lines = ["image,x1,y1,x2,y2"]
    for photo in sorted(photos.rglob("*.jpg")):
        lines += [f"{photo.relative_to(photos)},{box}" for box in BOXES]
    (photos / "boxes.csv").write_text("\n".join(lines) + "\n")
    for name, count in CLIPS.items():
        write_video(folder / "videos" / name, count, width=96)
    broken_videos(folder / "videos" / "train" / "flies")
    runs = folder / "runs"
    runs.mkdir()
    reference = extract(exact(photos / "boxes.csv", "local", hdf5=True), runs / "reference").run
    head = folder / "head.pt"
    make_head(reference.manifest.model, head, matrix(reference).copy(), classes=3)
    return World(
        boxes=photos / "boxes.csv",
        bad=bad_folder(folder / "bad") / "rows.csv",
        photos=photos,
        videos=folder / "videos",
        head=head,
        folder=runs,
        reference=reference,
    )


def exact(source: Path, executor: ExecutorName, **fields: Any) -> ExtractConfig:
    """Float32 and eager, so that nothing is left to measure; maps and logits are kept."""
    kept = {"logits": True, "features": "map", "stall_seconds": 120}
    return make_config(**({"source": source, "executor": executor} | kept | fields))


def matrix(run: Run, name: str = "embedding") -> np.ndarray:
    """A column of lists of numbers, by row, ``[N, D]``."""
    array = run.to_arrow([name])[name].combine_chunks()
    values: np.ndarray = array.flatten().to_numpy().reshape(len(array), -1)
    return values


def everything(run: Run) -> pa.Table:
    """All columns of all rows, by row."""
    with open_parquet(run.files()[0]) as file:
        names = file.schema_arrow.names
    return run.to_arrow(names).combine_chunks()


def same(first: pa.Table, other: pa.Table) -> bool:
    """Whether all values are the same to the last bit; NaN equals NaN."""
    if first.column_names != other.column_names or first.num_rows != other.num_rows:
        return False
    for name in first.column_names:
        a, b = first[name].combine_chunks(), other[name].combine_chunks()
        if pa.types.is_fixed_size_list(a.type):
            if a.flatten().to_numpy().tobytes() != b.flatten().to_numpy().tobytes():
                return False
        elif not a.equals(b):
            return False
    return True


def half_done(world: World, out: Path, *, by: ExecutorName, leave: int = 3) -> int:
    """``reference`` as if its session had been killed after some blocks; the rows that stand.

    Args:
        world: with the reference.
        out: the run that is made.
        by: who is to have begun it: Ray's files have other names, and checkpoints.
        leave: every so many-th block stands.
    """
    shutil.copytree(world.reference.path, out)
    (out / "manifest.json").unlink()
    (out / "features.h5").unlink()
    shutil.rmtree(out / "hdf5")
    stand = 0
    if by == "ray":
        (out / "checkpoint").mkdir()
    for number, file in enumerate(sorted((out / "detections").iterdir())):
        if number % leave:
            file.unlink()
            continue
        table = pq.read_table(file)
        stand += table.num_rows
        if by == "ray":
            # Half of a block: a task of Ray's may hold any rows.
            rows = table.slice(0, table.num_rows // 2)
            stand -= table.num_rows - rows.num_rows
            file.unlink()
            pq.write_table(rows, out / "detections" / f"1_{number:06d}_000000-0.parquet")
            pq.write_table(
                rows.select(["row_id"]), out / "checkpoint" / f"1_{number:06d}_000000.parquet"
            )
    return stand


def run_of(outcome: Outcome) -> Run:
    """The run, whose every row was verified to stand once."""
    run = outcome.run
    assert run.verify() == run.manifest.rows.planned
    return run
