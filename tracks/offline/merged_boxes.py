"""Boxes that hold several animals: found in the tracks by their size, and each animal followed through them.

Where animals touch, a detector often draws one box around them. Of all but one the track is then lost
as they go in, and another begins as they come out. Such a box is like the box around all that went in, and not
like one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from index.vectors import Floats, Ints
from tracks.association.costs import box_overlap
from tracks.offline.bodies import Body, fit_bodies
from tracks.offline.scene import Scene

INSIDE = 0.5  # share of an animal's box that lies in the box it goes into
MUCH_LARGER = 0.5  # in the logarithm of the area: what shows by itself that a box holds several

Inside = dict[int, dict[int, Body]]  # in each box, by the detection that each one was before it


class Joined(NamedTuple):
    """Several detections that are in one box in the next frame."""

    rows: list[int]
    alone: float  # logarithm of the area of the largest of them
    together: float  # and of the box around all of them

    def look_like(self, log_area: float) -> bool:
        """Whether a box of this area is more like all of them than like one."""
        return log_area > (self.alone + self.together) / 2


class View:
    """The tracks as seen forwards in time (sign 1) or backwards (-1)."""

    def __init__(self, scene: Scene, boxes: Floats, onward: Ints, behind: Ints, sign: int) -> None:
        self.scene, self.boxes, self.sign = scene, boxes, sign
        self.onward, self.behind = onward, behind
        self.joined = dict(self._joined())
        self.more: dict[int, list[int]] = {}  # before a box, as the other view shows

    def before(self, row: int) -> list[int]:
        """Detections that those in a box were before it."""
        joined = self.joined[row].rows if row in self.joined else []
        rows = {int(self.behind[row]), *joined, *self.more.get(row, [])} - {-1}
        return sorted(rows)

    def merged(self, other: View, longest: int) -> set[int]:
        """Boxes of several: from where they join until they part, as the ``other`` view shows.

        Where one of them hides the other, the box is small for up to ``longest`` steps.
        """
        found: set[int] = set()
        for row, joined in self.joined.items():
            rows, large, parted = [row], 1, row in other.joined
            again = [int(self.onward[lost]) for lost in joined.rows if self.onward[lost] != row]
            while not parted:
                onward = int(self.onward[rows[-1]])
                if onward < 0 or onward in self.joined:
                    break
                if min(again) >= 0 and min(self._steps(each, onward) for each in again) >= 0:
                    parted = True
                    break
                if self._steps(rows[large - 1], onward) > longest:
                    break
                rows.append(onward)
                parted = onward in other.joined
                if joined.look_like(float(self.scene.log_area[onward])):
                    large = len(rows)
            if rows[-1] not in other.joined and not self._is_much_larger(row, joined):
                continue
            found.update(rows if parted else rows[:large])
            if parted and rows[-1] not in other.joined:
                then = int(self.onward[rows[-1]])
                step = self.scene.step[then]
                other.more[rows[-1]] = [each for each in again if self.scene.step[each] == step]
        return found

    def mirror(self, other: View, merged: set[int]) -> None:
        """Let the ``other`` view see from which boxes of several another one was reached."""
        for row in merged:
            for before in self.before(row):
                if before in merged and row not in other.before(before):
                    other.more.setdefault(before, []).append(row)

    def follow(self, group: list[int]) -> Inside:
        """Those in each box of a group."""
        inside: Inside = {}
        for row in group[:: self.sign]:
            expected: dict[int, Body] = {}
            steps: dict[int, int] = {}
            for earlier in self.before(row):
                bodies = inside[earlier] if earlier in inside else {earlier: self._body(earlier)}
                for name, body in bodies.items():
                    steps[name] = self._steps(earlier, row)
                    expected[name] = body.after(steps[name])
            inside[row] = fit_bodies(expected, steps, self.boxes[row]) if expected else {}
        return inside

    def distances(self, inside: Inside, after: View) -> dict[tuple[int, int], float]:
        """From where each one was followed to, to each one that comes out there, in diagonals."""
        found: dict[tuple[int, int], float] = {}
        for row, bodies in inside.items():
            for out in after.before(row):
                if out in inside:
                    continue
                for name, body in bodies.items():
                    expected = body.after(self._steps(row, out))
                    apart = expected.centre - self.scene.centre[out]
                    scale = np.sqrt(self.scene.size[name] * self.scene.size[out])
                    diagonals = float(np.hypot(*apart) / scale)
                    found[name, out] = min(diagonals, found.get((name, out), np.inf))
        return found

    def _joined(self) -> Iterator[tuple[int, Joined]]:
        frames = self.scene.frames[:: self.sign]
        for earlier, frame in itertools.pairwise(frames):
            rows = np.arange(earlier.start, earlier.stop)
            then = self.onward[rows]
            lost = rows[(then < frame.start) | (then >= frame.stop)]
            if not len(lost) or self._steps(earlier.start, frame.start) != 1:
                continue
            here = np.arange(frame.start, frame.stop)
            share = _share_inside(self.boxes[lost], self.boxes[here])
            into = np.where(share.max(axis=1) >= INSIDE, share.argmax(axis=1), -1)
            for number in np.unique(into[into >= 0]).tolist():
                row, together = int(here[number]), lost[into == number]
                own = self.behind[row]
                if earlier.start <= own < earlier.stop:
                    together = np.r_[own, together]
                if len(together) > 1 and (joined := self._as_one(together, row)):
                    yield row, joined

    def _as_one(self, rows: Ints, row: int) -> Joined | None:
        """Detections that ``row`` is the box around; None where it is more like one of them."""
        boxes, log_area = self.boxes[rows], self.scene.log_area
        around = np.r_[boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]
        together = float(np.log(np.prod(around[2:] - around[:2])))
        joined = Joined(rows.tolist(), float(log_area[rows].max()), together)
        boxes = np.vstack([boxes, around])
        overlap = box_overlap(boxes, np.tile(self.boxes[row], (len(boxes), 1)))
        is_like = overlap[-1] > overlap[:-1].max() and joined.look_like(float(log_area[row]))
        return joined if is_like else None

    def _is_much_larger(self, row: int, joined: Joined) -> bool:
        """Whether size alone shows that one box holds several; at the border others may be cut."""
        more = float(self.scene.log_area[row]) - joined.alone
        return more > MUCH_LARGER and not self.scene.at_border[joined.rows].any()

    def _body(self, row: int) -> Body:
        before = int(self.behind[row])
        first = row if before < 0 else before
        moved = self.scene.centre[row] - self.scene.centre[first]
        sides = self.boxes[row, 2:] - self.boxes[row, :2]
        return Body(self.scene.centre[row], sides, moved / max(self._steps(first, row), 1))

    def _steps(self, row: int, later: int) -> int:
        return self.sign * int(self.scene.step[later] - self.scene.step[row])


def _share_inside(boxes: Floats, around: Floats) -> Floats:
    """Share of each of N boxes that lies in each of M others ``[N, M]``."""
    low = np.maximum(boxes[:, None, :2], around[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], around[None, :, 2:])
    area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6), axis=1)
    share: Floats = np.prod(np.maximum(high - low, 0), axis=2) / area[:, None]
    return share
