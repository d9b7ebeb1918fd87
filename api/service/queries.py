"""The queries of waiting searches as vectors, read from the snapshot that answers them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from api.http.errors import ApiError
from api.service.checks import invalid_examples, wrong_dimension
from common.errors import SnapshotError
from index.search.examples import Examples

if TYPE_CHECKING:
    from api.service.served_index import ServedIndex

Query = str | NDArray[np.float32] | Examples  # a detection's id, a raw vector [D], or examples


@dataclass(frozen=True)
class PreparedQueries:
    """The queries of several requests, without those that do not fit the snapshot.

    Attributes:
        errors: of each request; None: its queries are among these.
        vectors: [Q, D].
        rows: [Q] the row of each query, which is not its own hit; -1: it has none.
        excluded: numbers of queries, each with its rows, where they are several.
        excess: [Q] rows that may have to be left out of the hits of each.
    """

    errors: list[ApiError | None]
    vectors: NDArray[np.float32]
    rows: NDArray[np.int64]
    excluded: list[tuple[int, NDArray[np.int64]]]
    excess: list[int]


def read_queries(served: ServedIndex, requests: Sequence[Sequence[Query]]) -> PreparedQueries:
    """Look up the queries of requests; one that does not fit refuses its own request only.

    Args:
        served: the index.
        requests: the queries of each.
    """
    snapshot = served.snapshot
    ids: list[str] = []
    for queries in requests:
        for query in queries:
            if isinstance(query, str):
                ids.append(query)
            elif isinstance(query, Examples):
                ids += query.ids
    rows_of_ids = iter(snapshot.rows_of(ids).tolist() if ids else [])
    errors: list[ApiError | None] = []
    rows: list[int] = []
    given: list[tuple[int, NDArray[np.float32]]] = []
    excluded: list[tuple[int, NDArray[np.int64]]] = []
    for queries in requests:
        request = _Request(served, queries, rows_of_ids)
        errors.append(request.error)
        if request.error is None:
            start = len(rows)
            rows += request.rows
            given += [(start + query, vector) for query, vector in request.vectors]
            excluded += [(start + query, own) for query, own in request.excluded]
    indexed = np.array(rows, np.int64)
    if not given:
        vectors = snapshot.vectors(indexed)
    else:
        vectors = np.empty((len(rows), served.dim), np.float32)
        if len(given) < len(rows):
            stored = indexed >= 0
            vectors[stored] = snapshot.vectors(indexed[stored])
        for number, vector in given:
            vectors[number] = vector
    excess = [int(row >= 0) for row in rows]
    for number, own in excluded:
        excess[number] = len(own)
    return PreparedQueries(errors, vectors, indexed, excluded, excess)


class _Request:
    """The queries of one request."""

    def __init__(
        self, served: ServedIndex, queries: Sequence[Query], rows_of_ids: Iterator[int]
    ) -> None:
        self.error: ApiError | None = None
        self.rows: list[int] = []
        self.vectors: list[tuple[int, NDArray[np.float32]]] = []
        self.excluded: list[tuple[int, NDArray[np.int64]]] = []
        for number, query in enumerate(queries):
            prefix = f"query {number}: " if len(queries) > 1 else ""
            row = -1
            if isinstance(query, str):
                row = next(rows_of_ids)
                if row < 0:
                    self._refuse(served.not_found(query, prefix))
            elif isinstance(query, Examples):
                own = [next(rows_of_ids) for _ in query.ids]  # all, also after an error
                self._read_examples(served, query, own, number, prefix)
            elif len(query) != served.dim:
                self._refuse(wrong_dimension(len(query), served.dim, prefix))
            else:
                self.vectors.append((number, query))
            self.rows.append(row)

    def _refuse(self, error: ApiError) -> None:
        self.error = self.error or error

    def _read_examples(
        self, served: ServedIndex, examples: Examples, rows: list[int], number: int, prefix: str
    ) -> None:
        if -1 in rows:
            self._refuse(served.not_found(examples.ids[rows.index(-1)], prefix))
            return
        own = np.array(rows, np.int64)
        snapshot = served.snapshot
        try:
            vector = examples.vector(snapshot.vectors(own), snapshot.manifest.metric)
        except SnapshotError as error:  # safe to show: it speaks of the examples only
            self._refuse(invalid_examples(f"{prefix}{error}"))
            return
        self.vectors.append((number, vector))
        self.excluded.append((number, own))
