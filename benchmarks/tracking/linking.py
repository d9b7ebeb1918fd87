"""What ``onepass link`` makes of the detections of some cases: through a run on disk, as users do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.made import column, write_run
from benchmarks.tracking.clips import NOBODY, Case, Ints
from tracks.association.options import LinkOptions
from tracks.boxes import unique_per_frame
from tracks.link import link_run
from tracks.store import read_tracks


def write_cases(path: Path, cases: Sequence[Case]) -> Path:
    """A finished run in which every case is a sequence."""

    def tables() -> Iterator[pa.Table]:
        first = 0
        for case in cases:
            numbers = np.arange(first, first + len(case.frames))
            first += len(numbers)
            values: dict[str, Any] = {
                "row_id": numbers,
                "detection_id": [str(number) for number in numbers.tolist()],
                "image": case.images or _blank_images(path.with_name("blank"), case),
                "sequence": [case.name] * len(numbers),
                "frame": case.frames,
                "embedding": column(np.ascontiguousarray(case.embeddings, np.float32)),
            }
            for at, side in enumerate(("x1", "y1", "x2", "y2")):
                values[side] = case.boxes[:, at].astype(np.float32)
            yield pa.table(values)

    return write_run(path, cases[0].embeddings.shape[1], tables()).path


def _blank_images(folder: Path, case: Case) -> list[str]:
    """An image of each detection's frame, of which only the size is to be seen."""
    width, height = case.size
    names = {frame: folder / f"{width}x{height}" / f"{frame:06d}.png" for frame in set(case.frames)}
    for file in names.values():
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("1", case.size).save(file)
    return [str(names[frame]) for frame in case.frames]


def link_cases(run: Path, cases: Sequence[Case], options: LinkOptions) -> list[Ints]:
    """The track of each detection of each case ``[N]``, NOBODY in none.

    Args:
        run: of ``write_cases``.
        cases: that it was written of.
        options: of linking.
    """
    link_run(run, options=options)
    table = read_tracks(run)
    rows = np.argsort(table["detection_id"].to_numpy().astype(int))
    names = table["track_id"].combine_chunks().dictionary_encode().indices
    numbers = names.fill_null(NOBODY).to_numpy().astype(np.int64)[rows]
    costs = table["cost"].to_numpy()[rows]
    labels, first = [], 0
    for case in cases:
        part = slice(first, first + len(case.frames))
        first = part.stop
        of_case, took = numbers[part].copy(), numbers[part] != NOBODY
        of_case[took] = unique_per_frame(case.frames[took], of_case[took], costs[part][took])
        labels.append(of_case)
    return labels
