"""A typed client of the service: one method a route, answers as models of ``api.schemas``."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from api.schemas.detections import Detection
from api.schemas.index import IndexSummary, Reloaded
from api.schemas.link import LinkAnswer, OpenSequence
from api.schemas.search import BatchAnswer, ImageSearchAnswer, SearchAnswer
from api.schemas.tracks import TrackDetail, TrackList
from common.errors import WorkError

Answer = TypeVar("Answer", bound=BaseModel)
Vector = NDArray[np.floating]


class ServiceError(WorkError):
    """The service answered with an error.

    Attributes:
        status: HTTP status.
        code: identifier to switch on; ``http_error`` if something other than the service answered.
        message: one line for people.
        request_id: the service's log has more under this id; None if the answer has none.
        retry_after: seconds to wait before trying again; None if the answer does not say.
    """

    def __init__(self, response: httpx.Response) -> None:
        try:
            error = response.json()["error"]
            self.code, self.message = str(error["code"]), str(error["message"])
        except (ValueError, KeyError, TypeError):
            self.code, self.message = "http_error", response.reason_phrase
        self.status = response.status_code
        self.request_id = response.headers.get("x-request-id")
        after = response.headers.get("retry-after", "")
        self.retry_after = int(after) if after.isdecimal() else None
        super().__init__(f"{self.status} {self.code}: {self.message}")


class Client:
    """A connection to one service; safe to share between threads.

    Every method raises ``ServiceError`` if the service answers with an error, and
    ``httpx.HTTPError`` if it does not answer.

    Example:
        ::

            with Client("http://127.0.0.1:8000", api_key="...") as client:
                for hit in client.search("trap-4/57-2", k=5, where="score > 0.5").hits:
                    print(hit.rank, hit.detection_id, hit.score)
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 60) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            url: address of the service, such as ``http://127.0.0.1:8000``.
            api_key: sent with every request; None sends none.
            timeout_s: seconds to wait for the service at each step of a request.
        """
        self._http = httpx.Client(
            base_url=url,
            headers={} if api_key is None else {"x-api-key": api_key},
            timeout=timeout_s,
            event_hooks={"response": [_raise_error]},
        )

    def search(
        self,
        query: str | Vector,
        k: int = 10,
        *,
        where: str | None = None,
        ids: Sequence[str] | None = None,
        include_features: bool = False,
        exact: bool = False,
    ) -> SearchAnswer:
        """Find the nearest detections to a detection or a vector.

        Args:
            query: a detection's id, which is not among its own hits, or a raw embedding ``[D]``.
            k: number of hits.
            where: only rows that match this SQL condition, such as ``"score > 0.5"``.
            ids: only these detections.
            include_features: return each hit's vector as well.
            exact: compare with every vector instead of using the approximate index.

        Returns:
            At most ``k`` hits, nearest first.

        Raises:
            ServiceError: 404 ``detection_not_found``; 422, the query or an option is not valid;
                429 ``too_busy``; 503, not ready.
        """
        options = _options(k, where, include_features, exact, ids)
        return self._post("/v1/search", SearchAnswer, json=_query(query) | options)

    def search_batch(
        self,
        queries: Sequence[str | Vector] | Vector,
        k: int = 10,
        *,
        where: str | None = None,
        ids: Sequence[str] | None = None,
        include_features: bool = False,
        exact: bool = False,
    ) -> BatchAnswer:
        """Find the nearest detections to each of many queries, all in one snapshot.

        Args:
            queries: Q ids or raw embeddings ``[D]``, mixed as you like, or one array ``[Q, D]``,
                which is sent most compactly.
            k, where, ids, include_features, exact: as for ``search``, the same for each query.

        Returns:
            Hits of each query, in the order of ``queries``.

        Raises:
            ServiceError: as for ``search``; one invalid query refuses the whole batch.
        """
        options = _options(k, where, include_features, exact, ids)
        body: dict[str, Any] = (
            {"vectors": _vector_text(queries)}
            if isinstance(queries, np.ndarray)
            else {"queries": [_query(query) for query in queries]}
        )
        return self._post("/v1/search/batch", BatchAnswer, json=body | options)

    def search_image(
        self,
        image: bytes,
        k: int = 10,
        *,
        where: str | None = None,
        include_features: bool = False,
        exact: bool = False,
    ) -> ImageSearchAnswer:
        """Classify an image and find the nearest detections to it, in one forward pass.

        Args:
            image: encoded as JPEG, PNG, WebP, TIFF, GIF or BMP.
            k, where, include_features, exact: as for ``search``.

        Returns:
            The predicted class, and at most ``k`` hits, nearest first.

        Raises:
            ServiceError: 413 ``too_large``; 422 ``invalid_image`` and as for ``search``;
                503 ``model_unavailable``.
        """
        options = _options(k, where, include_features, exact)
        files = {"image": image}
        return self._post("/v1/search/image", ImageSearchAnswer, files=files, data=options)

    def detection(self, detection_id: str) -> Detection:
        """The fields of a detection.

        Raises:
            ServiceError: 404 ``detection_not_found``.
        """
        return self._get(_detection_path(detection_id), Detection)

    def neighbors(self, detection_id: str, k: int = 10, where: str | None = None) -> SearchAnswer:
        """Find the nearest detections to a detection, which is not among them.

        Args:
            detection_id: the query.
            k, where: as for ``search``.

        Returns:
            At most ``k`` hits, nearest first.
        """
        path = f"{_detection_path(detection_id)}/neighbours"
        return self._get(path, SearchAnswer, k=k, where=where)

    def image(self, detection_id: str) -> bytes:
        """The crop of a detection, as JPEG.

        Raises:
            ServiceError: 404 ``detection_not_found``, ``image_missing`` or ``image_unreadable``.
        """
        return self._http.get(f"{_detection_path(detection_id)}/image").content

    def tracks(
        self, sequence: str | None = None, *, limit: int = 100, offset: int = 0
    ) -> TrackList:
        """A page of tracks, ordered by run, sequence, first frame and id.

        Args:
            sequence: only tracks of this sequence.
            limit: most tracks of the page.
            offset: tracks to skip.

        Returns:
            The page, and the number of tracks in all pages.

        Raises:
            ServiceError: 404 ``no_tracks``, no run of the index was linked.
        """
        return self._get("/v1/tracks", TrackList, sequence=sequence, limit=limit, offset=offset)

    def track(self, track_id: str, *, run: int | None = None) -> TrackDetail:
        """A track and its detections in order.

        Args:
            track_id: its id.
            run: position of its run in ``index().runs``; needed where two runs have this id.

        Raises:
            ServiceError: 404 ``track_not_found``; 422 ``ambiguous_track``.
        """
        return self._get(f"/v1/tracks/{quote(track_id, safe='')}", TrackDetail, run=run)

    def link(
        self,
        sequence: str,
        boxes: Sequence[Sequence[float]] | Vector,
        *,
        request_id: str,
        vectors: Vector | None = None,
        crops: Sequence[bytes] | None = None,
        image: bytes | None = None,
        size: tuple[int, int] | None = None,
        ids: Sequence[str] | None = None,
        scores: Sequence[float] | None = None,
        frame: int | None = None,
        frame_step: int | None = None,
        timestamp: datetime | str | None = None,
    ) -> LinkAnswer:
        """Link a new frame of a camera; if no answer came, send it again unchanged.

        Give one of ``vectors``, ``crops`` and ``image``.

        Args:
            sequence: camera and session.
            boxes: of the N detections, ``[N, 4]`` as x1, y1, x2, y2 in pixels; N may be 0.
            request_id: names this frame within its sequence.
            vectors: raw embeddings ``[N, D]``.
            crops: N encoded images.
            image: the whole frame, encoded.
            size: width and height of the frame in pixels; not with ``image``.
            ids: N names of the detections; None makes them of ``request_id``.
            scores: N scores of the detector; None counts all detections as strong.
            frame: number of this frame; None is one step after the last one.
            frame_step: difference of the numbers of neighbouring frames; None is 1.
            timestamp: when the frame was taken, in the camera's time; as text in ISO 8601.

        Returns:
            The track of each detection, and what its link cost.

        Raises:
            ServiceError: 409 ``clash``, the frame is not later than the last one or the request id
                was used for another frame; 422, an argument is not valid; 429 ``too_busy``;
                503 ``link_unavailable``.
        """
        columns = _drop_none(
            box=[[float(side) for side in box] for box in boxes],
            vector=None if vectors is None else [_vector_text(vector) for vector in vectors],
            image=None if crops is None else [_base64(crop) for crop in crops],
            detection_id=ids,
            score=scores,
        )
        rows = zip(*columns.values(), strict=True)
        width, height = size or (None, None)
        body = _drop_none(
            sequence=sequence,
            request_id=request_id,
            frame=frame,
            frame_step=frame_step,
            timestamp=timestamp.isoformat() if isinstance(timestamp, datetime) else timestamp,
            image=None if image is None else _base64(image),
            image_width=width,
            image_height=height,
            detections=[dict(zip(columns, row, strict=True)) for row in rows],
        )
        return self._post("/v1/link", LinkAnswer, json=body)

    def open_tracks(self, sequence: str) -> OpenSequence:
        """The last frame of a sequence and the tracks that its next frame may continue.

        Raises:
            ServiceError: 404 ``sequence_not_found``, no frame of it was linked.
        """
        return self._get("/v1/link", OpenSequence, sequence=sequence)

    def index(self) -> IndexSummary:
        """The snapshot being served and its model.

        Raises:
            ServiceError: 503, not ready, or the object store of the index does not answer.
        """
        return self._get("/v1/index", IndexSummary)

    def reload(self) -> Reloaded:
        """Serve the index's current version now.

        Raises:
            ServiceError: 503 ``reload_failed``; the earlier version is still served.
        """
        return self._post("/v1/index/reload", Reloaded)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, path: str, answer: type[Answer], **params: Any) -> Answer:
        response = self._http.get(path, params=_drop_none(**params))
        return answer.model_validate_json(response.content)

    def _post(self, path: str, answer: type[Answer], **body: Any) -> Answer:
        return answer.model_validate_json(self._http.post(path, **body).content)


def _raise_error(response: httpx.Response) -> None:
    if not response.is_success:
        response.read()
        raise ServiceError(response)


def _query(query: str | Vector) -> dict[str, str]:
    return {"detection_id": query} if isinstance(query, str) else {"vector": _vector_text(query)}


def _options(
    k: int, where: str | None, include_features: bool, exact: bool, ids: Sequence[str] | None = None
) -> dict[str, Any]:
    return _drop_none(
        k=k,
        where=where,
        ids=None if ids is None else list(ids),
        include_features=include_features or None,
        exact=exact or None,
    )


def _drop_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _vector_text(vectors: Vector) -> str:
    return _base64(np.ascontiguousarray(vectors, "<f4").tobytes())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _detection_path(detection_id: str) -> str:
    return f"/v1/detections/{quote(detection_id, safe='')}"
