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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from index.vectors import Ints, l1_normalise
from tracks.association.duplicates import expand_links, find_duplicates
from tracks.association.linker import Linker, Links
from tracks.association.options import TERMS, LinkOptions
from tracks.association.shift import Shift
from tracks.association.state import OpenTracks
from tracks.association.threads import one_thread
from tracks.live.frame import Frame
from tracks.live.order import Continuable, continuable, frame_number
from tracks.live.state import Head, State, in_size_of, seconds_of
from tracks.live.store import LinkStore
from tracks.live.transaction import Left
from tracks.store import track_id

IDLE_DAYS = 30
"""The open tracks of a sequence are closed when it was idle for so long."""

_SHOWN = 5  # names of sequences in one line of the log

logger = logging.getLogger("onepass.link")


@dataclass(frozen=True)
class Answer:
    """JSON of a linked frame."""

    body: bytes  # the same bytes for every repetition of the request
    repeated: bool  # whether the frame was linked by an earlier request
    # Number of detections that continue a track; 0 where repeated, as the next two.
    continued: int = 0
    started: int = 0  # number of detections that start a track
    weak: int = 0  # number of detections in no track
    duplicates: int = 0  # number of detections that repeat another one of the frame
    closed: int = 0  # number of idle sequences whose open tracks were closed to make room
    removed: int = 0  # number of idle sequences that were removed to make room


