"""A plan: the complete detections table of a source, and where its images are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from common.moved import ImageRoot, Pairs
from common.sampling import spread
from pipelines.detections import with_column
from pipelines.sources.boxes import BoxesGiven


@dataclass(frozen=True)
class Plan:
    """A complete detections table and the folder its relative image names start from.

    A row that is known to be unusable has its ``error`` already.
    """

    table: pa.Table
    root: Path
    skipped: dict[str, int]  # suffix, or kind, to files of a folder that are not images
    notes: tuple[str, ...] = ()  # remarks on the source, for people
    passing: tuple[str, ...] = ()  # columns that others may change later, as by a write-back
    given: frozenset[str] = frozenset({"image"})  # contract columns that the source has itself
    pairs: Pairs = ()  # of folders of images that were moved
    id_prefix: str | None = None  # of ids that are not made yet
    unread: int = 0  # folders and files that could not be read, so that their rows are missing
    only_in_where: tuple[str, ...] = ()  # columns to choose rows by, which a run does not keep
    boxes: BoxesGiven = field(default_factory=BoxesGiven)  # how its boxes are given

    @property
    def images(self) -> ImageRoot:
        """Where the images are."""
        return ImageRoot(self.root, self.pairs)

    @property
    def ids_given(self) -> bool:
        """Whether the source names its rows; else ids are made of image and box."""
        return "detection_id" in self.given

    @property
    def decisive(self) -> pa.Table:
        """What must be unchanged in a rerun: all rows, without the ``passing`` columns."""
        return self.table.drop_columns(list(self.passing))

    @property
    def unordered(self) -> pa.Table:
        """What a rerun of a run that was planned in another order must have: what the source gives."""
        derived = {"row_id", "detection_id", "timestamp", "frame"} - (self.given - {"row_id"})
        return self.decisive.drop_columns(sorted(derived & set(self.table.column_names)))

    def limited(self, limit: int | None, by: str = "image") -> Plan:
        """The rows of some images, spread evenly over the plan.

        Args:
            limit: images at most; None: every row.
            by: what is counted: the column ``image``, or ``sequence`` for videos.
        """
        if limit is None:
            return self
        chosen = spread(pc.unique(self.table[by]).to_pylist(), limit)
        return self.keep(pc.is_in(self.table[by], pa.array(chosen, pa.string())))

    def keep(self, mask: pa.ChunkedArray | npt.NDArray[np.bool_]) -> Plan:
        """The rows where ``mask`` is true, numbered anew."""
        table = self.table.filter(pa.array(mask) if isinstance(mask, np.ndarray) else mask)
        table = with_column(table, "row_id", pa.array(np.arange(table.num_rows, dtype=np.int64)))
        return replace(self, table=table.combine_chunks())

    def prefixed(self, prefix: str | None) -> Plan:
        """The plan with a prefix before ids that the source gives; others get it when they are made."""
        if prefix is None or not self.ids_given:
            return replace(self, id_prefix=prefix)
        ids = pc.binary_join_element_wise(prefix, self.table["detection_id"], "")
        return replace(self, table=with_column(self.table, "detection_id", ids))
