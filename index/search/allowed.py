"""The rows that a filter and deletions leave, in the forms that searches need."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.search.nodes import Nodes

_faiss: Any = faiss

SAFETY = 1.5
"""Allowed rows visited under a filter, relative to rows visited without one."""


class Allowed:
    """The rows that a search may return; ``mask`` is bool [N], one per row."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))
        self._of_nodes: tuple[Nodes, Allowed] | None = None
        self._by_list: NDArray[np.int64] | None = None

    @property
    def share(self) -> float:
        """Allowed rows of all rows, 0..1."""
        return self.count / max(1, len(self.mask))

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Numbers of the allowed rows, ascending."""
        return np.flatnonzero(self.mask)

    def of_nodes(self, nodes: Nodes) -> Allowed:
        """The nodes with an allowed row, as an object of this class; made once."""
        if self._of_nodes is None or self._of_nodes[0] is not nodes:
            self._of_nodes = nodes, Allowed(nodes.any_row(self.mask))
        return self._of_nodes[1]

    def by_list(self, list_of_node: NDArray[np.int32], lists: int) -> NDArray[np.int64]:
        """Allowed nodes of each inverted list, [lists]; counted once."""
        if self._by_list is None:
            self._by_list = np.bincount(list_of_node[self.mask], minlength=lists)
        return self._by_list

    @cached_property
    def selector(self) -> Any:
        """FAISS's form of the mask, one bit per row."""
        self._bits = np.packbits(self.mask, bitorder="little")  # FAISS keeps only a pointer to it
        return _faiss.IDSelectorBitmap(self._bits)
