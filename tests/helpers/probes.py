"""Examples made by code for heads to learn, and runs that hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipelines.heads.features import Examples
from pipelines.run import Run
from tests.helpers.runs import TINY_FACTS, write_run


def blobs(rows: int, names: tuple[str, ...], *, width: int = 8, seed: int = 0) -> Examples:
    """Rows of each class in turn, four deviations away from the other classes."""
    stream = np.random.Generator(np.random.PCG64(seed))
    labels = np.array([names[row % len(names)] for row in range(rows)])
    features = stream.normal(size=(rows, width))
    for place, name in enumerate(names):
        features[labels == name, place] += 8
    return Examples(
        features=features.astype(np.float32),
        labels=labels,
        parts=None,
        kind="pooled",
        shape=(width,),
        spec="tiny",
        fingerprint=TINY_FACTS.fingerprint,
        left_out={},
    )


def labelled_run(path: Path, examples: Examples, **given: Any) -> Run:
    """A run whose rows have the features and labels of ``examples``, and what is given."""
    rows = len(examples.labels)
    plan = {
        "image": [f"{row:04d}.jpg" for row in range(rows)],
        "kind": examples.labels.tolist(),
        **given.pop("plan", {}),
    }
    return write_run(path, plan, examples.features, **given)


def clip_file(
    path: Path,
    clips: list[np.ndarray],
    labels: list[int],
    *,
    names: tuple[str, ...] = ("ant", "bee"),
    fingerprint: str = "f" * 64,
) -> Path:
    """A clip file: each clip's frames ``[n, D]``, padded with zeros to the longest."""
    longest, width = max(map(len, clips)), clips[0].shape[1]
    features = np.zeros((len(clips), longest, width), np.float32)
    for place, clip in enumerate(clips):
        features[place, : len(clip)] = clip
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["num_frames"] = np.array([len(clip) for clip in clips], np.int32)
        file["labels"] = np.array(labels, np.int64)
        file["ids"] = np.array([f"clip{n}".encode() for n in range(len(clips))], "S16")
        file.attrs["category_mapping"] = json.dumps({name: i for i, name in enumerate(names)})
        file.attrs["feature_dim"] = width
        file.attrs["backbone"] = "tiny"
        file.attrs["fingerprint"] = fingerprint
    return path
