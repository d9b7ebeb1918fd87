"""The tracks of a run on disk: what stands in ``tracks/``, reading it, replacing it whole.

::

    RUN/tracks/
      part-00000.parquet   one row a detection, by sequence, frame and row_id; more parts follow
      manifest.json        the options, the counts, the sha256

A row without ``track_id`` is a weak detection that no track took. Where a track starts, there is
no previous detection, no cost and no margin.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import RunError, VerifyError
from common.json_models import JsonModel, read_json, sha256_file
from common.storage import read_parquet
from tracks.association.options import TERMS, LinkOptions

FORMAT = 1
PART = "part-{:05d}.parquet"

SCHEMA = pa.schema(
    [
        ("detection_id", pa.string()),
        ("track_id", pa.string()),
        ("sequence", pa.string()),
        ("frame", pa.int64()),
        ("position", pa.int32()),
        ("previous_detection_id", pa.string()),
        ("cost", pa.float32()),
        *((f"cost_{term}", pa.float32()) for term in TERMS),
        ("margin", pa.float32()),
    ]
)


@dataclass(frozen=True)
class LinkSummary:
    """What linking a run came to.

    Attributes:
        sequences, tracks: how many there are.
        detections: with an embedding, each one row of the tracks.
        linked: of them, those that continue another.
        weak: of them, those in no track.
        left_out: rows with an error and no embedding.
        notes: what looks wrong, for people.
    """

    sequences: int
    detections: int
    linked: int
    tracks: int
    left_out: int
    weak: int = 0
    notes: tuple[str, ...] = ()


class TracksManifest(JsonModel):
    """Contents of ``tracks/manifest.json``."""

    format: int = FORMAT
    fingerprint: str
    options: LinkOptions
    score_column: str | None = None
    counts: LinkSummary
    files: dict[str, str]  # name to sha256


def track_id(sequence: str, number: int) -> str:
    """A track's name, unique in a run: its sequence, and its place by start."""
    # A colon: sequences are folder names, and './00001' would not survive in a URL.
    return f"{sequence}:{number:05d}"


def read_tracks(run: Path) -> pa.Table:
    """The tracks of a run, by sequence, frame and row_id; columns as in ``SCHEMA``.

    Raises:
        RunError: the run has no tracks yet.
        VerifyError: the file is not the one its manifest names.
    """
    folder = run / "tracks"
    if not (folder / "manifest.json").is_file():
        raise RunError(f"{run} has no tracks; make them with 'onepass link {run}'")
    manifest = read_json(folder / "manifest.json", TracksManifest)
    tables = []
    for name, expected in sorted(manifest.files.items()):
        file = folder / name
        if not file.is_file() or sha256_file(file) != expected:
            raise VerifyError(
                f"{file} is not the file {folder / 'manifest.json'} names; "
                f"give 'onepass link {run}' again"
            )
        tables.append(read_parquet(file, schema=SCHEMA))
    return pa.concat_tables(tables)


def check_complete(files: Sequence[Path], expected: pa.ChunkedArray) -> None:
    """See that every detection that was to be linked stands in the files once, in its order.

    Raises:
        VerifyError: it does not.
    """
    tables = [read_parquet(file, columns=["detection_id"]) for file in files]
    written = pa.concat_tables(tables)["detection_id"]
    distinct = pc.count_distinct(written).as_py()
    if not len(written) == distinct == len(expected) or not written.equals(expected):
        raise VerifyError(
            f"{len(expected)} detections to link, {len(written)} written, {distinct} distinct; "
            "nothing was replaced, please report this"
        )


def require_tracks_folder(out: Path) -> None:
    """Linking again replaces ``out``, so it must be tracks, or nothing.

    Raises:
        RunError: it is something else.
    """
    ours = re.compile(r"manifest\.json|part-\d+\.parquet")
    if out.exists() and not (
        out.is_dir() and all(ours.fullmatch(entry.name) for entry in out.iterdir())
    ):
        raise RunError(f"{out} exists and holds no tracks of onepass; choose another --out")


def replace_folder(draft: Path, out: Path, *, old: Path) -> None:
    """Put a finished folder in place of the one there, which is kept as ``old`` until then."""
    if old.exists():  # a command was killed between the two renames, or right after
        shutil.rmtree(old)
    if out.exists():
        out.rename(old)
    try:
        draft.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
