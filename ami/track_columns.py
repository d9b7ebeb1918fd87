"""The tracks of a run as an AMI database has them: four columns of each detection."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from common.errors import RunError
from pipelines.run import Run
from pipelines.sources.database.schema import Tables
from tracks.store import read_tracks


class TrackColumns:
    """The tracks of a run as columns of ``detections``.

    Args:
        run: a linked run.

    Raises:
        RunError: it has no tracks.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        table = read_tracks(run.path)
        self._rows = {name: row for row, name in enumerate(table["detection_id"].to_pylist())}
        columns = ["track_id", "position", "previous_detection_id", "cost"]
        self._table = table.select(columns).combine_chunks()

    def refuse_others(
        self, connection: sa.Connection, target: sa.TableClause, tables: Tables
    ) -> None:
        """Check that no detection outside the run has the id of one of its tracks.

        Args:
            connection: to the database.
            target: its detections.
            tables: of the database.

        Raises:
            RunError: one has, from another run of its session.
        """
        track_ids = set(self._table["track_id"].to_pylist())
        # With the rows that have an error: they are in no track, but in the run.
        keys = {
            tables.key(name)
            for batch in self._run.iter_batches(65536, columns=["detection_id"])
            for name in batch["detection_id"].to_pylist()
        }
        linked = target.c.sequence_id.is_not(None)
        select = sa.select(target.c.id, target.c.sequence_id).where(linked)
        with connection.execute(select, execution_options={"yield_per": 5000}) as rows:
            for row in rows:
                if row.sequence_id in track_ids and row.id not in keys:
                    raise RunError(
                        f"track {row.sequence_id!r} of {self._run.path} is on detection {row.id} "
                        "already, which is not in the run; extract the whole database and link that"
                    )

    def of(self, detection_id: str, tables: Tables) -> dict[str, Any]:
        """The four columns of a detection.

        Raises:
            RunError: it is not in the tracks.
        """
        row = self._rows.get(detection_id)
        if row is None:
            raise RunError(
                f"{self._run.path}: its tracks lack detection {detection_id!r}; link it again with "
                f"'onepass link {self._run.path}'"
            )
        track, position, previous, cost = (column[row].as_py() for column in self._table.columns)
        return {
            "sequence_id": track,
            "sequence_frame": position,
            "sequence_previous_id": None if previous is None else tables.key(previous),
            "sequence_previous_cost": cost,
        }
