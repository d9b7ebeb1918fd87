"""A run's detections together with their tracks: the input of pictures, exports and scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError
from common.moved import Pairs
from index.vectors import Floats, Ints
from pipelines.detections import BOX
from pipelines.run import Run
from tracks.association.state import Bools
from tracks.boxes import TrackBoxes, unique_per_frame
from tracks.geometry import read_geometry
from tracks.plan import sequence_slices
from tracks.store import read_tracks

Progress = Callable[[int, int], None]  # called with the number done and the number to do

_COLUMNS = (
    *("row_id", "detection_id", "image", *BOX, "sequence", "frame"),
    *("label", "score", "error"),
)


@dataclass(frozen=True)
class LinkedRun:
    """A linked run, or some sequences of it."""

    run: Run  # the run
    # All N detections but the duplicates, by sequence, frame and row_id, with their columns of
    # tracks/; those with an error, or in no track, have no track_id.
    rows: pa.Table
    duplicates: int = 0  # detections of the run that repeat another one, and are left out

    @classmethod
    def open(cls, path: Path, sequence: str | None = None, *, pairs: Pairs = ()) -> LinkedRun:
        """Read the tracks of a run, and of the run everything but embeddings.

        Args:
            path: of the run.
            sequence: only this one.
            pairs: of folders of images that were moved.

        Raises:
            RunError: the run is unfinished or not linked.
            VerifyError: its tracks differ from their manifest.
            InputError: there is no such sequence.
        """
        run = Run.open(path, pairs)
        tracks = read_tracks(path)
        rows = run.to_arrow(list(_COLUMNS)).sort_by(
            [("sequence", "ascending"), ("frame", "ascending"), ("row_id", "ascending")]
        )
        # Arrow joins no lists.
        at = pc.index_in(rows["detection_id"], tracks["detection_id"].combine_chunks())
        for name in tracks.schema.names:
            if name not in rows.schema.names:
                rows = rows.append_column(tracks.schema.field(name), tracks[name].take(at))
        kept = rows.filter(rows["duplicate_of"].is_null()).combine_chunks()
        linked = cls(run, kept, rows.num_rows - kept.num_rows)
        return linked if sequence is None else linked.only(sequence)

    def only(self, sequence: str) -> LinkedRun:
        """The sequence that the user named.

        Raises:
            InputError: there is none of that name.
        """
        if sequence not in self._parts:
            raise InputError(
                f"`sequence={sequence!r}`: {self.run.path} has {shortened(self.sequences)}"
            )
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
        return {
            self.rows["sequence"][part.start].as_py(): part for part in sequence_slices(self.rows)
        }

    @cached_property
    def frames(self) -> Ints:
        """Frame number of each row ``[N]``."""
        return np.asarray(self.rows["frame"].to_numpy(), dtype=np.int64)

    @cached_property
    def boxes(self) -> Floats:
        """Boxes ``[N, 4]`` in pixels; a detection without one spans its image."""
        boxes = np.column_stack([self.rows[side].to_numpy() for side in BOX]).astype(np.float64)
        whole = np.isnan(boxes).any(axis=1)
        if whole.any():
            boxes[whole] = read_geometry(self.run, self.rows.filter(pa.array(whole))).boxes
        return boxes

    @cached_property
    def in_track(self) -> Bools:
        """Which rows are in a track ``[N]``."""
        return self._has("track_id")

    @cached_property
    def failed(self) -> Bools:
        """Which rows have an error ``[N]``."""
        return self._has("error")

    def _has(self, column: str) -> Bools:
        mask: Bools = self.rows[column].is_valid().to_numpy()
        return mask

    def repeated_boxes(self) -> int:
        """Number of boxes in a track that another box of their frame is in as well."""
        rows = self.rows.filter(pa.array(self.in_track))
        distinct = rows.group_by(["sequence", "track_id", "frame"]).aggregate([])
        return int(rows.num_rows - distinct.num_rows)

    def tracked(self) -> tuple[TrackBoxes, Ints]:
        """The boxes in tracks, numbered from 1, and the rows they are."""
        rows = np.flatnonzero(self.in_track)
        table = self.rows.take(pa.array(rows))
        tracks = table["track_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        cost = table["cost"].fill_null(0).to_numpy()
        frames = self.frames[rows]
        ids = unique_per_frame(frames, tracks, cost) + 1
        return TrackBoxes(frames, ids, self.boxes[rows]), rows

    def companions(self) -> tuple[Ints, Ints]:
        """Boxes that hold several: the row, and the first row of another track in it, ``[M]`` each."""
        others = self.rows["other_track_ids"].combine_chunks()
        row = pc.list_parent_indices(others).to_numpy()
        first = pc.index_in(pc.list_flatten(others), self.rows["track_id"].combine_chunks())
        return row.astype(np.int64), first.to_numpy().astype(np.int64)

    def individuals(self) -> TrackBoxes:
        """``tracked``, and each box that holds several once for each of them, by frame."""
        boxes, rows = self.tracked()
        row, other = (np.searchsorted(rows, side) for side in self.companions())
        ids = np.r_[boxes.ids, boxes.ids[other]]
        frames = np.r_[boxes.frames, boxes.frames[row]]
        order = np.lexsort([ids, frames])
        return TrackBoxes(frames[order], ids[order], np.r_[boxes.boxes, boxes.boxes[row]][order])

    def longest_first(self) -> tuple[Ints, Ints, list[str]]:
        """The tracks as pictures show them, numbered from 0 with the longest first.

        Returns:
            The track number of each of M boxes in tracks ``[M]``, their rows ``[M]``, and the
            short name of each track.
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
        """Largest x and y of the boxes, in pixels; at least 1."""
        right, lower = np.nan_to_num(self.boxes[:, 2:]).max(axis=0, initial=1).tolist()
        return right, lower


def shortened(sequences: list[str]) -> str:
    """The first five names, for a message."""
    return ", ".join(map(repr, sequences[:5])) + (", …" if len(sequences) > 5 else "")
