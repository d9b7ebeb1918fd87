"""What a detector sees that draws one box around all animals that touch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components

from tests.helpers.walks import Walks
from tracks.association.costs import box_overlap
from tracks.association.linker import Links

SEVERAL = -1
Path = dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Merged:
    """What a detector sees that draws one box around all animals that touch."""

    scene: Walks  # ``who`` of a box around several is SEVERAL
    inside: list[frozenset[int]]  # who is in each box

    def names(self, links: Links) -> dict[int, int]:
        """The individual that most of each track is."""
        votes: dict[int, Counter[int]] = {}
        for track, who in zip(links.track.tolist(), self.scene.who.tolist(), strict=True):
            if who != SEVERAL:
                votes.setdefault(track, Counter())[who] += 1
        return {track: count.most_common(1)[0][0] for track, count in votes.items()}

    def said(self, links: Links) -> list[frozenset[int]]:
        """Who is in each box as the links say."""
        names = self.names(links)
        members = [{track} for track in links.track.tolist()]
        for row, track in links.others.tolist():
            members[row].add(track)
        return [frozenset(names.get(track, SEVERAL) for track in each) for each in members]


def merged(scene: Walks) -> Merged:
    """The scene as such a detector sees it."""
    frames, who, boxes, looks, inside = [], [], [], [], []
    for frame in np.unique(scene.frames).tolist():
        rows = np.flatnonzero(scene.frames == frame)
        one, other = (each.ravel() for each in np.meshgrid(rows, rows))
        touch = box_overlap(scene.boxes[one], scene.boxes[other]) > 0
        _, group = connected_components(touch.reshape(len(rows), len(rows)))
        for number in range(group.max() + 1):
            members = rows[group == number]
            frames.append(frame)
            who.append(int(scene.who[members[0]]) if len(members) == 1 else SEVERAL)
            low, high = scene.boxes[members, :2].min(axis=0), scene.boxes[members, 2:].max(axis=0)
            boxes.append([*low, *high])
            looks.append(scene.looks[members].mean(axis=0))
            inside.append(frozenset(scene.who[members].tolist()))
    seen = Walks(np.array(frames), np.array(who), np.array(boxes), np.array(looks))
    return Merged(seen, inside)


def line(start: tuple[float, float], step: tuple[float, float], frames: range) -> Path:
    return {f: (start[0] + step[0] * f, start[1] + step[1] * f) for f in frames}


def apart(count: int, frames: range) -> dict[int, Path]:
    """Others far from the scene, which show how individuals move and look."""
    return {
        100 + who: {f: (150.0 + 120 * who + 3 * np.sin(f), 700.0 + 2 * np.cos(f)) for f in frames}
        for who in range(count)
    }
