"""Training examples from a clip file: the mean of the frames' features for each clip."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from common.errors import InputError
from pipelines.heads.features import Examples, allocate, batch_rows, check_finite, limit_rows
from pipelines.outputs.hdf5_info import read_h5


@dataclass(frozen=True)
class _Clips:
    """The clips of a file, without their features."""

    file: Path
    names: npt.NDArray[np.str_]  # category of each clip; empty: none
    frames: npt.NDArray[np.int64]  # frames of each clip
    ids: npt.NDArray[np.str_]
    width: int
    spec: str
    fingerprint: str


def read_clips(
    file: str | Path, *, validation: str | Path | None = None, limit: int | None = None
) -> Examples:
    """Read the labelled clips of a clip file, each as the mean of its frames.

    Args:
        file: made by ``onepass clips``.
        validation: another such file, with the clips for validation.
        limit: clips at most, spread evenly.

    Raises:
        InputError: not a clip file, two files of different models, no clip with a category,
            features not finite, or too many for the memory.
        VerifyError: a shard of a file is missing.
    """
    sources = [_open(Path(path)) for path in (file, validation) if path is not None]
    first = sources[0]
    for other in sources[1:]:
        if other.fingerprint != first.fingerprint:
            raise InputError(
                f"`validation={str(other.file)!r}` holds features of {other.spec} "
                f"({other.fingerprint[:12]}), {file} of {first.spec} ({first.fingerprint[:12]}); "
                "extract both with the same model"
            )
    names = np.concatenate([clips.names for clips in sources])
    frames = np.concatenate([clips.frames for clips in sources])
    left_out = {
        "without a category": int((names == "").sum()),
        "without frames": int(((names != "") & (frames == 0)).sum()),
    }
    rows = np.flatnonzero((names != "") & (frames > 0))
    rows = limit_rows(limit, rows, left_out, f"{file} has no clip")
    features = allocate(len(rows), first.width)
    begin = 0
    for clips in sources:
        inside = (rows >= begin) & (rows < begin + len(clips.frames))
        _fill(features, np.flatnonzero(inside), clips, rows[inside] - begin)
        begin += len(clips.frames)
    check_finite(features, f"{file}: clip", np.concatenate([c.ids for c in sources])[rows])
    part = np.repeat(["train", "validation"][: len(sources)], [len(c.frames) for c in sources])
    return Examples(
        features=features,
        labels=names[rows],
        parts=None if validation is None else part[rows],
        kind="pooled",
        shape=(first.width,),
        spec=first.spec,
        fingerprint=first.fingerprint,
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _open(file: Path) -> _Clips:
    info = read_h5(file)
    if info.kind != "clips":
        raise InputError(
            f"{file} is the HDF5 of a run; give the run's folder, or a file made by 'onepass clips'"
        )
    mapping: dict[str, int] = json.loads(info.attributes["category_mapping"])
    by_index = {index: name for name, index in mapping.items()}
    with h5py.File(file) as opened:
        indices = opened["labels"][:].tolist()
        return _Clips(
            file=file,
            names=np.array([by_index.get(index, "") for index in indices], dtype=np.str_),
            frames=opened["num_frames"][:].astype(np.int64),
            ids=np.array([name.decode() for name in opened["ids"][:]], dtype=np.str_),
            width=info.feature_dim,
            spec=info.backbone,
            fingerprint=str(info.attributes["fingerprint"]),
        )


def _fill(
    features: npt.NDArray[np.float32],
    targets: npt.NDArray[np.int64],
    clips: _Clips,
    rows: npt.NDArray[np.int64],
) -> None:
    """Write the mean features of the clips ``rows`` to ``features[targets]``, block by block."""
    with h5py.File(clips.file) as opened:
        stored = opened["features"]
        step = batch_rows(clips.width * stored.shape[1])
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            frames = clips.frames[block]
            values = stored[block, : frames.max()]
            padding = np.arange(frames.max()) >= frames[:, None]
            values[padding] = 0
            means = values.sum(1, dtype=np.float64) / frames[:, None]
            features[targets[start : start + step]] = means
