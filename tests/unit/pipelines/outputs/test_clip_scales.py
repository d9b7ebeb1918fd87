"""Several speeds of one clip: against resampling, computing, padding and averaging by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.outputs.clips.scales import multi_scale, scaled_frames

THREE = (1.0, 0.85, 1.15)


def by_hand(clip: np.ndarray, scales: tuple[float, ...]) -> list[list[float]]:
    """The usual script, frame by frame and number by number, in float64."""
    versions = []
    for scale in scales:
        count = int(len(clip) * scale)
        if count < 5:
            count = 5
        positions = np.linspace(0, len(clip) - 1, count).astype(int)
        versions.append([[float(number) for number in clip[at]] for at in positions])
    longest = max(len(version) for version in versions)
    for version in versions:
        while len(version) < longest:
            version.append([0.0] * clip.shape[1])
    return [
        [sum(v[frame][d] for v in versions) / len(versions) for d in range(clip.shape[1])]
        for frame in range(longest)
    ]


def made(frames: int, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(frames).normal(size=(frames, dim)).astype(np.float32)


@pytest.mark.parametrize("scales", [THREE, (0.5,), (2.0, 1.0), (0.85, 1.15)])
@pytest.mark.parametrize("frames", [1, 4, 5, 64, 75])
def test_equals_the_mean_by_hand(frames: int, scales: tuple[float, ...]) -> None:
    clip = made(frames)
    expected = np.array(by_hand(clip, scales))
    mean = multi_scale(clip, scales)
    assert mean.dtype == np.float32
    assert mean.shape == expected.shape
    assert scaled_frames(frames, scales) == len(expected)
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("frames", [1, 4, 5, 64, 75])
def test_real_time_alone_is_the_clip_as_it_is(frames: int) -> None:
    clip = made(frames)
    assert np.array_equal(multi_scale(clip, (1.0,)), clip)
    assert scaled_frames(frames, (1.0,)) == frames
