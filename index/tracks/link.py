"""Link a finished run: its detections in, ``tracks/`` out, one sequence after the other.

::

    RUN/tracks/
      part-00000.parquet   one row per linked or lone detection, by sequence, frame and row_id
      manifest.json        the options, the counts, the sha256

Sequences are gathered into groups that fit in memory, and each group reads only the files
its rows stand in, so embeddings are never all held at once, however the rows are ordered.

Distance is measured in image diagonals and a run does not store image sizes, so they are
read from the images' headers, once per image. Where an image is gone or remote, the extent
of its sequence's boxes stands in: too small by the empty margin, which makes the distance
term a little stricter and leaves the other three as they are.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from cluster.errors import RunError, WorkError
from index.linking.linker import link
from index.linking.options import LinkOptions
from index.tracks.store import (
    PART,
    SCHEMA,
    LinkSummary,
    TracksManifest,
    check_once,
    refuse_foreign,
    swap,
)
from pipelines.detections import BOX
from pipelines.records import sha256_file, write_atomic
from pipelines.run import Run
from pipelines.video.layout import parse_frame

EXIF_ORIENTATION = 0x0112

_PLAN = ("row_id", "detection_id", "image", *BOX, "sequence", "timestamp", "frame", "error")


@dataclass(frozen=True)
class _Group:
    """Neighbouring sequences that are read together; ``rows`` index the sorted plan."""

    rows: slice
    sequences: list[slice]


def link_run(
    run: Path,
    *,
    out: Path | None = None,
    options: LinkOptions | None = None,
    group_mib: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> LinkSummary:
    """Link every sequence of a finished run and write its tracks, replacing older ones.

    Args:
        run: the run folder.
        out: where the tracks go; default ``run / "tracks"``.
        options: default ``index.linking.options.PRESETS["default"]``.
        group_mib: embeddings held at once; a longer sequence is still held whole.
        progress: called with detections done and detections to do.

    Raises:
        RunError: the run is missing, unfinished or without embeddings, or ``out`` holds
            something else than tracks.
        InputError: ``max_gap_seconds`` in a sequence without timestamps.
        WorkError: an embedding is not finite.
        VerifyError: a detection would not stand exactly once in the output.
    """
    opened = Run.open(run)
    options = options or LinkOptions()
    out = out or run / "tracks"
    refuse_foreign(out)
    everything = opened.table(_PLAN)
    good = pc.is_null(everything["error"])
    plan = everything.filter(good).sort_by(
        [("sequence", "ascending"), ("frame", "ascending"), ("row_id", "ascending")]
    )
    groups = _groups(plan["sequence"], opened.manifest.model.feature_dim, group_mib)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    linked = tracks = sequences = 0
    try:
        with pq.ParquetWriter(draft / PART, SCHEMA) as writer:
            for group in groups:
                row_ids = plan["row_id"][group.rows].to_numpy()
                embeddings = _embeddings(opened, row_ids)
                for part in group.sequences:
                    inside = slice(part.start - group.rows.start, part.stop - group.rows.start)
                    table = _link_sequence(opened, plan[part], embeddings[inside], options)
                    writer.write_table(table)
                    linked += table.num_rows - table["previous_detection_id"].null_count
                    tracks += pc.count_distinct(table["track_id"]).as_py()
                    sequences += 1
                    if progress is not None:
                        progress(part.stop, plan.num_rows)
        check_once(draft / PART, plan["detection_id"])
        counts = LinkSummary(
            sequences=sequences,
            detections=plan.num_rows,
            linked=linked,
            tracks=tracks,
            left_out=everything.num_rows - plan.num_rows,
        )
        manifest = TracksManifest(
            fingerprint=opened.manifest.fingerprint,
            options=options,
            counts=counts,
            files={PART: sha256_file(draft / PART)},
        )
        write_atomic(draft / "manifest.json", manifest.model_dump_json(indent=2).encode())
        swap(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return counts


def _groups(sequence: pa.ChunkedArray, dim: int, group_mib: int) -> list[_Group]:
    """Cut sorted rows into sequences, and sequences into groups of at most ``group_mib``."""
    count = len(sequence)
    if count == 0:
        return []
    codes = sequence.combine_chunks().dictionary_encode().indices.to_numpy()
    edges = np.r_[0, np.flatnonzero(np.diff(codes)) + 1, count].tolist()
    limit = max(1, group_mib * 2**20 // (4 * dim))
    groups: list[_Group] = []
    for start, stop in pairwise(edges):
        part = slice(start, stop)
        if groups and stop - groups[-1].rows.start <= limit:
            last = groups.pop()
            groups.append(_Group(slice(last.rows.start, stop), [*last.sequences, part]))
        else:
            groups.append(_Group(part, [part]))
    return groups


def _embeddings(run: Run, row_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Embeddings ``[N, D]`` in the order of ``row_ids``, from the files that hold them."""
    slots = np.full(run.manifest.rows.planned, -1, dtype=np.int64)
    slots[row_ids] = np.arange(len(row_ids))
    found = np.zeros((len(row_ids), run.manifest.model.feature_dim), dtype=np.float32)
    filled = np.zeros(len(row_ids), dtype=bool)
    for batch in _holding(run, slots):
        place = slots[batch["row_id"].to_numpy()]
        wanted = (place >= 0) & batch["embedding"].is_valid().to_numpy(zero_copy_only=False)
        vectors = batch["embedding"].filter(pa.array(wanted)).flatten().to_numpy()
        found[place[wanted]] = vectors.reshape(-1, found.shape[1])
        filled[place[wanted]] = True
    if not filled.all():
        raise RunError(
            f"{run.path}: {int((~filled).sum())} of {len(filled)} detections have neither an "
            "embedding nor an error; extract again and keep the features"
        )
    return found


