"""A new frame, linked with the open tracks of its sequence.

Every frame is one transaction of ``store``: check whether the request was answered before, read
the sequence, link, write the sequence and the answer. So a request may be repeated after any
failure and is linked once, and any process that has the file may answer the next frame.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from common.errors import ClashError, FrameError
from index.vectors import l1_normalise
from tracks.association.linker import Linker, Links
from tracks.association.options import TERMS, LinkOptions
from tracks.association.threads import one_thread
from tracks.live.state import Head, State, seconds_of
from tracks.live.store import LinkStore
from tracks.store import track_id

IDLE_DAYS = 30
"""The open tracks of a sequence are closed when it was idle for so long."""

logger = logging.getLogger("onepass.link")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The N detections of one new frame; N may be 0."""

    sequence: str  # camera and session
    number: int | None = None  # above all earlier ones; None: one step after the last
    step: int = 1  # usual difference of the numbers of neighbouring frames, the unit of gaps
    # Time of the frame; needed where the options have max_gap_seconds.
    taken: datetime | None = None
    diagonal_px: float  # of the image, in pixels
    ids: list[str]  # of the detections, none twice
    boxes: npt.NDArray[np.float64]  # [N, 4] as x1, y1, x2, y2 in pixels, finite
    vectors: npt.NDArray[np.float32]  # [N, D] raw embeddings
    # Of the detector [N], NaN for none; for strong_score.
    scores: npt.NDArray[np.float64] | None = None
    # Additional fields of each detection, copied into the answer.
    more: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Answer:
    """JSON of a linked frame."""

    body: bytes  # the same bytes for every repetition of the request
    repeated: bool  # whether the frame was linked by an earlier request
    # Number of detections that continue a track; 0 where repeated, as the next two.
    continued: int = 0
    started: int = 0  # number of detections that start a track
    weak: int = 0  # number of detections in no track


