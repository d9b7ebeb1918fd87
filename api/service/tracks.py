"""Tracks laid out for paging and for asking about one.

The tables that linking writes hold one row per detection; a page needs one per track. That
is worked out once, when tracks are first asked for. Track ids are unique within a run only
(two runs over flat folders both have a ``.:00000``), so a run's number is part of the key.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class TrackTable:
    """The tracks of every linked run behind one index.

    Args:
        steps: the runs' tracks under each other, with the run's number as column ``run``.
    """

    def __init__(self, steps: pa.Table) -> None:
        # A weak detection that no track took is in the table, and in no track.
        self._steps = steps = steps.filter(steps["track_id"].is_valid())
        summaries = steps.group_by(["run", "track_id", "sequence"]).aggregate(
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
        """How many tracks there are, and ``limit`` of them from ``offset`` on."""
        chosen = self._summaries
        if sequence is not None:
            chosen = chosen.filter(pc.equal(chosen["sequence"], sequence))
        return chosen.num_rows, chosen.slice(offset, limit).to_pylist()

    def summaries(self, track_id: str) -> list[dict[str, Any]]:
        """Run, sequence, length and frames of each track of that id: at most one a run."""
        chosen = pc.equal(self._summaries["track_id"], track_id)
        found: list[dict[str, Any]] = self._summaries.filter(chosen).to_pylist()
        return found

    def track_of(self, run: int, detection_id: str) -> str | None:
        """The id of the track that a detection of a run is in; None where it is in none."""
        # A scan: 10 ms at a million rows, as asking for its steps. A dict would cost 150 bytes a row.
        chosen = pc.and_(
            pc.equal(self._steps["detection_id"], detection_id), pc.equal(self._steps["run"], run)
        )
        at = pc.index(chosen, True).as_py()
        return None if at < 0 else str(self._steps["track_id"][at].as_py())

    def steps(self, run: int, track_id: str) -> list[dict[str, Any]]:
        """The rows of one track in order."""
        chosen = pc.and_(
            pc.equal(self._steps["run"], run), pc.equal(self._steps["track_id"], track_id)
        )
        steps: list[dict[str, Any]] = self._steps.filter(chosen).sort_by("position").to_pylist()
        return steps
