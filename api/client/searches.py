"""The half of the client that searches, browses and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import numpy as np

from api.client.requests import Requests, Vector, detection_path, drop_none, vector_text
from api.schemas.detections import Detection, DetectionPage, Facets, FetchAnswer
from api.schemas.search import BatchAnswer, ImageSearchAnswer, SearchAnswer
from index.config import Direction


class SearchOptions(TypedDict, total=False):
    """Keywords that every search of ``Client`` takes.

    Attributes:
        where: only rows that match this SQL condition, such as ``"score > 0.5"``.
        ids: only these detections, none for an empty list; the answer has those that are not in the
            index as ``unknown_ids``.
        exact: compare with every vector instead of using the approximate index.
        score_threshold: only hits at least as near: the lowest score for cosine and ip, the largest
            distance for l1 and l2.
        offset: nearest hits to leave out, or groups.
        group_by: ``"track"`` or a column: k groups of rows with the same value, nearest first.
        group_size: most hits of each group.
        with_payload: return your own columns: all, none, or the names of some.
        with_vector: return each hit's vector as well.
        include_features: the older name of ``with_vector``, which gives ``features``.
    """

    where: str | None
    ids: Sequence[str] | None
    exact: bool
    score_threshold: float | None
    offset: int
    group_by: str | None
    group_size: int
    with_payload: bool | Sequence[str]
    with_vector: bool
    include_features: bool


class Searches(Requests):
    """Methods of ``Client``, one a route."""

    def search(
        self, query: str | Vector, k: int = 10, **options: Unpack[SearchOptions]
    ) -> SearchAnswer:
        """Find the nearest detections to a detection or a vector.

        Args:
            query: a detection's id, which is not among its own hits, or a raw embedding ``[D]``.
            k: number of hits; of groups with ``group_by``.
            options: keywords of ``SearchOptions``, as ``where="score > 0.5"``.

        Returns:
            At most ``k`` hits, nearest first.

        Raises:
            ServiceError: 404 ``detection_not_found``; 422, the query or an option is not valid;
                429 ``too_busy``; 503, not ready.
        """
        return self._post("/v1/search", SearchAnswer, json=_query(query) | _options(k, options))

    def recommend(
        self,
        positive: Sequence[str | Vector],
        negative: Sequence[str | Vector] = (),
        k: int = 10,
        **options: Unpack[SearchOptions],
    ) -> SearchAnswer:
        """Find the detections most like some examples and unlike others.

        Args:
            positive: ids and raw embeddings ``[D]``, mixed as you like; at least one.
            negative: the same, of what to avoid.
            k, options: as for ``search``.

        Returns:
            At most ``k`` hits, nearest first; no example is among them.

        Raises:
            ServiceError: as for ``search``; 422 ``invalid_examples``, the examples cancel out.
        """
        body: dict[str, Any] = {"positive": _examples(positive)}
        if len(negative):
            body["negative"] = _examples(negative)
        return self._post("/v1/search", SearchAnswer, json=body | _options(k, options))

    def search_batch(
        self,
        queries: Sequence[str | Vector] | Vector,
        k: int = 10,
        **options: Unpack[SearchOptions],
    ) -> BatchAnswer:
        """Find the nearest detections to each of many queries, all in one snapshot.

        Args:
            queries: Q ids or raw embeddings ``[D]``, mixed as you like, or one array ``[Q, D]``,
                which is sent most compactly.
            k, options: as for ``search``, the same for each query.

        Returns:
            Hits of each query, in the order of ``queries``.

        Raises:
            ServiceError: as for ``search``; one invalid query refuses the whole batch.
        """
        body: dict[str, Any] = (
            {"vectors": vector_text(queries)}
            if isinstance(queries, np.ndarray)
            else {"queries": [_query(query) for query in queries]}
        )
        return self._post("/v1/search/batch", BatchAnswer, json=body | _options(k, options))

    def search_image(
        self, image: bytes, k: int = 10, **options: Unpack[SearchOptions]
    ) -> ImageSearchAnswer:
        """Classify an image and find the nearest detections to it, in one forward pass.

        Args:
            image: encoded as JPEG, PNG, WebP, TIFF, GIF or BMP.
            k, options: as for ``search``.

        Returns:
            The predicted class, and at most ``k`` hits, nearest first.

        Raises:
            ServiceError: 413 ``too_large``; 422 ``invalid_image`` and as for ``search``;
                503 ``model_unavailable``.
        """
        files = {"image": image}
        data = _as_query(_options(k, options))
        return self._post("/v1/search/image", ImageSearchAnswer, files=files, data=data)

    def neighbors(
        self, detection_id: str, k: int = 10, **options: Unpack[SearchOptions]
    ) -> SearchAnswer:
        """Find the nearest detections to a detection, which is not among them.

        Args:
            detection_id: the query.
            k, options: as for ``search``.

        Returns:
            At most ``k`` hits, nearest first.
        """
        path = f"{detection_path(detection_id)}/neighbours"
        return self._get(path, SearchAnswer, **_as_query(_options(k, options)))

    def detection(self, detection_id: str, *, with_vector: bool = False) -> Detection:
        """The fields of a detection.

        Args:
            detection_id: its id.
            with_vector: return its vector as well.

        Raises:
            ServiceError: 404 ``detection_not_found``.
        """
        vector = with_vector or None
        return self._get(detection_path(detection_id), Detection, with_vector=vector)

    def fetch(
        self,
        ids: Sequence[str],
        *,
        with_vector: bool = False,
        with_payload: bool | Sequence[str] = True,
    ) -> FetchAnswer:
        """Many detections by their ids.

        Args:
            ids: of the detections.
            with_vector: return their vectors as well.
            with_payload: return your own columns: all, none, or the names of some.

        Returns:
            Those that are in the index, in the order of ``ids``, and the ids that are not.

        Raises:
            ServiceError: 422 ``over_limit``.
        """
        body = {"ids": list(ids), "with_vector": with_vector, "with_payload": with_payload}
        return self._post("/v1/detections", FetchAnswer, json=body)

    def detections(
        self,
        where: str | None = None,
        *,
        ids: Sequence[str] | None = None,
        order_by: str | None = None,
        direction: Direction = "asc",
        limit: int = 50,
        offset: int = 0,
        with_vector: bool = False,
        with_payload: bool | Sequence[str] = True,
    ) -> DetectionPage:
        """A page of the detections that match, in the order of the index or of a column.

        Args:
            where: only rows that match this SQL condition.
            ids: only these detections, none for an empty list.
            order_by: any column; rows without a value come last.
            direction: ``asc`` or ``desc``.
            limit: most detections of the page.
            offset: detections to skip.
            with_vector, with_payload: as for ``fetch``.

        Returns:
            The page, and the number of detections in all pages.

        Raises:
            ServiceError: 422 ``invalid_filter``, ``invalid_column``.
        """
        params = drop_none(
            where=where,
            ids=None if ids is None else list(ids),
            order_by=order_by,
            direction=direction,
            limit=limit,
            offset=offset,
            with_vector=with_vector,
            with_payload=with_payload if isinstance(with_payload, bool) else list(with_payload),
        )
        return self._get("/v1/detections", DetectionPage, **_as_query(params))

    def facets(self, column: str, where: str | None = None, *, limit: int = 100) -> Facets:
        """The values of a column and the number of detections with each, most frequent first.

        Args:
            column: any column of the rows.
            where: count only rows that match this SQL condition.
            limit: most values.

        Raises:
            ServiceError: 422 ``invalid_column``, ``invalid_filter``.
        """
        return self._get("/v1/index/facets", Facets, column=column, where=where, limit=limit)


def _query(query: str | Vector) -> dict[str, str]:
    return {"detection_id": query} if isinstance(query, str) else {"vector": vector_text(query)}


def _examples(examples: Sequence[str | Vector]) -> list[str | list[float]]:
    return [
        each if isinstance(each, str) else np.asarray(each, np.float32).tolist()
        for each in examples
    ]


def _options(k: int, options: SearchOptions) -> dict[str, Any]:
    """Options as JSON."""
    given: dict[str, Any] = drop_none(k=k, **options)
    lists = [
        name for name in ("ids", "with_payload") if not isinstance(given.get(name, True), bool)
    ]
    return given | {name: list(given[name]) for name in lists}


def _as_query(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as a query or form has them, where one empty text is an empty list."""
    return {name: [""] if value == [] else value for name, value in fields.items()}
