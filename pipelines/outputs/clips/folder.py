"""The output folder of ``onepass clips``: its records, and whether it can be continued.

::

    OUT/
      request.json         the request, written first: only an equal one continues the folder
      shards/*.h5          the clips, some at a time
      {split}_features.h5  one virtual dataset over a split's shards
      manifest.json        written last; without it the clips are unfinished

With several scales the files are named ``{split}_features_multiscale.h5``. Datasets, row i of
each being the same clip, in the order of the plan:

==========  ===========================  =====================================================
features    float32 [clips, frames, D]   embeddings in the order of frames, zeros after them
labels      int64 [clips]                index of the category in ``category_mapping``, or -1
num_frames  int32 [clips]                frames before the zeros
ids         bytes [clips]                the clip's sequence, UTF-8
==========  ===========================  =====================================================

``category_mapping`` and the number of frames are the run's, so that splits fit together. A
clip with a frame that failed is left out, and named in the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import RunError
from common.json_models import JsonModel, is_draft, read_json
from common.manifests import Manifest
from pipelines.request import differences


class ClipsRequest(JsonModel):
    """Contents of ``request.json``; two equal requests give the same files."""

    format: int = 1
    run: str  # short sha256 of the run's manifest
    fingerprint: str
    scales: tuple[float, ...]
    limit: int | None


class LeftOut(JsonModel):
    """A clip that is in no file: ``failed`` of its ``planned`` frames have an error."""

    id: str
    split: str
    failed: int
    planned: int
    error: str  # of the first


class ClipsManifest(Manifest):
    """Contents of ``manifest.json``."""

    run: str
    request: ClipsRequest
    clips: dict[str, int]  # split to clips written
    max_frames: int
    feature_dim: int
    left_out: tuple[LeftOut, ...]


def file_stem(split: str, scales: Sequence[float]) -> str:
    """Name of a split's file, without its suffix."""
    return f"{split}_features" + ("_multiscale" if len(scales) > 1 else "")


def finished_clips(out: Path, request: ClipsRequest) -> ClipsManifest | None:
    """The manifest in ``out``, if it holds the finished clips of ``request``.

    Raises:
        RunError: ``out`` is a file, holds something else, or clips of another command.
    """
    if not out.exists():
        return None
    given = f"`out={str(out)!r}`"
    if not out.is_dir():
        raise RunError(f"{given} is a file; give a folder")
    stored, manifest = out / "request.json", out / "manifest.json"
    foreign = {"plan", "detections", "checkpoint"}  # of a run, which has a request.json as well
    if not stored.is_file():
        foreign = {entry.name for entry in out.iterdir() if not is_draft(entry.name)} - {".lock"}
    unexpected = sorted(name for name in foreign if (out / name).exists())
    if unexpected:
        raise RunError(f"{given} holds {unexpected[0]!r} and no clips; give a new folder")
    if not stored.is_file():
        return None
    earlier = read_json(stored, ClipsRequest)
    if earlier != request:
        differs = "; ".join(differences(earlier.model_dump(), request.model_dump()))
        raise RunError(f"{given} holds clips of another command ({differs}); give a new folder")
    return ClipsManifest.read(out) if manifest.is_file() else None
