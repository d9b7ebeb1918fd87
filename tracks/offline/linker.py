"""Links one sequence with the future in view; what ``tracks.link`` calls for ``method="offline"``.

A long sequence is linked in windows that overlap, so that it takes no more memory than one of them: each learns
from its own frames. In the middle of an overlap the links of one window give way to those of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index.vectors import Floats, Ints
from tracks.association.camera import CameraMove
from tracks.association.frames import by_frame
from tracks.association.linker import Links
from tracks.association.options import LinkOptions
from tracks.association.state import Bools
from tracks.offline.learn import Shown
from tracks.offline.looks import Shortener
from tracks.offline.window import Sequence, link_window, numbered_tracks, with_a_strong_one

WINDOW = 200_000
"""Detections linked at once: some 0.6 kB each in memory."""

_OVERLAP = 8  # of two windows, in the longest gaps that a link may cross


def link_offline(
    frames: Ints,
    boxes: Floats,
    embeddings: Callable[[slice], npt.NDArray[np.float32]],
    sizes: Floats,
    shortener: Shortener,
    *,
    parts: list[slice],
    seconds: Floats | None = None,
    scores: npt.NDArray[np.floating] | None = None,
    options: LinkOptions,
    on_move: Callable[[CameraMove], None] = lambda move: None,
) -> tuple[Links, Shown]:
    """Link one sequence; nothing is checked.

    Args:
        frames: frame number of each detection ``[N]``, never falling.
        boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels.
        embeddings: gives those of a slice of neighbouring rows, L1-normalised ``[R, D]``.
        sizes: width and height of the image of each detection ``[N, 2]``, in pixels.
        shortener: fitted to embeddings of the run.
        parts: of the rows, between which no link is made.
        seconds: time of each detection ``[N]``; needed for ``max_gap_seconds``.
        scores: of each detection ``[N]``, for ``strong_score``; NaN counts as strong.
        options: of ``method="offline"``.
        on_move: called where the camera moved.

    Returns:
        Tracks in the order of their start. A cost is the evidence against a link, in nats; a margin is how
        much worse the next best choice of either end would have been. Of the terms, the first
        is 1 - cosine of the short embeddings. Also what the sequence showed.
    """
    weak = np.zeros(len(frames), dtype=bool)
    if options.strong_score is not None and scores is not None:
        weak = np.asarray(scores) < options.strong_score
    sequence = Sequence(frames, boxes, embeddings, sizes, seconds, weak, parts)
    found = Links.unlinked(len(frames))
    at_border, others, shown = np.zeros(len(frames), dtype=bool), [], []
    followed = np.zeros(len(frames), dtype=bool)
    for window in _windows(frames, options.gap_frames + 1):
        linked = link_window(sequence, window.rows, shortener, options)
        rows = np.arange(window.kept.start, window.kept.stop)
        local = rows - window.rows.start
        previous = linked.previous[local]
        previous[previous >= 0] += window.rows.start
        # Two windows may disagree on what follows one; then the earlier window is right.
        previous[(previous >= 0) & followed[previous]] = -1
        followed[previous[previous >= 0]] = True
        joined = previous >= 0
        found.previous[rows], at_border[rows] = previous, linked.at_border[local]
        for name in ("cost", "terms", "margin"):
            getattr(found, name)[rows[joined]] = getattr(linked, name)[local[joined]]
        others += [
            (row + window.rows.start, other + window.rows.start)
            for row, members in linked.others.items()
            for other in members
            if window.kept.start <= row + window.rows.start < window.kept.stop
        ]
        for move in linked.moves:
            if frames[rows[0]] <= move.frame <= frames[rows[-1]]:
                on_move(move)
        shown.append(linked.shown)
    links = _numbered(found, weak, np.array(sorted(others), dtype=np.int64).reshape(-1, 2))
    return links, _shown(shown, links, at_border, frames, others)


class _Window(NamedTuple):
    """Rows that are linked at once, and those of them whose links are kept."""

    rows: slice
    kept: slice


def _windows(frames: Ints, gap: int) -> Iterator[_Window]:
    """Windows of whole frames, which overlap by some times the longest gap, or by half of a window."""
    rows = by_frame(frames)
    starts = np.array([part.start for part in rows] + [len(frames)])
    begin = kept = 0  # numbers of frames
    while True:
        end = int(np.searchsorted(starts, starts[begin] + WINDOW, side="right")) - 1
        end = max(end, kept + 2)
        if end >= len(rows):
            yield _Window(
                slice(int(starts[begin]), len(frames)), slice(int(starts[kept]), len(frames))
            )
            return
        overlap = max(1, min(_OVERLAP * gap, (end - begin) // 2, end - kept - 1))
        middle = end - (overlap + 1) // 2
        span = slice(int(starts[begin]), int(starts[end]))
        yield _Window(span, slice(int(starts[kept]), int(starts[middle])))
        begin, kept = end - overlap, middle


def _numbered(links: Links, weak: Bools, others: Ints) -> Links:
    """With the tracks that follow from ``previous``; those of weak detections alone are none.

    Args:
        links: without tracks.
        weak: which detections are weak ``[N]``.
        others: boxes that hold several, and a detection of another track in it ``[M, 2]``.
    """
    track, position = numbered_tracks(links.previous)
    starts = np.flatnonzero(links.previous < 0)
    kept = with_a_strong_one(track, weak)
    track = np.where(kept, (np.cumsum(kept[starts]) - 1)[track], -1)
    linked = kept & (links.previous >= 0)
    named = np.column_stack([others[:, 0], track[others[:, 1]]])
    named = named[(named[:, 1] >= 0) & (track[named[:, 0]] >= 0)]
    named = np.unique(named[named[:, 1] != track[named[:, 0]]], axis=0)
    return replace(
        links,
        track=track,
        position=np.where(kept, position, -1),
        previous=np.where(linked, links.previous, -1),
        cost=np.where(linked, links.cost, np.nan),
        terms=np.where(linked[:, None], links.terms, np.nan),
        margin=np.where(linked, links.margin, np.nan),
        others=named,
    )


def _shown(
    windows: list[Shown],
    links: Links,
    at_border: Bools,
    frames: Ints,
    others: list[tuple[int, int]],
) -> Shown:
    """What the windows showed on average, and where tracks begin and end."""
    is_end = links.track >= 0
    is_end[links.previous[links.previous >= 0]] = False
    # Whoever is last seen in a box with others has not vanished.
    is_end[[other for _, other in others]] = False
    is_end &= frames < frames[-1]
    is_start = (links.position == 0) & (frames > frames[0])
    is_start[[other for _, other in others]] = False

    def mean(name: str) -> float:
        return round(float(np.mean([getattr(window, name) for window in windows])), 4)

    return Shown(
        move=mean("move"),
        leaving=mean("leaving"),
        apart=mean("apart"),
        alike=mean("alike"),
        unlike=mean("unlike"),
        ends=mean("ends"),
        entered=int((is_start & at_border).sum()),
        left=int((is_end & at_border).sum()),
        appeared=int((is_start & ~at_border).sum()),
        vanished=int((is_end & ~at_border).sum()),
    )
