"""The tracks of a run on disk: the layout of ``tracks/``, reading and checking it.

::

    RUN/tracks/
      part-00000.parquet   one row per detection, by sequence, frame and row_id; more parts follow
      manifest.json        the options, the counts, the sha256

A row without ``track_id`` is a weak detection in no track. The first detection of a track has no
previous detection, no cost and no margin. A duplicate has the track and the position of the detection
that it repeats, which is its ``duplicate_of``; who counts or shows individuals leaves it out. A box that holds
several individuals is a detection of one track, and names the others: they are not missing there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from common.errors import RunError, VerifyError
from common.lock import lock_folder
from common.manifests import MANIFEST, Manifest, verify_files
from common.parquet import read_parquet
from pipelines.run import RunManifest
from tracks.association.camera import CameraMove
from tracks.association.options import TERMS, LinkOptions
from tracks.offline.learn import Shown

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
        ("duplicate_of", pa.string()),  # null in files of format 1
        ("other_track_ids", pa.list_(pa.string())),  # null in files of formats 1 and 2
    ]
)


@dataclass(frozen=True)
class LinkSummary:
    """Counts of a linked run.

    Attributes:
        sequences: linked ones.
        detections: with an embedding, each one row of the tracks.
        linked: of them, those that continue another.
        tracks: of all sequences.
        left_out: rows with an error and no embedding.
        weak: detections in no track.
        duplicates: detections that repeat another one of their image, and have its track.
        merged: boxes that hold several individuals.
        entered, left: tracks that begin, or end, at the border of the image, but for those in the first, or last,
            frame; of offline linking.
        appeared, vanished: the same of tracks away from the border.
        notes: warnings about the input, for people.
    """

    sequences: int
    detections: int
    linked: int
    tracks: int
    left_out: int
    weak: int = 0
    duplicates: int = 0
    merged: int = 0
    entered: int = 0
    left: int = 0
    appeared: int = 0
    vanished: int = 0
    notes: tuple[str, ...] = ()


class TracksManifest(Manifest):
    """Contents of ``tracks/manifest.json``."""

    format: int = 3  # 1: without duplicates; 2: without boxes that hold several
    fingerprint: str
    # Of the run's detections files; None: made before it was kept, and before runs were updated.
    rows_sha256: str | None = None
    options: LinkOptions
    score_column: str | None = None
    counts: LinkSummary
    learned: dict[str, Shown] = Field(default_factory=dict)  # by sequence, of offline linking
    camera_moves: dict[str, list[CameraMove]] = Field(default_factory=dict)  # by sequence


def track_id(sequence: str, number: int) -> str:
    """A track's name, unique in a run: its sequence and its number, in order of the starts."""
    # A colon: sequences are folder names, and './00001' would not survive in a URL.
    return f"{sequence}:{number:05d}"


def read_tracks(run: Path) -> pa.Table:
    """The tracks of a run, by sequence, frame and row_id; columns as in ``SCHEMA``.

    Raises:
        RunError: the run has no tracks yet, or they are of other rows, as where it was updated since.
        VerifyError: a file differs from the one its manifest names, or the manifest is damaged.
    """
    folder = run / "tracks"
    if not (folder / MANIFEST).is_file():
        raise RunError(f"{run} has no tracks; make them with 'onepass link {run}'")
    try:
        manifest = TracksManifest.read(folder)
        stale = (run / MANIFEST).is_file() and _is_stale(manifest, RunManifest.read(run))
    except RunError as error:  # not as if there were no tracks
        raise VerifyError(str(error)) from None
    if stale:
        raise RunError(
            f"the tracks of {run} are of other rows, as after an update; run 'onepass link {run}' again"
        )
    verify_files(folder, manifest.files, then=f"; run 'onepass link {run}' again")
    return pa.concat_tables(
        [read_parquet(folder / name, schema=SCHEMA) for name in sorted(manifest.files)]
    )


def verify_tracks(run: Path) -> None:
    """Compare the tracks in a run's folder with their manifest; nothing where there are none.

    Raises:
        RunError: the manifest cannot be read.
        VerifyError: a file is missing or differs.
    """
    folder = run / "tracks"
    if (folder / MANIFEST).is_file():
        manifest = TracksManifest.read(folder)
        verify_files(folder, manifest.files, then=f"; run 'onepass link {run}' again")


def _is_stale(tracks: TracksManifest, run: RunManifest) -> bool:
    """Whether tracks are of other rows than a run's; those without a hash are older than updates."""
    if tracks.rows_sha256 is None:
        return run.updates > 0
    return tracks.rows_sha256 != run.rows_sha256


def check_complete(files: Sequence[Path], expected: pa.ChunkedArray) -> None:
    """Check that the files hold every detection exactly once, in order.

    Args:
        files: the written parts.
        expected: ids of the detections to link.

    Raises:
        VerifyError: they do not.
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
    """Check that ``out``, which linking replaces, holds tracks or does not exist.

    Raises:
        RunError: it holds something else.
    """
    names = re.compile(r"manifest\.json|part-\d+\.parquet")
    if out.exists() and not (
        out.is_dir() and all(names.fullmatch(entry.name) for entry in out.iterdir())
    ):
        raise RunError(f"`out={str(out)!r}` exists and holds no tracks; give a new folder")


@contextmanager
def replacing_tracks(out: Path) -> Iterator[Path]:
    """A new folder to write into, which replaces ``out`` at the end of the block."""
    # A folder that a killed command left is taken over.
    work = out.with_name(f".{out.name}.linking")
    draft, old = work / "new", work / "old"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock_folder(work, "link"):
            try:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
                yield draft
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
            finally:
                for folder in (draft, old):
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        with suppress(OSError):  # another command is at work there
            work.rmdir()
