"""Links those who go into boxes that hold several to those who come out.

Those who come out are the ones who are nearest to where those who went in were followed to, forwards and
backwards in time, and most alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from index.vectors import Floats
from tracks.offline.merged_boxes import View
from tracks.offline.scores import Scores

APART = 0.1  # usual distance between where one was followed to and where it comes out, in diagonals
NEVER = 1e6  # nats


def resolve_merges(scores: Scores, boxes: Floats, margin: Floats) -> dict[int, list[int]]:
    """Set ``next`` and ``previous`` of ``scores`` anew where several animals are in one box.

    Args:
        scores: with the tracks that ``solve`` found.
        boxes: of the detections ``[N, 4]``, as if the camera had stood still.
        margin: of the link to each ``[N]``, set where it is made anew.

    Returns:
        For each box that holds several, one detection of each of the other tracks in it.
    """
    ahead = View(scores.scene, boxes, scores.next, scores.previous, 1)
    back = View(scores.scene, boxes, scores.previous, scores.next, -1)
    merged = ahead.merged(back, scores.max_lag) | back.merged(ahead, scores.max_lag)
    ahead.mirror(back, merged)
    back.mirror(ahead, merged)
    others: dict[int, list[int]] = {}
    for rows in _groups(sorted(merged), ahead, back):
        others |= _Group(scores, ahead, back, rows).resolve(margin)
    return others


class _Individual(NamedTuple):
    """Where one goes into a group of boxes, and where it comes out."""

    first: int  # its detection before; -1 where it does not go in
    last: int  # after; -1 where it does not come out
    margin: float  # nats by which the next best choice is worse


class _Group:
    """Boxes of several that follow each other."""

    def __init__(self, scores: Scores, ahead: View, back: View, rows: list[int]) -> None:
        self.scores, self.rows = scores, rows
        self.entering, self.leaving = ahead.follow(rows), back.follow(rows)
        self.forwards = ahead.distances(self.entering, back)
        behind = back.distances(self.leaving, ahead)
        self.backwards = {(first, last): apart for (last, first), apart in behind.items()}
        self.ins = {name for bodies in self.entering.values() for name in bodies}
        self.outs = {name for bodies in self.leaving.values() for name in bodies}

    def resolve(self, margin: Floats) -> dict[int, list[int]]:
        """Link who goes in to who comes out, one of them through the boxes.

        Returns:
            As ``resolve_merges``.
        """
        next_, previous = self.scores.next, self.scores.previous
        ins, outs = sorted(self.ins), sorted(self.outs)
        # Whoever was found again elsewhere stays linked as it is.
        inner, tops = {*self.rows, *outs, -1}, {*self.rows, *ins, -1}
        others = [(row, int(next_[row])) for row in ins if int(next_[row]) not in inner]
        others += [(int(previous[row]), row) for row in outs if int(previous[row]) not in tops]
        individuals = [_Individual(*pair, float(margin[pair[1]])) for pair in others]
        settled = {row for pair in others for row in pair}
        ins = [row for row in ins if row not in settled]
        outs = [row for row in outs if row not in settled]
        through = {int(previous[self.rows[0]]), int(next_[self.rows[-1]])} - {-1}
        for first, last in others:
            self._cut(first, last)
        for row in self.rows + ins:
            self._cut(row, int(next_[row]))
        for row in self.rows + outs:
            self._cut(int(previous[row]), row)
        individuals += self._matched(ins, outs)
        return self._linked(individuals, through, margin)

    def _matched(self, ins: list[int], outs: list[int]) -> list[_Individual]:
        """Those who go in with those who come out; the rest alone."""
        pairs = [
            pair
            for pair in self.forwards.keys() & self.backwards.keys()
            if pair[0] in ins and pair[1] in outs
        ]
        pairs.sort()
        worth = np.full((len(ins), len(outs)), -NEVER)
        if pairs:
            first, last = np.array(pairs).T
            apart = np.array([self.forwards[pair] + self.backwards[pair] for pair in pairs])
            found = np.searchsorted(ins, first), np.searchsorted(outs, last)
            worth[found] = self.scores.alike(first, last) - apart / np.hypot(
                APART, self.scores.astray
            )
        one, other = linear_sum_assignment(-worth)
        possible = worth[one, other] > -NEVER
        one, other = one[possible], other[possible]
        best = worth[one, other]
        # What is lost where two of them change places.
        swapped = worth[one][:, other] + worth[one][:, other].T
        loss = best[:, None] + best[None] - swapped
        np.fill_diagonal(loss, np.inf)
        least = loss.min(axis=1, initial=np.inf)
        margins = np.where(np.isfinite(least), least, best)
        individuals = [
            _Individual(ins[a], outs[b], float(margin))
            for a, b, margin in zip(one, other, margins, strict=True)
        ]
        gone = [row for number, row in enumerate(ins) if number not in one]
        come = [row for number, row in enumerate(outs) if number not in other]
        individuals += [_Individual(row, -1, np.nan) for row in gone]
        return individuals + [_Individual(-1, row, np.nan) for row in come]

    def _linked(
        self, individuals: list[_Individual], through: set[int], margin: Floats
    ) -> dict[int, list[int]]:
        step = self.scores.scene.step
        others: dict[int, list[int]] = {}
        tails = [individual.first for individual in individuals]
        seen = [-1] * len(individuals)  # step of the last box that each is in
        boxes = set(self.rows)
        for row in self.rows:
            inside = [
                number
                for number, each in enumerate(individuals)
                if seen[number] < step[row] and self._holds(row, each)
            ]
            if not inside:
                continue
            for number in inside:
                seen[number] = int(step[row])
            # One of them is linked through the boxes, if possible the one who was before.
            own = max(
                inside,
                key=lambda number: (
                    tails[number] in boxes,
                    bool(through & {*individuals[number][:2]}),
                ),
            )
            self._link(tails[own], row, np.nan, margin)  # nothing was chosen there
            tails[own] = row
            rest = [individuals[number] for number in inside if number != own]
            if rest:
                others[row] = [each.first if each.first >= 0 else each.last for each in rest]
        for tail, individual in zip(tails, individuals, strict=True):
            self._link(tail, individual.last, individual.margin, margin)
        return others

    def _holds(self, row: int, individual: _Individual) -> bool:
        """Whether it is in a box, by where it goes in and where it comes out."""
        step, (first, last, _) = self.scores.scene.step, individual
        goes_in, comes_out = first in self.entering[row], last in self.leaving[row]
        if first in self.ins and last in self.outs:
            return goes_in and comes_out
        if (first >= 0 and step[first] >= step[row]) or (last >= 0 and step[last] <= step[row]):
            return False
        return goes_in or comes_out

    def _link(self, first: int, last: int, nats: float, margin: Floats) -> None:
        if first >= 0 and last >= 0:
            self.scores.next[first], self.scores.previous[last] = last, first
            margin[last] = nats

    def _cut(self, first: int, last: int) -> None:
        if first >= 0 and last >= 0:
            self.scores.next[first] = self.scores.previous[last] = -1


def _groups(rows: list[int], ahead: View, back: View) -> list[list[int]]:
    """Boxes that those inside go through one after the other."""
    number = {row: position for position, row in enumerate(rows)}
    pairs = [
        (number[row], number[near])
        for view in (ahead, back)
        for row in rows
        for near in view.before(row)
        if near in number
    ]
    one, other = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(len(rows), len(rows)))
    groups: dict[int, list[int]] = {}
    for row, label in zip(rows, connected_components(graph, directed=False)[1], strict=True):
        groups.setdefault(int(label), []).append(row)
    return list(groups.values())
