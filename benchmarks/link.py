"""How fast is linking, beside the usual double loop, and does its memory grow with the frames?

    python benchmarks/link.py WORK [--detections 200] [--frames 1000] [--dim 1280] [--json out.json]

Three questions, on made scenes of objects that walk at random and look nearly alike:

* speed: all frames through ``Linker`` (``default``, and ``ami``, the same rule as the loop) in one
  process. The loop needs minutes for what takes seconds, so it links one pair of frames after
  every tenth of them, interleaved, and its total is that mean times the frames. The links of
  these frames are compared, so that both do the same work.
* memory: ``onepass link`` as a whole process on runs of a quarter, a half and all of the frames.
* sequences: a thousand of them, in one process and side by side on Ray.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from _common import verdict
from _link_loop import link_frame
from _processes import ONEPASS, watched
from _runs import RunWriter
from numpy.typing import NDArray

from index.vectors import l1_normalise
from pipelines.model_info import ModelInfo, ModelRequest, Preprocess
from tracks.association.linker import Linker
from tracks.association.options import PRESETS
from tracks.association.threads import one_thread
from tracks.store import read_tracks

SIDE_PX = 4000
TARGET = 100.0
LEVEL = 1.05  # the longest run's peak over the shortest's
SEQUENCES, SEQUENCE_FRAMES, SEQUENCE_DETECTIONS = 1000, 10, 20


class Frame(NamedTuple):
    """Boxes ``[N, 4]`` and raw embeddings ``[N, D]`` of one image."""

    boxes: NDArray[np.float64]
    embeddings: NDArray[np.float32]


def scene(frames: int, detections: int, dim: int, *, seed: int = 0) -> Iterator[Frame]:
    """Objects that walk at random; no two frames list them in the same order."""
    random = np.random.default_rng(seed)
    common = random.gamma(0.5, size=dim)
    looks = common + random.gamma(0.5, size=(detections, dim))
    corners = random.uniform(0, SIDE_PX - 200, (detections, 2))
    sides = random.uniform(40, 160, (detections, 2))
    for _ in range(frames):
        corners = np.clip(corners + random.normal(0, 10, corners.shape), 0, SIDE_PX - 200)
        seen = looks + random.gamma(0.5, 0.4, size=looks.shape)
        order = random.permutation(detections)
        boxes = np.hstack([corners, corners + sides])
        yield Frame(boxes[order], seen[order].astype(np.float32))


def speed(frames: int, detections: int, dim: int) -> dict[str, Any]:
    diagonal = float(np.hypot(SIDE_PX, SIDE_PX))
    linkers = {name: Linker(dim, PRESETS[name]) for name in ("default", "ami")}
    spent = dict.fromkeys(linkers, 0.0)
    loops: list[float] = []
    last: Frame | None = None
    rows_before = 0
    for number, frame in enumerate(scene(frames, detections, dim)):
        for name, linker in linkers.items():
            began = time.perf_counter()
            looks = l1_normalise(frame.embeddings, range(detections))  # type: ignore[arg-type]
            links = linker.step(number, frame.boxes, looks, diagonal_px=diagonal)
            spent[name] += time.perf_counter() - began
        if last is not None and number % (frames // 10) == 1:
            began = time.perf_counter()
            chosen = link_frame(
                list(last.embeddings),
                last.boxes.tolist(),
                list(frame.embeddings),
                frame.boxes.tolist(),
                diagonal=diagonal,
                max_cost=PRESETS["ami"].max_cost,
            )
            loops.append(time.perf_counter() - began)
            same = [-1 if one < 0 else one + rows_before for one in chosen]
            if same != links.previous.tolist():
                sys.exit(f"frame {number}: the loop and the ami preset link differently")
        last, rows_before = frame, number * detections
    loop = statistics.mean(loops) * frames
    told = {"frames": frames, "detections": detections, "dim": dim, "loop_seconds": loop}
    for name, seconds in spent.items():
        ratio = loop / seconds
        told[name] = {"seconds": seconds, "frames_a_second": frames / seconds, "ratio": ratio}
        print(
            f"{name:<8} {seconds:7.2f} s, {1000 * seconds / frames:6.2f} ms a frame; the loop "
            f"{loop:8.1f} s: {ratio:6.0f} times  {verdict(ratio, TARGET)}"
        )
    return told


def write_scene(folder: Path, frames: int, detections: int, dim: int, *, sequences: int) -> Path:
    """A run of ``sequences`` scenes, once; some megabytes a file."""
    if (folder / "manifest.json").is_file():
        return folder
    facts = ModelInfo(
        request=ModelRequest(spec="tiny"),
        weights="made for a benchmark",
        weights_sha256="0" * 64,
        labels_sha256=None,
        num_classes=10,
        feature_dim=dim,
        preprocess=Preprocess(input_size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    )
    writer = RunWriter(folder, facts, source="benchmarks/link.py")
    rows = 0
    pending: list[pa.Table] = []
    for sequence in range(sequences):
        for number, frame in enumerate(scene(frames, detections, dim, seed=sequence)):
            ids = [f"{sequence}-{number}-{one}" for one in range(detections)]
            table: dict[str, Any] = {
                "row_id": np.arange(rows, rows + detections),
                "detection_id": ids,
                "image": [f"{sequence:04d}/{number:05d}.jpg"] * detections,
                "sequence": [f"{sequence:04d}"] * detections,
                "frame": np.full(detections, number),
                "embedding": pa.FixedSizeListArray.from_arrays(
                    pa.array(frame.embeddings.ravel()), dim
                ),
            }
            for at, side in enumerate(("x1", "y1", "x2", "y2")):
                table[side] = frame.boxes[:, at].astype(np.float32)
            pending.append(pa.table(table))
            rows += detections
            if len(pending) * detections >= 4000:
                writer.add(pa.concat_tables(pending))
                pending = []
    if pending:
        writer.add(pa.concat_tables(pending))
    writer.finish()
    return folder


def memory(work: Path, frames: int, detections: int, dim: int) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    for count in (frames // 4, frames // 2, frames):
        run = write_scene(work / f"link-{count}", count, detections, dim, sequences=1)
        seen = watched([*ONEPASS, "link", str(run)], work / "link.log")
        told.append({"frames": count, **seen.told()})
        print(
            f"{count:5} frames: {seen.seconds:6.1f} s, own {seen.most('own'):6.0f} MiB, "
            f"resident {seen.most('resident'):6.0f} MiB"
        )
    growth = told[-1]["own"] / told[0]["own"]
    print(f"growth {growth:.3f} <= {LEVEL:g}  {'met' if growth <= LEVEL else 'missed'}")
    return told


def many(work: Path, dim: int) -> dict[str, Any]:
    run = write_scene(
        work / "link-sequences", SEQUENCE_FRAMES, SEQUENCE_DETECTIONS, dim, sequences=SEQUENCES
    )
    told: dict[str, Any] = {}
    tracks = []
    for where, more in (("here", []), ("ray", ["--address", "local"])):
        seen = watched([*ONEPASS, "link", str(run), *more], work / "link.log")
        tracks.append(read_tracks(run))
        told[where] = seen.told()
        print(
            f"{SEQUENCES} sequences, {where:<4} {seen.seconds:6.1f} s with start-up, own "
            f"{seen.most('own'):6.0f} MiB: {len(tracks[-1]['track_id'].unique())} tracks"
        )
    if not tracks[0].equals(tracks[1]):
        sys.exit("Ray linked differently")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--detections", type=int, default=200)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    with one_thread():  # as ``onepass link`` does
        fast = speed(given.frames, given.detections, given.dim)
    told = {
        "speed": fast,
        "memory": memory(given.work, given.frames, given.detections, given.dim),
        "sequences": many(given.work, given.dim),
    }
    if given.json:
        given.json.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
