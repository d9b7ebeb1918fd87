"""Training examples from a clip file: the mean of the frames' features for each clip."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from common.errors import InputError
from pipelines.heads.features import Examples, allocate, batch_rows, check_finite, limit_rows
from pipelines.outputs.hdf5_info import Hdf5Info, check_h5, read_h5


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
        VerifyError: a shard of a file is missing, or a file is damaged.
    """
    infos = [_read_info(Path(path)) for path in (file, validation) if path is not None]
    for info in infos:
        check_h5(info.path, info.shards)
    first, last = infos[0], infos[-1]
    spec, fingerprint = first.backbone, str(first.attributes["fingerprint"])
    if last.attributes["fingerprint"] != fingerprint:
        raise InputError(
            f"`validation={str(validation)!r}` holds features of {last.backbone} "
            f"({str(last.attributes['fingerprint'])[:12]}), {file} of {spec} "
            f"({fingerprint[:12]}); extract both with the same model"
        )
    with ExitStack() as stack:
        files = [stack.enter_context(h5py.File(info.path)) for info in infos]
        labels = np.concatenate([_categories(*pair) for pair in zip(infos, files, strict=True)])
        frames = np.concatenate([opened["num_frames"][:].astype(np.int64) for opened in files])
        ids = np.concatenate([opened["ids"][:] for opened in files])
        file_of = np.repeat(np.arange(len(files)), [len(opened["ids"]) for opened in files])
        left_out = {
            "without a category": int((labels == "").sum()),
            "without frames": int(((labels != "") & (frames == 0)).sum()),
        }
        left_out = {reason: count for reason, count in left_out.items() if count}
        rows = np.flatnonzero((labels != "") & (frames > 0))
        rows = limit_rows(limit, rows, left_out, f"{file} has no clip")
        features = allocate(len(rows), first.feature_dim)
        for number, opened in enumerate(files):
            inside = np.flatnonzero(file_of[rows] == number)
            start = int((file_of < number).sum())
            _fill(features, inside, opened["features"], rows[inside] - start, frames[rows[inside]])
    check_finite(features, f"{file}: clip", [name.decode() for name in ids[rows]])
    parts = np.array(["train", "validation"])[file_of[rows]]
    return Examples(
        features=features,
        labels=labels[rows],
        parts=None if validation is None else parts,
        kind="pooled",
        shape=(first.feature_dim,),
        spec=spec,
        fingerprint=fingerprint,
        left_out=left_out,
    )


def _read_info(file: Path) -> Hdf5Info:
    info = read_h5(file)
    if info.kind != "clips":
        raise InputError(
            f"{file} is the HDF5 of a run; give the run's folder, or a file made by 'onepass clips'"
        )
    return info


def _categories(info: Hdf5Info, opened: h5py.File) -> npt.NDArray[np.str_]:
    """The category of each clip; empty: none."""
    mapping: dict[str, int] = json.loads(info.attributes["category_mapping"])
    by_index = {index: name for name, index in mapping.items()}
    names = [by_index.get(index, "") for index in opened["labels"][:].tolist()]
    return np.array(names, dtype=np.str_)


def _fill(
    features: npt.NDArray[np.float32],
    targets: npt.NDArray[np.int64],
    stored: h5py.Dataset,
    rows: npt.NDArray[np.int64],
    frames: npt.NDArray[np.int64],
) -> None:
    """Write the mean features of the clips ``rows`` to ``features[targets]``, block by block."""
    step = batch_rows(stored.shape[1] * stored.shape[2])
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        count = frames[block, None]
        values = stored[rows[block], : count.max()]
        values[np.arange(count.max()) >= count] = 0  # past the end of a clip
        features[targets[block]] = values.sum(1, dtype=np.float64) / count
