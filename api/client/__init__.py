"""A typed client of the service: one method a route, answers as models of ``api.schemas``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Self
from urllib.parse import quote

import httpx

from api.client.requests import (
    ServiceError,
    Vector,
    base64_text,
    detection_path,
    drop_none,
    raise_error,
    vector_text,
)
from api.client.searches import Searches, SearchOptions
from api.schemas.index import IndexSummary, Reloaded
from api.schemas.link import LinkAnswer, OpenSequence
from api.schemas.tracks import TrackDetail, TrackList

__all__ = ["Client", "SearchOptions", "ServiceError"]


class Client(Searches):
    """A connection to one service; safe to share between threads.

    Every method raises ``ServiceError`` if the service answers with an error, and
    ``httpx.HTTPError`` if it does not answer. Errors of any route are 401 ``unauthorised``, 403
    ``forbidden`` (the key lacks the right that the route needs) and 503 ``too_busy``, after which
    ``retry_after`` says when to try again.

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
            event_hooks={"response": [raise_error]},
        )

    def image(self, detection_id: str) -> bytes:
        """The crop of a detection, as JPEG.

        Raises:
            ServiceError: 404 ``detection_not_found``, ``image_missing`` or ``image_unreadable``.
        """
        return self._http.get(f"{detection_path(detection_id)}/image").content

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
        allow_jump: bool | None = None,
        box_frame: Literal["upright", "stored"] | None = None,
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
            allow_jump: the number or time is right although it is far ahead of the last one.
            box_frame: of which image the boxes are: ``upright`` (None), as it is shown, or
                ``stored``, of the pixels before EXIF turns them, which needs ``image``.

        Returns:
            The track of each detection, and what its link cost.

        Raises:
            ServiceError: 409 ``clash``, the frame is not later than the last one or the request id
                was used for another frame; 409 ``link_damaged``, see ``delete_sequence``; 422, an
                argument is not valid, or the frame is far ahead of the last one; 429 ``too_busy``;
                503 ``link_unavailable``; 503 ``link_full``, no room for the sequence.
        """
        columns = drop_none(
            box=[[float(side) for side in box] for box in boxes],
            vector=None if vectors is None else [vector_text(vector) for vector in vectors],
            image=None if crops is None else [base64_text(crop) for crop in crops],
            detection_id=ids,
            score=scores,
        )
        rows = zip(*columns.values(), strict=True)
        width, height = size or (None, None)
        body = drop_none(
            sequence=sequence,
            request_id=request_id,
            frame=frame,
            frame_step=frame_step,
            timestamp=timestamp.isoformat() if isinstance(timestamp, datetime) else timestamp,
            image=None if image is None else base64_text(image),
            image_width=width,
            image_height=height,
            allow_jump=allow_jump,
            box_frame=box_frame,
            detections=[dict(zip(columns, row, strict=True)) for row in rows],
        )
        return self._post("/v1/link", LinkAnswer, json=body)

    def open_tracks(self, sequence: str) -> OpenSequence:
        """The last frame of a sequence and the tracks that its next frame may continue.

        Raises:
            ServiceError: 404 ``sequence_not_found``, no frame of it was linked; 409
                ``link_damaged``, its state cannot be read.
        """
        return self._get(_sequence_path(sequence), OpenSequence)

    def delete_sequence(self, sequence: str) -> None:
        """Forget a sequence, damaged or not: its next frame is its first, and track 0 its first.

        Raises:
            ServiceError: 404 ``sequence_not_found``, no frame of it was linked.
        """
        self._http.delete(_sequence_path(sequence))

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


def _sequence_path(sequence: str) -> str:
    """Path of a sequence, whose name may hold any character, and be ``..``."""
    return f"/v1/link/{quote(sequence, safe='').replace('.', '%2E')}"
