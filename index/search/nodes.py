"""The nodes of an approximate index: each stands for one row, or for many that are nearly copies.

Hundreds of copies of one vector fill the links of a graph with each other, so that searches end
among them and never reach the rows that occur once. So the graph gets one of them, its *node*; the
exact scores of the other rows are computed when a search comes near.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.untrusted import refuse_pickled

NODES_SCHEMA = pa.schema([("rows", pa.large_list(pa.int64())), ("radius", pa.float32())])

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Nodes:
    """Which rows each of U nodes stands for; every row belongs to one node.

    Attributes:
        starts: int64 [U + 1], where the rows of each node begin in ``rows``.
        rows: int64 [N], by node and ascending within each; the first is the one it was made of.
        radius: float32 [U], the greatest distance of a row of the node from the first: L1 for the
            metric l1, else L2.
    """

    starts: Ints
    rows: Ints
    radius: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.radius)

    @classmethod
    def of_rows(cls, rows: Ints) -> Nodes:
        """One node for each of ``rows`` [U]."""
        return cls(np.arange(len(rows) + 1), rows, np.zeros(len(rows), np.float32))

    @classmethod
    def open(cls, file: Path) -> Nodes:
        """Open what ``write`` wrote, memory-mapped.

        Raises:
            OSError, pa.ArrowInvalid: it is missing or damaged.
            SourceError: a column has a type that can execute code.
        """
        with pa.memory_map(str(file)) as source:
            reader = pa.ipc.open_file(source)
            refuse_pickled(reader.schema, str(file))
            batch = reader.get_batch(0)
        rows = batch["rows"]
        return cls(rows.offsets.to_numpy(), rows.values.to_numpy(), batch["radius"].to_numpy())

    def write(self, file: Path) -> None:
        """Write them as an Arrow file of one batch.

        Raises:
            OSError: the disk refused.
        """
        rows = pa.LargeListArray.from_arrays(self.starts, self.rows)
        batch = pa.record_batch([rows, pa.array(self.radius)], schema=NODES_SCHEMA)
        with pa.ipc.new_file(file, NODES_SCHEMA) as sink:
            sink.write_batch(batch)

    @cached_property
    def counts(self) -> Ints:
        """Rows of each node, [U]."""
        return np.diff(self.starts)

    @cached_property
    def is_group(self) -> NDArray[np.bool_]:
        """Whether each node stands for more than one row, [U]."""
        groups: NDArray[np.bool_] = self.counts > 1
        return groups

    @cached_property
    def has_copies(self) -> bool:
        """Whether a node stands for more than one row."""
        return len(self.rows) > len(self)

    @cached_property
    def first(self) -> Ints:
        """The row that each node was made of, [U]."""
        return self.rows[self.starts[:-1]] if self.has_copies else self.rows

    def any_row(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether ``mask`` [N] holds for any row of each node, [U]."""
        if not self.has_copies:
            return mask[self.rows]
        kept: NDArray[np.bool_] = np.add.reduceat(mask[self.rows], self.starts[:-1]) > 0
        return kept
