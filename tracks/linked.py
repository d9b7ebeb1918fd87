"""The tracks of a run beside its images and boxes: what pictures, exports and scores are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common.errors import InputError
from index.vectors import Floats, Ints
from pipelines.detections import BOX
from pipelines.run import Run
from tracks.association.linker import by_frame
from tracks.sizes import geometry
from tracks.store import read_tracks
from tracks.tracked import TrackBoxes

Progress = Callable[[int, int], None]  # called with what is done, and what there is to do

_PLAN = ("row_id", "detection_id", "image", *BOX, "sequence", "frame", "label", "score", "error")


@dataclass(frozen=True)
class LinkedRun:
    """A linked run, or some sequences of it.

    Attributes:
        run: the run.
        rows: all its detections by sequence, frame and row_id, with their columns of
            ``tracks/``; those with an error, or that no track took, have no ``track_id``.
    """

    run: Run
    rows: pa.Table

    @classmethod
    def open(cls, path: Path, sequence: str | None = None) -> LinkedRun:
        """Read what linking wrote, and of the run everything but embeddings.

        Raises:
            RunError: the run is unfinished or not linked.
            VerifyError: its tracks are not the ones their manifest names.
            InputError: there is no such sequence.
        """
        run = Run.open(path)
        tracks = read_tracks(path).drop_columns(["sequence", "frame"])
        rows = run.table(list(_PLAN))
        rows = rows.join(tracks, "detection_id").sort_by(
            [("sequence", "ascending"), ("frame", "ascending"), ("row_id", "ascending")]
        )
        linked = cls(run, rows.combine_chunks())
        return linked if sequence is None else linked.only(sequence)

    def only(self, sequence: str) -> LinkedRun:
        """The sequence that somebody asked for.

        Raises:
            InputError: there is none of that name.
        """
        if sequence not in self._parts:
            known = self.sequences
            shown = ", ".join(map(repr, known[:5])) + (", …" if len(known) > 5 else "")
            raise InputError(f"--sequence {sequence!r}: {self.run.path} has {shown}")
        return self.of(sequence)

    @cached_property
    def sequences(self) -> list[str]:
        """Their names, in order."""
        return list(self._parts)

    def of(self, sequence: str) -> LinkedRun:
        """One sequence alone."""
        return LinkedRun(self.run, self.rows[self._parts[sequence]])

    @cached_property
    def _parts(self) -> dict[str, slice]:
        names = self.rows["sequence"].combine_chunks().dictionary_encode()
        parts = by_frame(names.indices.to_numpy())
        return dict(zip(names.dictionary.to_pylist(), parts, strict=True))

    @cached_property
    def frames(self) -> Ints:
        """Frame number of each row."""
        return np.asarray(self.rows["frame"].to_numpy(), dtype=np.int64)

    @cached_property
    def boxes(self) -> Floats:
        """Boxes ``[N, 4]`` in pixels; a detection without one spans its image."""
        boxes = np.column_stack([self.rows[side].to_numpy() for side in BOX]).astype(np.float64)
        whole = np.isnan(boxes).any(axis=1)
        if whole.any():
            boxes[whole] = geometry(self.run, self.rows.filter(pa.array(whole))).boxes
        return boxes

    @cached_property
    def in_track(self) -> npt.NDArray[np.bool_]:
        """Which rows a track took."""
        known: npt.NDArray[np.bool_] = self.rows["track_id"].is_valid().to_numpy()
        return known

    def repeated_claims(self) -> int:
        """Boxes that claim a track which another box of their frame has as well."""
        taken = self.rows.filter(self.rows["track_id"].is_valid())
        return int(
            taken.num_rows
            - taken.group_by(["sequence", "track_id", "frame"]).aggregate([]).num_rows
        )

    def tracked(self) -> tuple[TrackBoxes, Ints]:
        """The rows that a track took, and which rows these are; tracks are numbered from 1."""
        rows = np.flatnonzero(self.in_track)
        taken = self.rows.take(pa.array(rows))
        tracks = taken["track_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        cost = taken["cost"].fill_null(0).to_numpy()
        frames = self.frames[rows]
        return TrackBoxes(
            frames, unique_per_frame(frames, tracks, cost) + 1, self.boxes[rows]
        ), rows

    def longest_first(self) -> tuple[Ints, Ints, list[str]]:
        """The tracks as pictures show them, numbered from 0 with the longest first.

        Returns:
            Number of the track of each row that has one ``[N]``, which rows these are ``[N]``, and
            the short name of each track.
        """
        tracked, rows = self.tracked()
        _, first, track, lengths = np.unique(
            tracked.ids, return_index=True, return_inverse=True, return_counts=True
        )
        order = np.argsort(-lengths, kind="stable")
        ids = self.rows["track_id"].take(pa.array(rows[first[order]])).to_pylist()
        names = [name.rpartition(":")[2].lstrip("0") or "0" for name in ids]
        return np.argsort(order)[track], rows, names

    @property
    def extent(self) -> tuple[float, float]:
        """How far the boxes reach to the right and down, in pixels; at least 1."""
        right, lower = np.nan_to_num(self.boxes[:, 2:]).max(axis=0, initial=1).tolist()
        return right, lower


def unique_per_frame(frames: Ints, tracks: Ints, cost: npt.NDArray[np.floating]) -> Ints:
    """Numbers of tracks, each once a frame.

    The preset ``ami`` lets two detections of a frame claim one track. Evaluators and files of
    tracks know one box a frame: the cheapest claim keeps the track, and the second, third, … of
    each frame make up tracks of their own, numbered behind all others.

    Args:
        frames: of each detection ``[N]``.
        tracks: number of its track, from 0 ``[N]``.
        cost: of its link ``[N]``; NaN where the track starts.
    """
    numbers = tracks.astype(np.int64)
    made: dict[tuple[int, int], int] = {}
    claims: dict[tuple[int, int], int] = {}
    behind = int(numbers.max(initial=-1)) + 1
    for place in np.lexsort([np.nan_to_num(cost), frames]).tolist():
        key = (int(frames[place]), int(tracks[place]))
        claims[key] = claim = claims.get(key, 0) + 1
        if claim > 1:
            numbers[place] = made.setdefault((key[1], claim), behind + len(made))
    return numbers
