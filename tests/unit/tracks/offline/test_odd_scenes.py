"""Scenes that nobody filmed: whatever comes in, the links are links, and nothing is NaN."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from tracks.association.options import PRESETS
from tracks.offline.linker import link_offline
from tracks.offline.looks import Shortener


def odd_looks(kind: str, count: int, dice: np.random.Generator) -> np.ndarray:
    """Embeddings [N, 24]: random, all equal, nearly equal, or a few exactly alike."""
    looks = np.abs(dice.normal(size=(count, 24)))
    if kind == "equal":
        looks[:] = 1
    elif kind == "nearly equal":
        looks = looks * 1e-6 + 1
    elif kind == "classes":
        looks = np.eye(24)[dice.integers(0, 24, count)]
    return looks.astype(np.float32)


def odd_boxes(kind: str, count: int, dice: np.random.Generator) -> np.ndarray:
    """Boxes [N, 4]: anywhere, all the whole image, points, far outside, or on a line."""
    centre, side = dice.uniform(0, 1000, (count, 2)), dice.uniform(1, 100, (count, 2))
    if kind == "whole":
        centre[:], side[:] = 500, 1000
    elif kind == "points":
        side[:] = 0
    elif kind == "far":
        centre *= 1e6
    elif kind == "line":
        centre[:, 1] = 10
    return np.hstack([centre - side / 2, centre + side / 2])


@pytest.mark.parametrize("boxes", ["anywhere", "whole", "points", "far", "line"])
@pytest.mark.parametrize("looks", ["random", "equal", "nearly equal", "classes"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("error")
def test_links_are_links(boxes: str, looks: str, seed: int) -> None:
    dice = np.random.default_rng(seed)
    counts = dice.integers(0, (2, 4, 12, 30)[seed], size=int(dice.integers(1, 20)))
    counts[0] = max(counts[0], 1)
    steps = dice.integers(1, 50 if seed % 2 else 2, size=len(counts))
    frames = np.repeat(np.cumsum(steps), counts)
    embeddings = odd_looks(looks, len(frames), dice)
    gap = (None, 0, 1, 10**6)[seed]
    links, shown = link_offline(
        frames,
        odd_boxes(boxes, len(frames), dice),
        lambda rows: embeddings[rows],
        np.tile([1000.0, 800.0], (len(frames), 1)),
        Shortener(embeddings),
        parts=[slice(0, len(frames))],
        options=PRESETS["default"].replace(max_gap_frames=gap, camera_moves=seed % 2 == 0),
    )
    assert np.isfinite(astuple(shown)).all()
    pairs = list(zip(frames.tolist(), links.track.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    later = np.flatnonzero(links.previous >= 0)
    earlier = links.previous[later]
    assert (frames[earlier] < frames[later]).all()
    assert (links.track[earlier] == links.track[later]).all()
    assert len(np.unique(earlier)) == len(earlier)
    assert np.isfinite(links.cost[later]).all()
    assert np.isfinite(links.terms[later]).all()
    # Nothing was chosen on the way into a box that holds several.
    chosen = later[~np.isin(later, links.others[:, 0])]
    assert np.isfinite(links.margin[chosen]).all()
    assert (links.track[links.others[:, 0]] != links.others[:, 1]).all()