def _holding(run: Run, slots: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    for file in run.files():
        with pq.ParquetFile(file) as parquet:
            if "embedding" not in parquet.schema_arrow.names:
                raise RunError(f"{run.path} keeps no embeddings; extract again and keep them")
            if (slots[parquet.read(["row_id"])["row_id"].to_numpy()] >= 0).any():
                yield from parquet.iter_batches(4096, columns=["row_id", "embedding"])


def _link_sequence(
    run: Run, plan: pa.Table, embeddings: npt.NDArray[np.float32], options: LinkOptions
) -> pa.Table:
    name = plan["sequence"][0].as_py()
    ids = plan["detection_id"].combine_chunks()
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        raise WorkError(
            f"sequence {name!r}: the embedding of {ids[broken[0]].as_py()} is not finite, nor are "
            f"{len(broken) - 1} others; extract these images again in fp32"
        )
    boxes, diagonals = _boxes(run, plan)
    links = link(
        plan["frame"].to_numpy(),
        boxes,
        embeddings,
        diagonal_px=diagonals,
        seconds=_seconds(plan["timestamp"]),
        options=options,
    )
    start = links.previous < 0
    costs = np.column_stack([links.cost, links.terms]).astype(np.float32)
    return pa.table(
        [
            ids,
            # A colon: sequences are folder names, and './00001' would not survive in a URL.
            pa.array([f"{name}:{number:05d}" for number in links.track.tolist()]),
            plan["sequence"].combine_chunks(),
            plan["frame"].combine_chunks(),
            pa.array(links.position.astype(np.int32)),
            ids.take(pa.array(links.previous, mask=start)),
            *(pa.array(column, mask=start) for column in costs.T),
        ],
        schema=SCHEMA,
    )


def _seconds(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    micros = column.cast(pa.int64()).combine_chunks()
    seconds = micros.fill_null(0).to_numpy() / 1e6
    seconds[micros.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return seconds  # type: ignore[no-any-return]


def _boxes(run: Run, plan: pa.Table) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Boxes ``[N, 4]``, the whole image where there is none, and image diagonals ``[N]``."""
    boxes = np.column_stack([plan[name].to_numpy() for name in BOX]).astype(np.float64)
    whole = np.isnan(boxes).any(axis=1)
    extent = boxes[~whole, 2:].max(axis=0) if not whole.all() else np.ones(2)
    encoded = plan["image"].combine_chunks().dictionary_encode()
    sizes = np.array(
        [_image_size(run.image_path(image)) or extent for image in encoded.dictionary.to_pylist()]
    )[encoded.indices.to_numpy()]
    boxes[whole] = np.column_stack([np.zeros_like(sizes), sizes])[whole]
    return boxes, np.hypot(sizes[:, 0], sizes[:, 1])


def _image_size(path: Path) -> tuple[int, int] | None:
    """Width and height after EXIF rotation, from the header alone; None if unreadable."""
    frame = parse_frame(str(path))
    if frame is not None:
        return _video_size(Path(frame.file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels, or odd EXIF: none are decoded
            with Image.open(path) as image:
                width, height = image.size
                # Not image.getexif(): for a PNG without EXIF that decodes the pixels.
                turned = Image.Image.getexif(image).get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return (height, width) if turned else (width, height)


@lru_cache(maxsize=1)  # the frames of a video stand together
def _video_size(file: Path) -> tuple[int, int] | None:
    # They take seconds to import, and tracks over photos never need them.
    from pipelines.images import ImageError
    from pipelines.video.container import examine

    try:
        facts = examine(file)
    except ImageError:
        return None
    return facts.width, facts.height
