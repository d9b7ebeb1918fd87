"""Scenes whose truth is known because they are made: photos of animals pasted on a plain background.

* **walkers**: 16 colour-tagged ants which turn slowly and walk a third of their length a frame.
* **sitters**: eight bees and ants of eight photos which sit, and now and then are elsewhere at once.
* **crossings**: 20 ants on straight ways through the middle; each enters and leaves at the border.

Ants are those of ``reid/antrax-ants``, with another of the crops of one of their walks every few frames; bees
and ants of photos are turned and brightened a little each frame. Embedded through ``onepass extract``.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from benchmarks.tracking.clips import Case, embed

SIZE = (1000, 800)
SIDE = 64  # of a crop, in pixels
FRAMES = 100
GREY = (200, 200, 200)
Ways = NDArray[np.float64]  # centres [individuals, FRAMES, 2]; NaN where not in the picture
Look = Callable[[int, int], Image.Image]  # of an individual in a frame


def pasted(name: str, data: Path, work: Path) -> Case:
    """A scene by its name, of SCENES."""
    ways_of, look_of, count = SCENES[name]
    dice = np.random.default_rng(len(name))
    ways, look = ways_of(count, dice), look_of(data, count, dice)
    folder = work / f"pasted-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    frames, ids, boxes, images = [], [], [], []
    for frame in range(FRAMES):
        picture, file = Image.new("RGB", SIZE, GREY), folder / f"{frame:03d}.png"
        for one in np.flatnonzero(np.isfinite(ways[:, frame, 0])).tolist():
            corner = np.rint(ways[one, frame] - SIDE / 2).astype(int)
            picture.paste(look(one, frame), tuple(corner.tolist()))
            box = np.clip(np.r_[corner, corner + SIDE], 0, [*SIZE, *SIZE])
            if (box[2:] - box[:2]).min() >= SIDE / 4:  # of less, no detector sees anything
                frames.append(frame)
                ids.append(one)
                boxes.append(box.astype(float))
                images.append(str(file.resolve()))
        picture.save(file)
    numbers, table = np.array(frames), np.array(boxes)
    found = embed(folder, name, numbers, table, images)
    case = Case(name, numbers, np.array(ids), table, found, SIZE, 25.0, tuple(images))
    return case.select(np.lexsort([np.random.default_rng(0).random(len(ids)), numbers]))


def _walks(count: int, dice: np.random.Generator) -> Ways:
    at = dice.uniform(SIDE, np.array(SIZE) - SIDE, (count, 2))
    heading = dice.uniform(0, 2 * np.pi, count)
    ways = np.empty((count, FRAMES, 2))
    for frame in range(FRAMES):
        ways[:, frame] = at
        heading += dice.normal(0, 0.3, count)
        at = at + SIDE / 3 * np.column_stack([np.cos(heading), np.sin(heading)])
        outside = ((at < SIDE / 2) | (at > np.array(SIZE) - SIDE / 2)).any(axis=1)
        at = np.clip(at, SIDE / 2, np.array(SIZE) - SIDE / 2)
        heading[outside] += np.pi
    return ways


def _jumps(count: int, dice: np.random.Generator) -> Ways:
    ways = np.empty((count, FRAMES, 2))
    at = dice.uniform(SIDE, np.array(SIZE) - SIDE, (count, 2))
    for frame in range(FRAMES):
        jump = dice.random(count) < 1 / 20
        at[jump] = dice.uniform(SIDE, np.array(SIZE) - SIDE, (int(jump.sum()), 2))
        ways[:, frame] = at + dice.normal(0, 1, (count, 2))
    return ways


def _crossings(count: int, dice: np.random.Generator) -> Ways:
    ways = np.full((count, FRAMES, 2), np.nan)
    middle, reach = np.array(SIZE) / 2, float(np.hypot(*SIZE)) / 2 + SIDE
    for one in range(count):
        angle, passes = dice.uniform(0, 2 * np.pi), middle + dice.normal(0, SIDE, 2)
        speed, centre = dice.uniform(0.15, 0.5) * SIDE, dice.uniform(20, FRAMES - 20)
        along = (np.arange(FRAMES) - centre) * speed
        line = passes + along[:, None] * np.array([np.cos(angle), np.sin(angle)])
        inside = (np.abs(along) <= reach) & ((line > 0) & (line < SIZE)).all(axis=1)
        ways[one, inside] = line[inside]
    return ways


def _ants(data: Path, count: int, dice: np.random.Generator) -> Look:
    """Individuals in turn; where there are more than 16, an ant's other walk is another individual."""
    folder = data / "reid" / "antrax-ants"
    walks: dict[str, dict[str, list[str]]] = {}
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            walks.setdefault(row["identity"], {}).setdefault(row["tracklet"], []).append(
                row["image"]
            )
    names = sorted(walks)
    chosen = []
    for one in range(count):
        of_ant = sorted(walks[names[one % len(names)]].values(), key=len, reverse=True)
        chosen.append(of_ant[one // len(names)])

    def look(one: int, frame: int) -> Image.Image:
        file = chosen[one][frame * len(chosen[one]) // FRAMES]
        with Image.open(folder / file) as image:
            return image.convert("RGB").resize((SIDE, SIDE))

    return look


def _photos(data: Path, count: int, dice: np.random.Generator) -> Look:
    files = sorted((data / "hymenoptera").rglob("*.jpg"))
    chosen = [files[at] for at in dice.choice(len(files), count, replace=False)]
    images = []
    for file in chosen:
        with Image.open(file) as image:
            images.append(image.convert("RGB").resize((SIDE, SIDE)))

    def look(one: int, frame: int) -> Image.Image:
        turned = images[one].rotate(float(dice.normal(0, 5)), fillcolor=GREY)
        return ImageEnhance.Brightness(turned).enhance(float(dice.uniform(0.9, 1.1)))

    return look


SCENES: dict[str, tuple[Callable[[int, np.random.Generator], Ways], Callable[..., Look], int]] = {
    "walkers": (_walks, _ants, 16),
    "sitters": (_jumps, _photos, 8),
    "crossings": (_crossings, _ants, 20),
}
