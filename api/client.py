"""A typed client of the service: one method a route, answers as the models of ``api.schemas.search``.

::

    with Client("http://127.0.0.1:8000", api_key="...") as client:
        for hit in client.search("trap-4/57-2", k=5, where="score > 0.5").hits:
            print(hit.rank, hit.detection_id, hit.score)
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
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

Answer = TypeVar("Answer", bound=BaseModel)
Vector = NDArray[np.floating]


class ServiceError(Exception):
    """The service's answer was an error.

    Attributes:
        status: HTTP status.
        code: what to switch on; ``http_error`` where something else than the service answered.
        request_id: under this id the service's log tells more; None if it gave none.
        retry_after: seconds after which asking again is worth it; None if it did not say.
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

    Every method raises ``ServiceError`` for an answer that is an error, and ``httpx``'s own
    errors where there is no answer. A query is a detection's id or a raw embedding [D].
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 60) -> None:
        headers = {} if api_key is None else {"x-api-key": api_key}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)

    def search(self, query: str | Vector, k: int = 10, **wishes: Any) -> SearchAnswer:
        """The nearest detections; ``wishes``: where, ids, include_features, exact."""
        return self._post("/v1/search", SearchAnswer, _query(query) | {"k": k} | wishes)

    def search_batch(
        self, queries: Sequence[str | Vector] | Vector, k: int = 10, **wishes: Any
    ) -> BatchAnswer:
        """The nearest detections of many queries; vectors [Q, D] are sent most compactly."""
        body: dict[str, Any]
        if isinstance(queries, np.ndarray):
            body = {"vectors": _text(queries)}
        else:
            body = {"queries": [_query(query) for query in queries]}
        return self._post("/v1/search/batch", BatchAnswer, body | {"k": k} | wishes)

    def search_image(self, image: bytes, k: int = 10, **wishes: Any) -> ImageSearchAnswer:
        """Class of an encoded image and what is nearest; ``wishes``: all but ids."""
        form = {"k": k} | wishes
        response = self._http.post("/v1/search/image", files={"image": image}, data=form)
        return _read(response, ImageSearchAnswer)

    def detection(self, detection_id: str) -> Detection:
        """What the index knows of a detection."""
        return self._get(_path(detection_id), Detection)

    def neighbours(self, detection_id: str, k: int = 10, where: str | None = None) -> SearchAnswer:
        """The nearest detections to a detection."""
        return self._get(f"{_path(detection_id)}/neighbours", SearchAnswer, k=k, where=where)

    def image(self, detection_id: str) -> bytes:
        """The crop of a detection, as JPEG."""
        return _good(self._http.get(f"{_path(detection_id)}/image")).content

    def tracks(
        self, sequence: str | None = None, *, limit: int = 100, offset: int = 0
    ) -> TrackList:
        """A page of tracks."""
        return self._get("/v1/tracks", TrackList, sequence=sequence, limit=limit, offset=offset)

    def track(self, track_id: str, *, run: int | None = None) -> TrackDetail:
        """A track and its detections; ``run`` where two runs have a track of one id."""
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
        **more: Any,
    ) -> LinkAnswer:
        """Link a new frame; send it again, unchanged, if no answer came.

        Args:
            sequence: camera and session.
            boxes: of the N detections, ``[N, 4]`` as x1, y1, x2, y2 in pixels; N may be 0.
            request_id: names this frame within its sequence.
            vectors, crops, image: one of them: raw embeddings ``[N, D]``, N encoded images, or
                the whole frame, encoded.
            size: width and height of the frame in pixels; not with ``image``.
            ids: names of the detections.
            scores: of the detector.
            more: frame, frame_step, timestamp (ISO 8601).
        """
        columns: dict[str, Sequence[Any] | None] = {
            "box": [[float(side) for side in box] for box in boxes],
            "vector": None if vectors is None else [_text(vector) for vector in vectors],
            "image": None if crops is None else [_base64(crop) for crop in crops],
            "detection_id": ids,
            "score": scores,
        }
        given = {name: column for name, column in columns.items() if column is not None}
        body: dict[str, Any] = {"sequence": sequence, "request_id": request_id, **more}
        body["detections"] = [
            dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)
        ]
        if image is not None:
            body["image"] = _base64(image)
        if size is not None:
            body["image_width"], body["image_height"] = size
        return self._post("/v1/link", LinkAnswer, body)

    def open_tracks(self, sequence: str) -> OpenSequence:
        """Where a sequence stands: its last frame and the tracks that may go on."""
        return self._get("/v1/link", OpenSequence, sequence=sequence)

    def index(self) -> IndexSummary:
        """What is being served."""
        return self._get("/v1/index", IndexSummary)

    def reload(self) -> Reloaded:
        """Have the index's current version served, now."""
        return _read(self._http.post("/v1/index/reload"), Reloaded)

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, path: str, answer: type[Answer], **params: Any) -> Answer:
        given = {name: value for name, value in params.items() if value is not None}
        return _read(self._http.get(path, params=given), answer)

    def _post(self, path: str, answer: type[Answer], body: dict[str, Any]) -> Answer:
        return _read(self._http.post(path, json=body), answer)


def _query(query: str | Vector) -> dict[str, str]:
    return {"detection_id": query} if isinstance(query, str) else {"vector": _text(query)}


def _text(vectors: Vector) -> str:
    return _base64(np.ascontiguousarray(vectors, "<f4").tobytes())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _path(detection_id: str) -> str:
    return f"/v1/detections/{quote(detection_id, safe='')}"


def _good(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        raise ServiceError(response)
    return response


def _read(response: httpx.Response, answer: type[Answer]) -> Answer:
    return answer.model_validate_json(_good(response).content)
