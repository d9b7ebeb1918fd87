"""Tracks laid out for paging and for looking one up.

The tables that linking writes hold one row per detection; a page needs one per track. That
is computed once, when tracks are first asked for. Track ids are unique within a run only
(two runs over flat folders both have a ``.:00000``), so a run's number is part of the key.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import RunError
from index.search.groups import Grouping, group_by_members
from index.search.snapshot import Snapshot, SnapshotManifest
from tracks.store import read_tracks

TRACK = "track"  # what group_by calls them

logger = logging.getLogger("onepass.api")


def read_steps(manifest: SnapshotManifest) -> pa.Table | None:
    """The track tables of the linked runs of an index, with the run's position as column ``run``.

    Returns:
        None where no run was linked.

    Raises:
        VerifyError: a file of the tracks is damaged.
    """
    parts = []
    for number, run in enumerate(manifest.runs):
        try:
            steps = read_tracks(Path(run.path))
        except RunError as error:
            logger.warning("no tracks: %s", error)
            continue
        column = pa.array(np.full(steps.num_rows, number, np.int32))
        parts.append(steps.append_column("run", column))
    return pa.concat_tables(parts).combine_chunks() if parts else None


class TrackTable:
    """The tracks of every linked run of one index.

    Args:
        steps: as ``read_steps`` gives them.
    """

    def __init__(self, steps: pa.Table) -> None:
        # Weak detections that extend no track are in the table, without a track id.
        self._steps = steps = steps.filter(steps["track_id"].is_valid())
        # A duplicate has a track, and is no detection of it.
        self._members = members = steps.filter(steps["duplicate_of"].is_null())
        summaries = members.group_by(["run", "track_id", "sequence"]).aggregate(
            [("position", "count"), ("frame", "min"), ("frame", "max")]
        )
        summaries = summaries.rename_columns(
            {"position_count": "length", "frame_min": "first_frame", "frame_max": "last_frame"}
        )
        self._summaries = summaries.sort_by(
            [(name, "ascending") for name in ("run", "sequence", "first_frame", "track_id")]
        )

    def page(
        self, sequence: str | None, *, limit: int, offset: int
    ) -> tuple[int, list[dict[str, Any]]]:
        """A page of track summaries.

        Args:
            sequence: only this sequence's; None takes all.
            limit: most tracks of the page.
            offset: tracks to skip.

        Returns:
            The number of tracks in all pages, and the fields of ``Track`` of each in this page.
        """
        summaries = self._summaries
        if sequence is not None:
            summaries = summaries.filter(pc.equal(summaries["sequence"], sequence))
        return summaries.num_rows, summaries.slice(offset, limit).to_pylist()

    def summaries(self, track_id: str) -> list[dict[str, Any]]:
        """The fields of ``Track`` of every track with this id: at most one a run."""
        mask = pc.equal(self._summaries["track_id"], track_id)
        summaries: list[dict[str, Any]] = self._summaries.filter(mask).to_pylist()
        return summaries

    def track_of(self, run: int, detection_id: str) -> str | None:
        """The id of the track that a detection of a run is in; None where it is in none."""
        # A scan: 10 ms at a million rows, as for steps(). A dict would cost 150 bytes a row.
        mask = pc.and_(
            pc.equal(self._steps["detection_id"], detection_id), pc.equal(self._steps["run"], run)
        )
        row = pc.index(mask, True).as_py()
        return None if row < 0 else str(self._steps["track_id"][row].as_py())

    def steps(self, run: int, track_id: str) -> list[dict[str, Any]]:
        """The rows of one track in order, without duplicates."""
        mask = pc.and_(
            pc.equal(self._members["run"], run), pc.equal(self._members["track_id"], track_id)
        )
        steps: list[dict[str, Any]] = self._members.filter(mask).sort_by("position").to_pylist()
        return steps

    def grouping(self, snapshot: Snapshot) -> Grouping:
        """The track of each row of the index; a row without one is a group of its own."""
        steps = self._steps
        ids: list[str] = steps["detection_id"].to_pylist()
        return group_by_members(snapshot, ids, steps["run"].to_numpy(), steps["track_id"])
