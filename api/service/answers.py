"""Turns the hits of many queries into the bytes of their answers.

A model object for each hit would cost more than the search itself, so answers are built column
by column as plain dicts and written by orjson; tests compare them with the declared models.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from index.search.selection import Selection
from index.search.snapshot import Snapshot
from index.storage.columns import payload
from index.storage.columns import to_json as to_json_value

# Columns of a snapshot that answers show.
DETECTION_COLUMNS = (
    *("detection_id", "label", "score", "image", "x1", "y1", "x2", "y2"),
    *("sequence", "frame", "timestamp"),
)


Payload = bool | tuple[str, ...]
"""Which of the user's own columns an answer shows: all, none, or these, by the user's names."""

_NO_PAYLOAD: dict[str, Any] = {}


@dataclass(frozen=True)
class Shown:
    """What the hits of a query show beyond the fields of a detection.

    Attributes:
        payload: the user's own columns.
        with_vector: ``vector``.
        include_features: the same as ``features``.
    """

    payload: Payload = True
    with_vector: bool = False
    include_features: bool = False

    @property
    def vectors(self) -> bool:
        """Whether vectors are shown, under either name."""
        return self.with_vector or self.include_features


PLAIN = Shown()


@dataclass(frozen=True)
class SearchResults:
    """Hits of Q queries in one snapshot, as dicts with the fields of ``Hit``."""

    snapshot: Snapshot
    hits: list[dict[str, Any]]  # of all queries, one after the other
    ends: list[int]  # [Q] where each query's hits end
    unknown_ids: list[str]  # of the filter

    def hits_of(self, query: int) -> list[dict[str, Any]]:
        """The hits of one query."""
        return self.hits[self.ends[query - 1] if query else 0 : self.ends[query]]


def detection_rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Rows of a snapshot as the fields of ``Detection``, without any folder of the server.

    Args:
        columns: ``DETECTION_COLUMNS`` of the rows, and others, which are their ``payload``.
    """
    own = [name for name in columns if name not in DETECTION_COLUMNS]
    described = [
        {
            "detection_id": detection_id,
            "label": label,
            "label_score": score,
            "image": None if image is None else image.rsplit("/", 1)[-1],
            "box": None if x1 is None else (x1, y1, x2, y2),
            "sequence": sequence,
            "frame": frame,
            "timestamp": timestamp,
            "payload": _NO_PAYLOAD,
        }
        for detection_id, label, score, image, x1, y1, x2, y2, sequence, frame, timestamp in zip(
            *(columns[name] for name in DETECTION_COLUMNS), strict=True
        )
    ]
    if own:
        for row, values in zip(described, payload(columns, own), strict=True):
            row["payload"] = values
    return described


def describe_rows(
    snapshot: Snapshot, rows: NDArray[np.integer], shown: Shown
) -> list[dict[str, Any]]:
    """The fields of ``Detection`` of some rows.

    Args:
        snapshot: of the rows.
        rows: [R] row numbers.
        shown: of them; ``features`` are of hits only.
    """
    own = snapshot.own_columns if shown.payload else ()
    described = detection_rows(snapshot.columns(rows, (*DETECTION_COLUMNS, *own)))
    if shown.payload is not True:
        _choose_payload(described, shown.payload)
    vectors = snapshot.vectors(rows) if shown.with_vector else repeat(None)
    for row, vector in zip(described, vectors, strict=False):
        row["vector"] = _vector_json(vector)
    return described


def collect_results(
    snapshot: Snapshot,
    selection: Selection,
    shown: Sequence[Shown],
    own: Sequence[str],
    unknown_ids: list[str],
) -> SearchResults:
    """Read the fields of the rows that were selected.

    Args:
        snapshot: the one that was searched.
        selection: of Q queries.
        shown: [Q] what the hits of each query show.
        own: as ``Snapshot.own_columns``.
        unknown_ids: ids of the filter that are not in the snapshot.
    """
    rows = selection.rows
    described = detection_rows(snapshot.columns(rows, (*DETECTION_COLUMNS, *own)))
    groups = selection.groups or repeat(None)
    for hit, rank, score, group in zip(
        described, selection.ranks.tolist(), selection.scores.tolist(), groups, strict=False
    ):
        hit["rank"] = rank
        hit["score"] = score
        hit["group"] = group
        hit["features"] = hit["vector"] = None
    ends = np.cumsum(selection.counts).tolist()
    results = SearchResults(snapshot, described, ends, unknown_ids)
    for query, wanted in enumerate(shown):
        if wanted.payload is not True:
            _choose_payload(results.hits_of(query), wanted.payload)
    if any(wanted.vectors for wanted in shown):
        _add_vectors(results, rows, shown)
    return results


def _choose_payload(rows: list[dict[str, Any]], wanted: Payload) -> None:
    for row in rows:
        own = row["payload"]
        row["payload"] = {n: own.get(n) for n in wanted} if isinstance(wanted, tuple) else None


def _add_vectors(results: SearchResults, rows: NDArray[np.int64], shown: Sequence[Shown]) -> None:
    for query, wanted in enumerate(shown):
        hits, end = results.hits_of(query), results.ends[query]
        if not wanted.vectors or not hits:
            continue
        vectors = results.snapshot.vectors(rows[end - len(hits) : end])
        for hit, vector in zip(hits, vectors, strict=True):
            numbers = _vector_json(vector)
            hit["vector"] = numbers if wanted.with_vector else None
            hit["features"] = numbers if wanted.include_features else None


def _vector_json(vector: NDArray[np.float32] | None) -> orjson.Fragment | None:
    """A vector as JSON, by itself.

    orjson does not let other threads run: a thousand vectors in one call would stop the event loop for
    50 ms, again and again, so the loop has its turn between two.
    """
    if vector is None:
        return None
    time.sleep(0)
    return orjson.Fragment(orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY))


def shown_value(column: str, value: Any) -> Any:
    """A value of a column as a JSON value: text for a time, of an image the file name only."""
    if column == "image" and value is not None:
        return value.rsplit("/", 1)[-1]
    return to_json_value(value)


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
    return to_json(answer)


def batch_body(results: SearchResults, first: int, count: int, k: int) -> bytes:
    """JSON of the ``BatchAnswer`` for consecutive queries.

    Args:
        results: of all queries.
        first: number of the first query.
        count: how many queries.
        k: as asked for.
    """
    hits = [{"hits": results.hits_of(query)} for query in range(first, first + count)]
    return to_json(_head(results, k) | {"results": hits})


def to_json(answer: dict[str, Any]) -> bytes:
    """JSON of an answer; vectors are lists of numbers."""
    return orjson.dumps(answer)


def _head(results: SearchResults, k: int) -> dict[str, Any]:
    manifest = results.snapshot.manifest
    return {
        "snapshot": manifest.version,
        "metric": manifest.metric,
        "k": k,
        "unknown_ids": results.unknown_ids,
    }
