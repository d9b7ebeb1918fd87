"""A frame that has just been taken, linked against the open tracks of its sequence.

Every frame is one transaction of ``store``: look whether the request was answered before, read
the sequence, link, write the sequence and the answer. So a request may be sent again after any
accident and is linked once, and any process that has the file may answer the next frame.
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
from tracks.live.state import Head, State, pack, seconds_of, unpack
from tracks.live.store import LinkStore, SequenceRow, StoredAnswer
from tracks.store import track_id

IDLE_DAYS = 30
"""The open tracks of a sequence are closed when nothing came for so long."""

logger = logging.getLogger("onepass.link")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The N detections of one new frame; N may be 0.

    Attributes:
        sequence: camera and session.
        number: later than any before; None: one step after the last.
        step: how far apart neighbouring frames are numbered; gaps are counted in it.
        taken: when; needed where the options have ``max_gap_seconds``.
        diagonal_px: of the image.
        ids: of the detections, none twice.
        boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels, finite.
        vectors: ``[N, D]`` raw embeddings.
        scores: of the detector ``[N]``, NaN for none; for ``strong_score``.
        more: fields of each detection that the answer repeats as they are.
    """

    sequence: str
    number: int | None = None
    step: int = 1
    taken: datetime | None = None
    diagonal_px: float
    ids: list[str]
    boxes: npt.NDArray[np.float64]
    vectors: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float64] | None = None
    more: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Answer:
    """JSON of a linked frame.

    Attributes:
        body: the same bytes, however often it is asked for.
        repeated: it was linked before, and not again.
        continued, started, weak: how many detections went on with a track, began one, or are in
            none; all 0 where it was repeated.
    """

    body: bytes
    repeated: bool
    continued: int = 0
    started: int = 0
    weak: int = 0


