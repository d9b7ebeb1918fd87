"""What is known of a sequence between two frames, and its way to bytes and back."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np

from common.errors import LinkStateError
from common.json_models import JsonModel
from tracks.association.options import LinkOptions
from tracks.association.state import OpenTracks

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Head(JsonModel):
    """All but the open tracks themselves; stored as JSON, so that a person can read it."""

    frame: int  # the last one that was linked
    taken: datetime | None  # when it was taken, if that was said
    started: int  # tracks
    rows: int  # detections seen
    last_ids: tuple[str, ...]  # of each open track, its last detection
    options: LinkOptions
    fingerprint: str  # of the model whose embeddings the tracks are compared by


@dataclass(frozen=True)
class State:
    """A sequence; ``tracks`` is None where they were closed because nothing came for long."""

    head: Head
    tracks: OpenTracks | None

    def cut_off(self, options: LinkOptions, fingerprint: str) -> str | None:
        """Why its open tracks cannot go on under these; None: they can."""
        if self.tracks is None:
            return "nothing came for so long that its open tracks were closed"
        if self.head.fingerprint != fingerprint:
            return "its open tracks were made with another model than the one served now"
        before, now = asdict(self.head.options), asdict(options)
        changed = [
            f"{name} {before[name]} to {now[name]}" for name in now if before[name] != now[name]
        ]
        if changed:
            return f"the link options changed: {', '.join(changed)}"
        return None


def pack(tracks: OpenTracks) -> bytes:
    """Open tracks as the bytes of an npz."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **tracks.arrays())
    return stream.getvalue()


def unpack(data: bytes) -> OpenTracks:
    """The open tracks that ``pack`` made bytes of.

    Raises:
        LinkStateError: it was another version.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return OpenTracks(**arrays)
    except TypeError:
        raise LinkStateError(
            "the open tracks were stored by another version of onepass; remove the file of "
            "--link-state to begin anew"
        ) from None


def seconds_of(taken: datetime | None) -> float:
    """Seconds since 1970, NaN for None; a time without a zone counts as UTC."""
    if taken is None:
        return float("nan")
    return ((taken if taken.tzinfo else taken.replace(tzinfo=UTC)) - _EPOCH).total_seconds()
