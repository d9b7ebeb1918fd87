"""Turns the hits of many queries into the bytes of their answers.

A model object for each hit would cost more than the search itself, so answers are built column
by column as plain dicts and written by orjson; tests compare them with the declared models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from index.search.snapshot import Hits, Snapshot

# Columns of a snapshot that answers show.
DETECTION_COLUMNS = (
    *("detection_id", "label", "score", "image", "x1", "y1", "x2", "y2"),
    *("sequence", "frame", "timestamp"),
)


@dataclass(frozen=True)
class SearchResults:
    """Hits of Q queries in one snapshot, as dicts with the fields of ``Hit``."""

    snapshot: Snapshot
    hits: list[dict[str, Any]]  # of all queries, one after the other
    ends: list[int]  # [Q] where each query's hits end

    def hits_of(self, query: int) -> list[dict[str, Any]]:
        """The hits of one query."""
        return self.hits[self.ends[query - 1] if query else 0 : self.ends[query]]


def detection_rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Rows of a snapshot as the fields of ``Detection``, without any folder of the server."""
    return [
        {
            "detection_id": detection_id,
            "label": label,
            "label_score": score,
            "image": None if image is None else image.rsplit("/", 1)[-1],
            "box": None if x1 is None else (x1, y1, x2, y2),
            "sequence": sequence,
            "frame": frame,
            "timestamp": timestamp,
        }
        for detection_id, label, score, image, x1, y1, x2, y2, sequence, frame, timestamp in zip(
            *(columns[name] for name in DETECTION_COLUMNS), strict=True
        )
    ]


def collect_results(
    snapshot: Snapshot,
    hits: Hits,
    ks: Sequence[int],
    query_rows: NDArray[np.int64],
    with_features: NDArray[np.bool_],
) -> SearchResults:
    """Cut the hits to what each query asks for, and read the fields of their rows.

    Args:
        snapshot: the one that was searched.
        hits: ``[Q, W]``, nearest first.
        ks: ``[Q]`` most hits of each query.
        query_rows: ``[Q]`` the row of the query, which is not its own hit; -1: it has none.
        with_features: ``[Q]`` whether the query's hits include their vectors.
    """
    kept = (hits.rows != query_rows[:, None]) & (hits.rows >= 0)
    kept &= np.cumsum(kept, axis=1) <= np.asarray(ks)[:, None]
    counts = kept.sum(axis=1)
    rows = hits.rows[kept]
    ranks = np.cumsum(kept, axis=1)[kept].tolist()
    described = detection_rows(snapshot.columns(rows, DETECTION_COLUMNS))
    for hit, rank, score in zip(described, ranks, hits.scores[kept].tolist(), strict=True):
        hit["rank"] = rank
        hit["score"] = score
        hit["features"] = None
    if with_features.any():
        positions = np.flatnonzero(np.repeat(with_features, counts))
        vectors = snapshot.vectors(rows[positions])
        for position, vector in zip(positions.tolist(), vectors, strict=True):
            described[position]["features"] = vector
    return SearchResults(snapshot, described, np.cumsum(counts).tolist())


def search_body(
    results: SearchResults, query: int, k: int, *, upload: dict[str, Any] | None = None
) -> bytes:
    """JSON of the ``SearchAnswer`` for one query.

    Args:
        results: of all queries.
        query: number of the query.
        k: as asked for.
        upload: fields of ``UploadedQuery``, to make it an ``ImageSearchAnswer``.
    """
    answer = _head(results, k) | {"hits": results.hits_of(query)}
    if upload is not None:
        answer["query"] = upload
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def batch_body(results: SearchResults, first: int, count: int, k: int) -> bytes:
    """JSON of the ``BatchAnswer`` for consecutive queries.

    Args:
        results: of all queries.
        first: number of the first query.
        count: how many queries.
        k: as asked for.
    """
    hits = [{"hits": results.hits_of(query)} for query in range(first, first + count)]
    return orjson.dumps(_head(results, k) | {"results": hits}, option=orjson.OPT_SERIALIZE_NUMPY)


def _head(results: SearchResults, k: int) -> dict[str, Any]:
    manifest = results.snapshot.manifest
    return {"snapshot": manifest.version, "metric": manifest.metric, "k": k}