class LiveLinker:
    """Links frames as they come; safe to share between threads and, by the file, processes.

    Args:
        store: where sequences are kept.
        options: of linking, for all of them.
        now: the clock that idle days are counted with.
    """

    def __init__(
        self, store: LinkStore, options: LinkOptions, *, now: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self.options = options
        self._now = now

    def answered(self, sequence: str, request_id: str, digest: bytes) -> bytes | None:
        """What was answered to a request before; None if it was not, or not lately.

        Raises:
            ClashError: the id was used for another request; ``digest`` tells them apart.
            LinkStateError: the state cannot be read.
        """
        with self.store.look() as turn:
            kept = None if turn is None else turn.answer(sequence, request_id)
        return _matching_answer(kept, sequence, request_id, digest)

    def link(self, frame: Frame, *, request_id: str, digest: bytes, fingerprint: str) -> Answer:
        """Link a frame, or give the answer again that it had.

        Args:
            frame: what was seen.
            request_id: names this request among those of its sequence.
            digest: of all that was asked; another one under the same id is refused.
            fingerprint: of the model that made the vectors.

        Raises:
            ClashError: the id was used for another request, or the frame is not later than the
                last one.
            FrameError: ``max_gap_seconds`` without a time, or with one before the last frame's.
            SnapshotError: a vector is zero or not finite.
            LinkStateError: the state cannot be read or written; nothing was changed.
        """
        looks = l1_normalise(frame.vectors, frame.ids)
        with self.store.turn() as turn:
            before = _matching_answer(
                turn.answer(frame.sequence, request_id), frame.sequence, request_id, digest
            )
            if before is not None:
                return Answer(before, repeated=True)
            row = turn.row(frame.sequence)
            if row is None:
                closed = turn.close_idle(before=self._idle_before())
                if closed:
                    logger.info(
                        "closed the open tracks of %d sequences without a frame for %d days",
                        *(closed, IDLE_DAYS),
                    )
            state = None if row is None else self._state(row)
            number = self._number(frame, state)
            restarted = state.cut_off(self.options, fingerprint) if state else None
            linker, names = self._restored(frame, looks.shape[1], state, anew=restarted is not None)
            with one_thread():
                links = linker.step(
                    number,
                    frame.boxes,
                    looks,
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
                    # A track that two detections claimed (``cheapest``) stands twice.
                    "tracks_open": len(np.unique(linker.open.track)),
                    "detections": _detections(frame, links, names),
                }
            )
            head = Head(
                frame=number,
                taken=frame.taken,
                started=linker.tracks,
                rows=linker.rows,
                last_ids=tuple(names[at] for at in linker.open.row.tolist()),
                options=self.options,
                fingerprint=fingerprint,
            )
            revision = 1 if row is None else row.revision + 1
            turn.save(
                frame.sequence,
                SequenceRow(revision, self._now(), head.model_dump_json(), pack(linker.open)),
                request_id,
                StoredAnswer(digest, body),
            )
        if restarted:
            logger.warning("sequence %r starts new tracks: %s", frame.sequence, restarted)
        weak, started = int((links.track < 0).sum()), int((links.position == 0).sum())
        return Answer(body, False, len(frame.ids) - weak - started, started, weak)

    def state(self, sequence: str) -> State | None:
        """Where a sequence stands; None where no frame of it ever came.

        Raises:
            LinkStateError: the state cannot be read.
        """
        with self.store.look() as turn:
            row = None if turn is None else turn.row(sequence)
        return None if row is None else self._state(row)

    def _idle_before(self) -> float:
        return self._now() - IDLE_DAYS * 86_400

    def _state(self, row: SequenceRow) -> State:
        tracks = None
        if row.tracks is not None and row.touched >= self._idle_before():
            tracks = unpack(row.tracks)
        return State(Head.model_validate_json(row.head), tracks)

    def _restored(
        self, frame: Frame, dim: int, state: State | None, *, anew: bool
    ) -> tuple[Linker, dict[int, str]]:
        """A linker that goes on where the sequence stands, and the names of numbered detections.

        ``anew``: without the open tracks of before, but counting on.
        """
        linker = Linker(dim, self.options, frame_step=frame.step)
        names: dict[int, str] = {}
        if state is not None:
            tracks = linker.open
            if state.tracks is not None and not anew:
                tracks = state.tracks
                names = dict(zip(tracks.row.tolist(), state.head.last_ids, strict=True))
            linker.restore(tracks, started=state.head.started, rows=state.head.rows)
        return linker, names | dict(enumerate(frame.ids, linker.rows))

    def _number(self, frame: Frame, state: State | None) -> int:
        """The frame's number, if it and its time follow on what was there."""
        named = f"sequence {frame.sequence[:100]!r}"
        wanted = self.options.max_gap_seconds
        if wanted is not None and frame.taken is None:
            raise FrameError(
                f"this server links with max_gap_seconds {wanted:g}, so a frame needs a timestamp; "
                "send when it was taken"
            )
        if state is None:
            return 0 if frame.number is None else frame.number
        last = state.head.frame
        if frame.number is not None and frame.number <= last:
            raise ClashError(
                f"frame {frame.number} of {named} is not later than the last one, {last}; send "
                "later frames, or leave 'frame' out to have it counted on"
            )
        if wanted is not None and seconds_of(frame.taken) < seconds_of(state.head.taken):
            raise FrameError(
                f"frame of {named} was taken at {frame.taken}, before the last one at "
                f"{state.head.taken}, and this server links with max_gap_seconds; correct the "
                "camera's clock, or begin a new sequence"
            )
        return last + frame.step if frame.number is None else frame.number


def _matching_answer(
    kept: StoredAnswer | None, sequence: str, request_id: str, digest: bytes
) -> bytes | None:
    if kept is None:
        return None
    if kept.digest != digest:
        raise ClashError(
            f"request_id {request_id[:100]!r} of sequence {sequence[:100]!r} was answered before, "
            "to another request; give every frame an id of its own, and repeat a request unchanged"
        )
    return kept.body


def _detections(frame: Frame, links: Links, names: dict[int, str]) -> list[dict[str, Any]]:
    """What the answer says of each detection, in the order they were sent."""
    made = []
    for at, name in enumerate(frame.ids):
        track, previous = int(links.track[at]), int(links.previous[at])
        terms = zip(TERMS, links.terms[at].tolist(), strict=True)
        made.append(
            {
                "detection_id": name,
                "track_id": None if track < 0 else track_id(frame.sequence, track),
                "position": None if track < 0 else int(links.position[at]),
                "previous_detection_id": None if previous < 0 else names[previous],
                "cost": _known(links.cost[at]),
                **{f"cost_{term}": _known(value) for term, value in terms},
                "margin": _known(links.margin[at]),
                **(frame.more[at] if frame.more else {}),
            }
        )
    return made


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
