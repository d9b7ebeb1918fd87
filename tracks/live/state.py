"""The state of a sequence between two frames, and its conversion to bytes and back."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from common.errors import first_line
from common.json_models import JsonModel
from tracks.association.options import LinkOptions
from tracks.association.state import OpenTracks
from tracks.geometry import scale_factors
from tracks.live.frame import Frame

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
logger = logging.getLogger("onepass.link")

_APPEARANCE = "looks"  # name of the array in stored states since 0.1.0


class Head(JsonModel):
    """The state but for the open tracks; stored as JSON, so that a person can read it."""

    frame: int  # number of the last linked frame
    taken: datetime | None  # its time, if it was given
    started: int  # number of tracks so far
    rows: int  # number of detections so far
    last_ids: tuple[str, ...]  # id of the last detection of each open track
    options: LinkOptions  # of linking
    fingerprint: str  # of the model that made the embeddings
    # Its last times between frames, in seconds; none in the states of earlier versions.
    steps: tuple[float, ...] = ()
    # When frames came again after a gap far beyond its rhythm, in seconds since 1970.
    resumed: float | None = None
    # Width and height of the last image, in pixels; None in states of earlier versions.
    image_size: tuple[float, float] | None = None


@dataclass(frozen=True)
class State:
    """State of a sequence."""

    head: Head
    tracks: OpenTracks | None  # None where it was idle for so long that they were closed
    touched: float  # when its last frame came, in seconds since 1970
    size: int  # bytes that it takes, with the answers that are kept

    def cut_off(self, options: LinkOptions, fingerprint: str) -> str | None:
        """Why its open tracks cannot continue with these options and model; None: they can."""
        if self.tracks is None:
            return "nothing came for so long that its open tracks were closed"
        if self.head.fingerprint != fingerprint:
            return "its open tracks were made with another model than the one served now"
        before, now = self.head.options.model_dump(), options.model_dump()
        changed = [
            f"{name} {before[name]} to {now[name]}" for name in now if before[name] != now[name]
        ]
        if changed:
            return f"the link options changed: {', '.join(changed)}"
        return None


def pack(tracks: OpenTracks) -> bytes:
    """Open tracks as the bytes of an npz file."""
    arrays = vars(tracks) | {_APPEARANCE: tracks.appearance}
    del arrays["appearance"]
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def unpack(data: bytes, *, count: int) -> OpenTracks:
    """The open tracks in the result of ``pack``.

    Args:
        data: the bytes.
        count: how many tracks there must be.

    Raises:
        ValueError: they are damaged, or another version stored them.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            stored = dict(arrays)
        tracks = OpenTracks(appearance=stored.pop(_APPEARANCE), **stored)
    except Exception as error:  # whatever zipfile and NumPy raise for bytes that are none of theirs
        raise ValueError(f"its open tracks cannot be read ({first_line(error)})") from None
    if {len(column) if column.ndim else -1 for column in vars(tracks).values()} != {count}:
        raise ValueError("its open tracks are not as many as it says")
    return tracks


def seconds_of(taken: datetime | None) -> float:
    """Seconds since 1970, NaN for None; a time without a zone is UTC."""
    if taken is None:
        return float("nan")
    return ((taken if taken.tzinfo else taken.replace(tzinfo=UTC)) - _EPOCH).total_seconds()


def in_size_of(frame: Frame, tracks: OpenTracks, head: Head) -> OpenTracks:
    """The open tracks as if their images had the size of the new frame."""
    if head.image_size is None or head.image_size == frame.image_size:
        return tracks
    factors = scale_factors(np.array(head.image_size), np.array(frame.image_size))
    if np.isnan(factors).any():
        logger.warning(
            "sequence %r: its images were %gx%g and are %gx%g now, another shape; boxes are compared as "
            "they are. If these are several cameras, give each a sequence of its own",
            frame.sequence[:100],
            *head.image_size,
            *frame.image_size,
        )
        return tracks
    return tracks.scaled(*factors.tolist())
