"""One shard of clips: the rows it needs, and writing them as HDF5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import WorkError, first_line
from common.parquet import open_parquet
from common.storage import to_path
from pipelines.embeddings import matrix
from pipelines.outputs.clips.find import Clip
from pipelines.outputs.clips.scales import multi_scale, scaled_frames
from pipelines.outputs.hdf5 import new_h5

SHARD_BYTES = 64 * 2**20  # of features, stored or padded, before compression; a task holds it
FOLDER = "shards"

_BATCH_ROWS = 1024


@dataclass(frozen=True)
class Layout:
    """What the shards of all splits have in common."""

    scales: tuple[float, ...]
    stored_frames: int  # of the longest clip
    feature_dim: int
    id_bytes: int

    @property
    def max_frames(self) -> int:
        """Frames of every clip in a file, padding included."""
        return scaled_frames(self.stored_frames, self.scales)

    @property
    def clips_per_shard(self) -> int:
        """So many that a task holds no more than ``SHARD_BYTES``."""
        most = max(self.stored_frames, self.max_frames)
        return max(1, SHARD_BYTES // (most * self.feature_dim * 4))


@dataclass(frozen=True)
class ClipShard:
    """Clips that go into one file, in order; ``rows`` and ``labels`` are theirs."""

    name: str  # relative to the folder of clips
    files: tuple[str, ...]  # Parquet files that hold the rows
    ids: tuple[str, ...]
    rows: tuple[int, ...]
    labels: tuple[int, ...]  # -1: unlabelled

    def is_complete(self, out: Path) -> bool:
        """Whether an earlier session has written this shard into ``out``, completely."""
        try:
            with h5py.File(out / self.name) as stored:
                return len(stored["ids"]) == len(self.ids)
        except (OSError, KeyError):
            return False


def make_shards(
    stem: str, clips: Sequence[Clip], layout: Layout, files: Sequence[Path], labels: dict[str, int]
) -> list[ClipShard]:
    """Divide one split's clips into shards.

    Args:
        stem: of the shards' names.
        clips: of the split, in order.
        layout: of the run.
        files: of the run.
        labels: category to its index.
    """
    size = layout.clips_per_shard
    shards = []
    for number, start in enumerate(range(0, len(clips), size)):
        part = clips[start : start + size]
        shard = ClipShard(
            name=f"{FOLDER}/{stem}-{number:05d}.h5",
            files=tuple(str(files[at]) for at in sorted({at for c in part for at in c.files})),
            ids=tuple(clip.id for clip in part),
            rows=tuple(clip.rows for clip in part),
            labels=tuple(-1 if c.category is None else labels[c.category] for c in part),
        )
        shards.append(shard)
    return shards


def write_clip_shard(out: Path, layout: Layout, shard: ClipShard) -> ClipShard:
    """Read the shard's rows and write it, atomically.

    Args:
        out: folder of the clips.
        layout: of the run.
        shard: to write, which is returned.

    Raises:
        WorkError: the run cannot be read or has changed, or the disk refused.
    """
    target = out / shard.name
    try:
        with new_h5(target) as file:
            _fill(file, shard, layout)
    except (OSError, pa.ArrowException) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise WorkError(f"{target} could not be written ({why})") from None
    return shard


def _fill(file: h5py.File, shard: ClipShard, layout: Layout) -> None:
    lengths = [scaled_frames(rows, layout.scales) for rows in shard.rows]
    file["ids"] = np.array([clip.encode() for clip in shard.ids], dtype=f"S{layout.id_bytes}")
    file["labels"] = np.array(shard.labels, dtype=np.int64)
    file["num_frames"] = np.array(lengths, dtype=np.int32)
    one_clip = (layout.max_frames, layout.feature_dim)
    features = file.create_dataset(
        "features",
        (len(shard.ids), *one_clip),
        dtype=np.float32,
        chunks=(1, *one_clip),
        compression="gzip",
        compression_opts=4,
    )
    rows, order = _read(shard, layout)
    starts = np.cumsum([0, *shard.rows])
    for number, length in enumerate(lengths):
        clip = rows[order[starts[number] : starts[number + 1]]]
        padded = np.zeros(one_clip, dtype=np.float32)
        padded[:length] = multi_scale(clip, layout.scales)
        features[number] = padded


def _read(shard: ClipShard, layout: Layout) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The rows of the shard's clips as stored, and their order by clip and frame."""
    planned = sum(shard.rows)
    rows = np.empty((planned, layout.feature_dim), dtype=np.float32)
    clip_of, frame_of = np.empty(planned, dtype=np.int64), np.empty(planned, dtype=np.int64)
    wanted = pa.array(shard.ids)
    count = 0
    for name in shard.files:
        for batch in _batches_with(name, wanted):
            code = pc.index_in(batch["sequence"], wanted)
            matches = batch.filter(pc.is_valid(code))
            end = count + matches.num_rows
            if end <= planned:
                rows[count:end] = matrix(matches["embedding"])
                clip_of[count:end] = pc.drop_null(code).to_numpy()
                frame_of[count:end] = matches["frame"].to_numpy()
            count = end
    counted = np.bincount(clip_of[:count], minlength=len(shard.ids)) if count == planned else None
    if counted is None or not np.array_equal(counted, shard.rows):
        raise WorkError(
            f"{shard.name}: {planned} frames were counted in the run and {count} are there now; the "
            "run has changed, check it with 'onepass inspect RUN --verify'"
        )
    return rows, np.lexsort((frame_of, clip_of))


def _batches_with(file: str, sequences: pa.Array) -> Iterator[pa.RecordBatch]:
    """Batches of a Parquet file; embeddings are read of row groups that hold ``sequences``."""
    with open_parquet(to_path(file)) as parquet:
        groups = [
            group
            for group in range(parquet.num_row_groups)
            if pc.any(
                pc.is_in(parquet.read_row_group(group, ["sequence"])["sequence"], sequences)
            ).as_py()
        ]
        columns = ["sequence", "frame", "embedding"]
        yield from parquet.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns)