class _Linked(NamedTuple):
    links: Links
    kept: Ints  # the detection of which each one is a duplicate, itself where it is none
    tracks: OpenTracks  # open after the frame
    names: dict[int, str]  # ids of detections by their number
    started: int  # number of tracks so far
    rows: int  # number of detections so far, without duplicates
    before: Continuable  # the tracks before the frame
    shift: Shift | None  # by how much the camera moved before the frame

    def head(self, frame: Frame, number: int, options: LinkOptions, fingerprint: str) -> Head:
        return Head(
            frame=number,
            taken=frame.taken,
            started=self.started,
            rows=self.rows,
            last_ids=tuple(self.names[row] for row in self.tracks.row.tolist()),
            options=options,
            fingerprint=fingerprint,
            steps=self.before.steps,
            resumed=self.before.resumed,
            image_size=frame.image_size,
        )


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
            LinkStateError: the state cannot be read, or is damaged.
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
            FrameError: as ``frame_number``; or the open tracks would be larger than the file's caps
                allow.
            SnapshotError: a vector is zero or not finite.
            LinkStateError: the state cannot be read or written; nothing was changed.
        """
        embeddings = l1_normalise(frame.vectors, frame.ids)
        now = self._now()
        with self.store.write() as transaction:
            body = transaction.answer(frame.sequence, request_id, digest)
            if body is not None:
                return Answer(body, repeated=True)
            idle_before = now - IDLE_DAYS * 86_400
            state = transaction.state(frame.sequence, idle_before=idle_before)
            if state is None:
                transaction.close_idle(before=idle_before)
            number = frame_number(frame, state, self.options, now=now)
            restarted = state.cut_off(self.options, fingerprint) if state else None
            linked = self._step(frame, number, embeddings, state, restart=restarted is not None)
            restarted = restarted or linked.before.gap
            body = _body(frame, number, request_id, restarted, linked)
            transaction.save(
                frame.sequence,
                linked.head(frame, number, self.options, fingerprint),
                linked.tracks,
                touched=now,
                request_id=request_id,
                digest=digest,
                body=body,
            )
        _log_left(transaction.left)
        if restarted:
            logger.warning("sequence %r starts new tracks: %s", frame.sequence, restarted)
        left, single = transaction.left, linked.kept == np.arange(len(frame.ids))
        position = linked.links.position[single]
        return Answer(
            body,
            repeated=False,
            continued=int((position > 0).sum()),
            started=int((position == 0).sum()),
            weak=int((position < 0).sum()),
            duplicates=int((~single).sum()),
            closed=len(left.closed),
            removed=len(left.removed),
        )

    def state(self, sequence: str) -> State | None:
        """The state of a sequence; None where it has no frame yet.

        Raises:
            LinkStateError: the state cannot be read, or is damaged.
        """
        with self.store.read() as transaction:
            if transaction is None:
                return None
            return transaction.state(sequence, idle_before=self._now() - IDLE_DAYS * 86_400)

    def delete(self, sequence: str) -> bool:
        """Forget a sequence, damaged or not: its next frame is its first, and track 0 its first.

        Returns:
            False where no frame of it was linked.

        Raises:
            LinkStateError: the state cannot be written.
        """
        if not self.store.file.exists():
            return False
        with self.store.write() as transaction:
            return transaction.delete(sequence)

    def _step(
        self,
        frame: Frame,
        number: int,
        embeddings: npt.NDArray[np.float32],
        state: State | None,
        *,
        restart: bool,
    ) -> _Linked:
        """Link the frame with the open tracks of its sequence.

        Args:
            frame: the new frame.
            number: of the frame.
            embeddings: of its detections ``[N, D]``, L1-normalised.
            state: of the sequence.
            restart: close the open tracks, and continue only the counts.
        """
        linker = Linker(embeddings.shape[1], self.options, frame_step=frame.step)
        names: dict[int, str] = {}
        before = Continuable(linker.open, aside=linker.open)
        if state is not None:
            tracks = linker.open
            if state.tracks is not None and not restart:
                tracks = in_size_of(frame, state.tracks, state.head)
                names = dict(zip(tracks.row.tolist(), state.head.last_ids, strict=True))
            before = continuable(tracks, frame, number, state.head, self.options)
            linker.restore(before.tracks, started=state.head.started, rows=state.head.rows)
        one = np.zeros(len(frame.ids), dtype=np.int64)  # frame, of one image
        kept = find_duplicates(one, one, frame.boxes, embeddings.__getitem__, frame.scores)
        single = np.flatnonzero(kept == np.arange(len(kept)))
        names |= {linker.rows + at: frame.ids[row] for at, row in enumerate(single.tolist())}
        with one_thread():
            links = linker.step(
                number,
                frame.boxes[single],
                embeddings[single],
                diagonal_px=frame.diagonal_px,
                seconds=seconds_of(frame.taken),
                scores=None if frame.scores is None else frame.scores[single],
            )
        aside = before.aside
        if linker.shift is not None:
            aside = aside.moved(linker.shift.dx, linker.shift.dy)
        return _Linked(
            expand_links(links, kept),
            kept,
            OpenTracks.concatenate([linker.open, aside]),
            names,
            started=linker.tracks,
            rows=linker.rows,
            before=before,
            shift=linker.shift,
        )


def _log_left(left: Left) -> None:
    for names, what in ((left.closed, "closed the open tracks of"), (left.removed, "removed")):
        if names:
            shown = ", ".join(repr(name[:100]) for name in names[:_SHOWN])
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            logger.warning(
                "%s %d sequences that were idle for longest: %s%s", what, len(names), shown, more
            )


def _body(
    frame: Frame, number: int, request_id: str, restarted: str | None, linked: _Linked
) -> bytes:
    """JSON of the answer; arguments as in ``LiveLinker.link``."""
    return orjson.dumps(
        {
            "sequence": frame.sequence,
            "frame": number,
            "request_id": request_id,
            "restarted": restarted,
            # A track that two detections claimed (``cheapest``) occurs twice.
            "camera_move": linked.shift and [linked.shift.dx, linked.shift.dy],
            "tracks_open": len(np.unique(linked.tracks.track)),
            "detections": _detections(frame, linked),
        }
    )


def _detections(frame: Frame, linked: _Linked) -> list[dict[str, Any]]:
    """The rows of the answer, in the order of the request."""
    links, rows = linked.links, []
    for number, name in enumerate(frame.ids):
        track, previous = int(links.track[number]), int(links.previous[number])
        kept, terms = (
            int(linked.kept[number]),
            zip(TERMS, links.terms[number].tolist(), strict=True),
        )
        rows.append(
            {
                "detection_id": name,
                "track_id": None if track < 0 else track_id(frame.sequence, track),
                "position": None if track < 0 else int(links.position[number]),
                "previous_detection_id": None if previous < 0 else linked.names[previous],
                "cost": _or_none(links.cost[number]),
                **{f"cost_{term}": _or_none(value) for term, value in terms},
                "margin": _or_none(links.margin[number]),
                "duplicate_of": None if kept == number else frame.ids[kept],
                **(frame.more[number] if frame.more else {}),
            }
        )
    return rows


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
