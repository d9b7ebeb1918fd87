"""Hits of many queries to the bytes of their answers.

A model object for each hit would cost more than the search itself, so answers are built column
by column as plain dicts and written by orjson; tests hold them against the declared models.
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

_NUMPY = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True)
class SearchResults:
    """Hits of Q queries in one snapshot, as dicts with the fields of ``Hit``."""

    snapshot: Snapshot
    hits: list[dict[str, Any]]  # of all queries, one after the other
    ends: list[int]  # [Q] where each query's hits end

    def of(self, query: int) -> list[dict[str, Any]]:
        """The hits of one query."""
        return self.hits[self.ends[query - 1] if query else 0 : self.ends[query]]


def detection_rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Rows of a snapshot as the fields of ``Detection``, without any folder of the server."""
    return [
        {
            "detection_id": detection_id,
            "label": label,
            "label_score": score,
            "image": image.rsplit("/", 1)[-1],
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
    wanted: Sequence[int],
    itself: NDArray[np.int64],
    features: NDArray[np.bool_],
) -> SearchResults:
    """Cut hits to what each query wants, and read what stands in their rows.

    Args:
        snapshot: the one that was searched.
        hits: [Q, W], nearest first.
        wanted: [Q] hits of each query at most.
        itself: [Q] the row that is the query itself and no hit of it; -1: none is.
        features: [Q] whether its hits come with their vectors.
    """
    kept = (hits.rows != itself[:, None]) & (hits.rows >= 0)
    kept &= np.cumsum(kept, axis=1) <= np.asarray(wanted)[:, None]
    counts = kept.sum(axis=1)
    rows = hits.rows[kept]
    rank = np.cumsum(kept, axis=1)[kept]
    described = detection_rows(snapshot.columns(rows, DETECTION_COLUMNS))
    for hit, place, score in zip(described, rank.tolist(), hits.scores[kept].tolist(), strict=True):
        hit["rank"] = place
        hit["score"] = score
        hit["features"] = None
    if features.any():
        asked = np.flatnonzero(np.repeat(features, counts))
        for place, vector in zip(asked.tolist(), snapshot.vectors(rows[asked]), strict=True):
            described[place]["features"] = vector
    return SearchResults(snapshot, described, np.cumsum(counts).tolist())


def search_body(
    found: SearchResults, place: int, k: int, *, upload: dict[str, Any] | None = None
) -> bytes:
    """A ``SearchAnswer`` for the query at ``place``; an ``ImageSearchAnswer`` with ``upload``."""
    answer = _head(found, k) | {"hits": found.of(place)}
    if upload is not None:
        answer["query"] = upload
    return orjson.dumps(answer, option=_NUMPY)


def batch_body(found: SearchResults, first: int, count: int, k: int) -> bytes:
    """A ``BatchAnswer`` for ``count`` queries from the one at ``first`` on."""
    results = [{"hits": found.of(place)} for place in range(first, first + count)]
    return orjson.dumps(_head(found, k) | {"results": results}, option=_NUMPY)


def _head(found: SearchResults, k: int) -> dict[str, Any]:
    manifest = found.snapshot.manifest
    return {"snapshot": manifest.version, "metric": manifest.metric, "k": k}
