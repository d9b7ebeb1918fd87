"""Tracks in Python: ``link``, ``open_tracks``, and what they return."""

from __future__ import annotations

from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.executors import ExecutorChoice
from common.errors import InputError
from onepass.arguments import read_run, show_progress, warn
from pipelines.run import Run
from tracks.association.options import PRESETS, Preset
from tracks.link import link_run
from tracks.linked_run import LinkedRun
from tracks.store import LinkSummary, TracksManifest, read_tracks

if TYPE_CHECKING:
    from typing import Unpack

    import pandas as pd
    from PIL.Image import Image

    from onepass.options import LinkKeywords

_NOTES = 5  # warnings of one kind, sequence by sequence


def link(
    run: Run | str | Path,
    *,
    preset: Preset = "default",
    score_column: str = "detector_score",
    executor: ExecutorChoice = "auto",
    address: str | None = None,
    progress: bool = True,
    **options: Unpack[LinkKeywords],
) -> Tracks:
    """Link the detections of a run into tracks, one individual each, sequence by sequence.

    All frames of a sequence are linked at once: how far its individuals move, and how alike they
    look, it shows itself. With ``preset="online"``, frame by frame, a pair costs ``feature_weight``
    (1 - cosine) + ``iou_weight`` (1 - IoU) + ``area_weight`` (1 - smaller / larger area) +
    ``distance_weight`` (distance / image diagonal). The tracks are stored with the run, in place of
    older ones.

    Args:
        run: a finished run, opened or by its folder; ``open_run`` takes ``images`` that were moved.
        preset: what to start from; ``online`` links frame by frame, and ``ami`` and ``antenna`` are
            older greedy rules, to compare with.
        score_column: column of the run with the detector's score, for ``strong_score``.
        executor: where sequences are linked.
        address: of a Ray cluster to work on.
        progress: show a bar.
        options: fields of ``LinkOptions``, in place of those of the preset.

    Returns:
        The tracks.

    Raises:
        InputError: the run is unfinished, or an option does not fit it.
        WorkError: the work failed; older tracks are kept.

    Example:
        >>> tracks = onepass.link("runs/first", max_gap_frames=3, progress=False)
        >>> tracks
        Tracks('runs/first/tracks': 2 tracks of 12 detections in 2 sequences)
    """
    opened = read_run("run", run)
    if preset not in PRESETS:
        raise InputError(f"`preset={preset!r}`: choose from {', '.join(PRESETS)}")
    chosen = PRESETS[preset].replace(**options)
    with show_progress(progress) as update:
        summary = link_run(
            opened.path,
            options=chosen,
            pairs=opened.pairs,
            score_column=None if chosen.strong_score is None else score_column,
            executor=executor,
            address=address,
            progress=lambda done, total: update("link", done, total),
        )
    warn(summary.notes[:_NOTES])
    return open_tracks(opened)


def open_tracks(run: Run | str | Path) -> Tracks:
    """Open the tracks of a linked run.

    Args:
        run: opened, or by its folder.

    Raises:
        InputError: the run has no tracks yet.

    Example:
        >>> len(onepass.open_tracks("runs/first"))
        2
    """
    opened = read_run("run", run)
    return Tracks(opened)


class Tracks:
    """The tracks of a run: which detections are one individual.

    Attributes:
        run: the linked run.
        manifest: options, counts and files.

    Example:
        >>> tracks = onepass.open_tracks("runs/first")
        >>> tracks.to_pandas()["track_id"].unique().tolist()
        ['night0:00000', 'night1:00000']
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._table = read_tracks(run.path)
        self.manifest = TracksManifest.read(self.path)

    def __len__(self) -> int:
        return self.summary.tracks

    def __repr__(self) -> str:
        counts = self.summary
        return (
            f"Tracks({str(self.path)!r}: {counts.tracks:,} tracks of {counts.detections:,} "
            f"detections in {counts.sequences:,} sequences)"
        )

    @property
    def path(self) -> Path:
        """The folder of the tracks."""
        return self.run.path / "tracks"

    @property
    def summary(self) -> LinkSummary:
        """Counts of sequences, detections, links and tracks."""
        return self.manifest.counts

    @cached_property
    def sequences(self) -> list[str]:
        """Names of the sequences, in order."""
        return self._linked.sequences

    def to_arrow(self) -> pa.Table:
        """One row per detection, by sequence and frame.

        Returns:
            ``detection_id``, ``track_id`` (null: in none), ``sequence``, ``frame``, ``position`` in
            the track from 0, ``previous_detection_id``, ``cost`` of the link to it with its four
            terms, ``margin``: how much dearer the next best link was, ``duplicate_of``: the
            detection that this one repeats, whose track it has (null: none), and
            ``other_track_ids``: the tracks of the other individuals in its box (null: none).
        """
        return self._table

    def to_pandas(self) -> pd.DataFrame:
        """``to_arrow`` as a DataFrame."""
        return self._table.to_pandas()

    def draw(self, sequence: str | None = None) -> Image:
        """Draw the tracks of one sequence over the median of its images.

        Args:
            sequence: its name; may be left out where there is one only.

        Returns:
            A picture, 1,600 pixels at its longer side. A notebook shows it.

        Raises:
            InputError: there is no such sequence, or several and none is named; the run was linked
                again since; or the extra ``onepass[tracks]`` is not installed.
        """
        # late: OpenCV is an extra
        from tracks.pictures.draw import draw_sequence
        from tracks.pictures.scenes import RunImages

        if sequence is None and len(self.sequences) == 1:
            sequence = self.sequences[0]
        if sequence is None:
            raise InputError(f"give `sequence`, one of {', '.join(self.sequences)}")
        with closing(RunImages(self.run.images)) as images:
            return draw_sequence(self._linked.only(sequence), sequence, images)[0]

    @cached_property
    def _linked(self) -> LinkedRun:
        if TracksManifest.read(self.path) != self.manifest:
            raise InputError(
                f"{self.run.path} was linked again since; `onepass.open_tracks` opens its tracks"
            )
        return LinkedRun.open(self.run.path, pairs=self.run.pairs)
