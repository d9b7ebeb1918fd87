"""Small scenes to link, and what is known of them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np

from tracks.live.frame import Frame

SQUARE = [0.0, 0.0, 10.0, 10.0]
NOON = datetime(2024, 6, 1, 12)


def crowd(frames: int = 12, objects: int = 7, *, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Objects on a random walk: frames, boxes, embeddings and who is who."""
    random = np.random.default_rng(seed)
    centres = random.uniform(50, 950, (objects, 2))
    looks = random.normal(size=(objects, 16))
    rows: list[tuple[int, np.ndarray, np.ndarray, int]] = []
    for frame in range(frames):
        centres = centres + random.normal(scale=8, size=centres.shape)
        for who in range(objects):
            if random.random() < 0.85:
                box = np.r_[centres[who] - 20, centres[who] + 20]
                rows.append((frame, box, looks[who] + random.normal(scale=0.3, size=16), who))
    return (
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows], np.float32),
        np.array([row[3] for row in rows]),
    )


def frames_of(scene: tuple[np.ndarray, ...], *, seconds: bool = False) -> list[Frame]:
    """A scene as it comes in from a camera, frame by frame."""
    numbers, boxes, vectors, _ = scene
    made = []
    for number in range(int(numbers.max()) + 1):
        rows = np.flatnonzero(numbers == number)
        made.append(
            Frame(
                sequence="deep/er",
                number=number,
                taken=NOON + timedelta(seconds=number) if seconds else None,
                image_size=(800.0, 600.0),
                ids=[f"d{row}" for row in rows],
                boxes=boxes[rows],
                vectors=vectors[rows],
                scores=(rows % 5) / 5,
            )
        )
    return made


def still(number: int | None = None, *, count: int = 1, **more: Any) -> Frame:
    """A frame with ``count`` unchanging objects in it, side by side."""
    given: dict[str, Any] = {
        "sequence": "cam",
        "number": number,
        "image_size": (80.0, 60.0),
        "ids": [f"{more.get('sequence', 'cam')}-{number}-{at}" for at in range(count)],
        "boxes": np.array([SQUARE] * count).reshape(count, 4) + 20 * np.arange(count)[:, None],
        "vectors": np.eye(4, dtype=np.float32)[:count],
    }
    return Frame(**(given | more))


def moths(
    count: int = 4,
    *,
    frames: int = 8,
    moves: dict[int, tuple[float, float]] | None = None,
    drift: tuple[float, float] = (0.0, 0.0),
    steps: np.ndarray | None = None,
    missing: dict[int, list[int]] | None = None,
    spacing: float = 110.0,
    seed: int = 0,
) -> tuple[np.ndarray, ...]:
    """Individuals in a row that look much alike, seen by a camera that may move.

    Args:
        count: of individuals, in boxes of 60 pixels.
        frames: number of frames.
        moves: by how much the picture moves before a frame.
        drift: by how much it moves before each frame but the first.
        steps: how far each individual walks from frame to frame ``[count, 2]``.
        missing: the individuals that are not seen in a frame.
        spacing: of the row, in pixels.
        seed: of what is random: jitter of a pixel or two, and how they look.

    Returns:
        Frame, box, embedding and individual of each detection.
    """
    random = np.random.default_rng(seed)
    places = np.array([(200 + spacing * number, 300 + 5 * number) for number in range(count)])
    looks = 10 + random.normal(size=(count, 16))
    camera = np.zeros(2)
    rows: list[tuple[int, np.ndarray, np.ndarray, int]] = []
    for frame in range(frames):
        if frame:
            camera = camera + drift + np.array((moves or {}).get(frame, (0.0, 0.0)))
            places = places if steps is None else places + steps
        for who in range(count):
            if who not in (missing or {}).get(frame, ()):
                place = places[who] + camera + random.normal(scale=1, size=2)
                look = looks[who] + random.normal(scale=0.2, size=16)
                rows.append((frame, np.r_[place - 30, place + 30], look, who))
    return (
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows], np.float32),
        np.array([row[3] for row in rows]),
    )
