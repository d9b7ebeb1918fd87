"""Animals on known paths, to be linked: boxes, looks, and who is who."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from index.vectors import Floats, Ints
from tracks.association.camera import CameraMove
from tracks.association.gaps import sessions
from tracks.association.linker import Links
from tracks.association.options import PRESETS, LinkOptions
from tracks.boxes import TrackBoxes
from tracks.evaluation.scores import Scores, evaluate
from tracks.offline.linker import link_offline
from tracks.offline.looks import Shortener
from tracks.offline.scene import Scene

IMAGE = (1000.0, 800.0)
SIDE = 40.0


@dataclass(frozen=True)
class Walks:
    """N detections by frame, in each frame in random order."""

    frames: Ints
    who: Ints  # individual of each [N]
    boxes: Floats  # [N, 4] in pixels
    looks: np.ndarray  # embeddings [N, D]

    def where(self, rows: np.ndarray) -> Walks:
        """Some of the detections."""
        return Walks(self.frames[rows], self.who[rows], self.boxes[rows], self.looks[rows])

    def thinned(self, every: int) -> Walks:
        """Of every so many frames."""
        return self.where(self.frames % every == 0)

    def unit(self) -> np.ndarray:
        """Embeddings of length 1 ``[N, D]``."""
        length = np.linalg.norm(self.looks, axis=1, keepdims=True)
        return (self.looks / length).astype(np.float32)

    def scene(self) -> Scene:
        """As offline linking sees it."""
        unit = self.unit()
        sizes = np.tile(IMAGE, (len(unit), 1))
        return Scene.of(self.frames, self.boxes, Shortener(unit)(unit), sizes)

    def links(
        self,
        scores: np.ndarray | None = None,
        on_move: Callable[[CameraMove], None] = lambda move: None,
        **options: object,
    ) -> Links:
        """Linked all at once; ``scores`` are those of a detector."""
        unit = self.unit()
        chosen: LinkOptions = PRESETS["default"].replace(**options)
        seconds = np.full(len(self.frames), np.nan)
        links, _ = link_offline(
            self.frames,
            self.boxes,
            lambda rows: unit[rows],
            np.tile(IMAGE, (len(unit), 1)),
            Shortener(unit),
            parts=sessions(self.frames, seconds, max_gap_frames=chosen.gap_frames),
            seconds=self.frames.astype(float),
            scores=scores,
            options=chosen,
            on_move=on_move,
        )
        return links

    def scores(self, links: Links) -> Scores:
        """Of ``links``, by who is who."""
        linked = links.track >= 0
        found = TrackBoxes(self.frames[linked], links.track[linked], self.boxes[linked])
        return evaluate(TrackBoxes(self.frames, self.who, self.boxes), found)


def walks(
    paths: dict[int, dict[int, tuple[float, float]]],
    *,
    alike: float = 0.0,
    noise: float = 0.3,
    seed: int = 0,
) -> Walks:
    """Detections of individuals that were at these places.

    Args:
        paths: by individual, its centre in pixels by frame.
        alike: share of all looks that is common to all individuals, 0 to 1.
        noise: of a look from frame to frame, beside 1 for what is its own.
        seed: of looks and orders.
    """
    dice = np.random.default_rng(seed)
    own = dice.normal(size=(len(paths), 32))
    common = dice.normal(size=32)
    rows = [
        (frame, dice.random(), number, who, *place)
        for number, (who, path) in enumerate(paths.items())
        for frame, place in path.items()
    ]
    rows.sort()
    numbers = [row[2] for row in rows]
    looks = (1 - alike) * own[numbers] + alike * common
    looks = looks + noise * dice.normal(size=looks.shape)
    centre = np.array([row[4:] for row in rows])
    size = SIDE * (1 + 0.02 * dice.normal(size=(len(rows), 1)))
    return Walks(
        np.array([row[0] for row in rows]),
        np.array([row[3] for row in rows]),
        np.hstack([centre - size / 2, centre + size / 2]),
        looks.astype(np.float32),
    )


def wanderers(
    count: int, frames: int, *, speed: float = 12.0, persistence: float = 0.9, seed: int = 0
) -> dict[int, dict[int, tuple[float, float]]]:
    """Paths of individuals that keep their direction for a while, and turn at the border."""
    dice = np.random.default_rng(seed)
    margin = 2 * SIDE
    place = dice.uniform([margin, margin], np.array(IMAGE) - margin, (count, 2))
    velocity = dice.normal(size=(count, 2)) * speed / 2**0.5
    paths: dict[int, dict[int, tuple[float, float]]] = {who: {} for who in range(count)}
    for frame in range(frames):
        for who in range(count):
            paths[who][frame] = (float(place[who, 0]), float(place[who, 1]))
        turn = dice.normal(size=(count, 2)) * speed / 2**0.5
        velocity = persistence * velocity + (1 - persistence**2) ** 0.5 * turn
        outside = (place + velocity < margin) | (place + velocity > np.array(IMAGE) - margin)
        velocity = np.where(outside, -velocity, velocity)
        place = place + velocity
    return paths


def without(scene: Walks, who: int, frames: range) -> Walks:
    """The same where one individual was not found in some frames."""
    return scene.where(~((scene.who == who) & np.isin(scene.frames, list(frames))))


def shuffled(scene: Walks, seed: int) -> Walks:
    """The same with the detections of each frame in another order."""
    order = np.lexsort([np.random.default_rng(seed).random(len(scene.frames)), scene.frames])
    return replace(scene.where(order))


def partition(track: np.ndarray, who: np.ndarray) -> bool:
    """Whether tracks and individuals are the same sets of detections."""
    pairs = {(int(a), int(b)) for a, b in zip(track, who, strict=True)}
    return len(pairs) == len(set(track.tolist())) == len(set(who.tolist()))
