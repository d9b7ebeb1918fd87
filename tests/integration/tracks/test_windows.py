"""A long sequence is linked in windows that overlap: with the links of the whole, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.merging import merged
from tests.helpers.walks import Walks, partition, walks, wanderers, without
from tracks.offline import linker
from tracks.offline.linker import _windows


def crowd() -> Walks:
    return walks(wanderers(6, 300, seed=3), alike=0.5, seed=3)


def with_gaps() -> Walks:
    scene = crowd()
    for who in range(6):
        scene = without(scene, who, range(40 + 40 * who, 50 + 40 * who))
    return scene


def with_merges() -> Walks:
    return merged(walks(wanderers(6, 300, speed=8, seed=5), alike=0.3, seed=5)).scene


def that_come_and_go() -> Walks:
    scene = crowd()
    return scene.where((scene.frames // 50 + scene.who) % 4 > 0)


@pytest.mark.parametrize("make", [crowd, with_gaps, with_merges, that_come_and_go])
def test_windows_have_the_links_of_the_whole(
    make: Callable[[], Walks], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make()
    whole = scene.links(max_gap_frames=15)
    monkeypatch.setattr(linker, "WINDOW", len(scene.frames) // 3)
    parts = scene.links(max_gap_frames=15)
    assert (parts.previous == whole.previous).mean() > 0.999
    assert parts.track.max() == whole.track.max()
    assert len(parts.others) == pytest.approx(len(whole.others), abs=2)


def test_a_camera_move_in_an_overlap_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = walks(wanderers(8, 300, speed=4, seed=2), seed=2)
    monkeypatch.setattr(linker, "WINDOW", 800)
    cuts = [window.kept.stop for window in _windows(scene.frames, 26)]
    assert len(cuts) > 3
    for frame in (scene.frames[cuts[0]], scene.frames[cuts[1]] - 1):
        moved = replace(scene, boxes=scene.boxes + 200.0 * (scene.frames >= frame)[:, None])
        moves: list[int] = []
        links = moved.links(on_move=lambda move: moves.append(move.frame))  # noqa: B023
        assert moves == [frame]
        assert partition(links.track, scene.who)


@pytest.mark.parametrize("gap", [1, 26, 10**12])
def test_every_row_is_kept_once(gap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(0)
    frames = np.repeat(np.arange(400), dice.integers(0, 9, 400))
    for size in (1, 10, 100, 1000, 10**6):
        monkeypatch.setattr(linker, "WINDOW", size)
        windows = list(_windows(frames, gap))
        kept = np.concatenate([np.arange(each.kept.start, each.kept.stop) for each in windows])
        assert (kept == np.arange(len(frames))).all()
        for rows, inner in windows:
            assert rows.start <= inner.start < inner.stop <= rows.stop
            assert rows.start == 0 or frames[rows.start] > frames[rows.start - 1]
            assert len(set(frames[rows].tolist())) <= 3 or rows.stop - rows.start <= size