class LiveLinker:
    """Links frames one by one; safe to share between threads and, through the file, processes.

    Args:
        store: of the sequences.
        options: of linking, for all of them.
        now: clock that measures idle days, in seconds since 1970.
    """

    def __init__(
        self, store: LinkStore, options: LinkOptions, *, now: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self.options = options
        self._now = now

    def stored_answer(self, sequence: str, request_id: str, digest: bytes) -> bytes | None:
        """The answer to an earlier request, as ``Transaction.answer``.

        Args:
            sequence: name of the sequence.
            request_id: of the request.
            digest: of all its contents.

        Raises:
            ClashError: the id was used for a request with another digest.
            LinkStateError: the state cannot be read.
        """
        with self.store.read() as transaction:
            if transaction is None:
                return None
            return transaction.answer(sequence, request_id, digest)

    def link(self, frame: Frame, *, request_id: str, digest: bytes, fingerprint: str) -> Answer:
        """Link a frame, or repeat the answer to an earlier request.

        Args:
            frame: the detections.
            request_id: unique among the requests of its sequence.
            digest: of all contents of the request; another one under the same id is refused.
            fingerprint: of the model that made the vectors.

        Raises:
            ClashError: the id was used for another request, or the frame is not later than the
                last one.
            FrameError: ``max_gap_seconds`` without a time, or with one before the last frame's.
            SnapshotError: a vector is zero or not finite.
            LinkStateError: the state cannot be read or written; nothing was changed.
        """
        embeddings = l1_normalise(frame.vectors, frame.ids)
        with self.store.write() as transaction:
            body = transaction.answer(frame.sequence, request_id, digest)
            if body is not None:
                return Answer(body, repeated=True)
            idle_before = self._idle_before()
            state = transaction.state(frame.sequence, idle_before=idle_before)
            if state is None and (closed := transaction.close_idle(before=idle_before)):
                logger.info(
                    "closed the open tracks of %d sequences without a frame for %d days",
                    closed,
                    IDLE_DAYS,
                )
            number = self._number(frame, state)
            restarted = state.cut_off(self.options, fingerprint) if state else None
            linker, names = self._linker(
                frame, embeddings.shape[1], state, restart=restarted is not None
            )
            with one_thread():
                links = linker.step(
                    number,
                    frame.boxes,
                    embeddings,
                    diagonal_px=frame.diagonal_px,
                    seconds=seconds_of(frame.taken),
                    scores=frame.scores,
                )
            body = orjson.dumps(
                {
                    "sequence": frame.sequence,
                    "frame": number,
                    "request_id": request_id,
                    "restarted": restarted,
                    # A track that two detections claimed (``cheapest``) occurs twice.
                    "tracks_open": len(np.unique(linker.open.track)),
                    "detections": _detections(frame, links, names),
                }
            )
            head = Head(
                frame=number,
                taken=frame.taken,
                started=linker.tracks,
                rows=linker.rows,
                last_ids=tuple(names[row] for row in linker.open.row.tolist()),
                options=self.options,
                fingerprint=fingerprint,
            )
            transaction.save(
                frame.sequence,
                head,
                linker.open,
                touched=self._now(),
                request_id=request_id,
                digest=digest,
                body=body,
            )
        if restarted:
            logger.warning("sequence %r starts new tracks: %s", frame.sequence, restarted)
        weak, started = int((links.track < 0).sum()), int((links.position == 0).sum())
        return Answer(body, False, len(frame.ids) - weak - started, started, weak)

    def state(self, sequence: str) -> State | None:
        """The state of a sequence; None where it has no frame yet.

        Raises:
            LinkStateError: the state cannot be read.
        """
        with self.store.read() as transaction:
            if transaction is None:
                return None
            return transaction.state(sequence, idle_before=self._idle_before())

    def _idle_before(self) -> float:
        return self._now() - IDLE_DAYS * 86_400

    def _linker(
        self, frame: Frame, dim: int, state: State | None, *, restart: bool
    ) -> tuple[Linker, dict[int, str]]:
        """A linker in the state of the sequence, and the ids of detections by their number.

        Args:
            frame: the new frame.
            dim: length of an embedding.
            state: of the sequence.
            restart: close the open tracks, and continue only the counts.
        """
        linker = Linker(dim, self.options, frame_step=frame.step)
        names: dict[int, str] = {}
        if state is not None:
            tracks = linker.open
            if state.tracks is not None and not restart:
                tracks = state.tracks
                names = dict(zip(tracks.row.tolist(), state.head.last_ids, strict=True))
            linker.restore(tracks, started=state.head.started, rows=state.head.rows)
        return linker, names | dict(enumerate(frame.ids, linker.rows))

    def _number(self, frame: Frame, state: State | None) -> int:
        """Number of the frame, after checking that it and its time are later than the last."""
        name = f"sequence {frame.sequence[:100]!r}"
        max_gap = self.options.max_gap_seconds
        if max_gap is not None and frame.taken is None:
            raise FrameError(
                f"this server links with max_gap_seconds {max_gap:g}, so a frame needs a timestamp; "
                "send when it was taken"
            )
        if state is None:
            return 0 if frame.number is None else frame.number
        last = state.head.frame
        if frame.number is not None and frame.number <= last:
            raise ClashError(
                f"frame {frame.number} of {name} is not later than the last one, {last}; send "
                "later frames, or leave 'frame' out to number them automatically"
            )
        if max_gap is not None and seconds_of(frame.taken) < seconds_of(state.head.taken):
            raise FrameError(
                f"frame of {name} was taken at {frame.taken}, before the last one at "
                f"{state.head.taken}, and this server links with max_gap_seconds; correct the "
                "camera's clock, or start a new sequence"
            )
        return last + frame.step if frame.number is None else frame.number


def _detections(frame: Frame, links: Links, names: dict[int, str]) -> list[dict[str, Any]]:
    """The rows of the answer, in the order of the request."""
    rows = []
    for number, name in enumerate(frame.ids):
        track, previous = int(links.track[number]), int(links.previous[number])
        terms = zip(TERMS, links.terms[number].tolist(), strict=True)
        rows.append(
            {
                "detection_id": name,
                "track_id": None if track < 0 else track_id(frame.sequence, track),
                "position": None if track < 0 else int(links.position[number]),
                "previous_detection_id": None if previous < 0 else names[previous],
                "cost": _or_none(links.cost[number]),
                **{f"cost_{term}": _or_none(value) for term, value in terms},
                "margin": _or_none(links.margin[number]),
                **(frame.more[number] if frame.more else {}),
            }
        )
    return rows


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
