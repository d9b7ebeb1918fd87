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
    got = multi_scale(clip, scales)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    assert scaled_frames(frames, scales) == len(expected)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("frames", [1, 4, 5, 64, 75])
def test_real_time_alone_is_the_clip_as_it_is(frames: int) -> None:
    clip = made(frames)
    assert np.array_equal(multi_scale(clip, (1.0,)), clip)
    assert scaled_frames(frames, (1.0,)) == frames


@pytest.mark.parametrize(("frames", "longest"), [(1, 5), (4, 5), (5, 5), (64, 73), (75, 86)])
def test_frames_of_the_longest_scale(frames: int, longest: int) -> None:
    assert scaled_frames(frames, THREE) == longest


def test_which_frames_are_taken() -> None:
    """Frames that hold their own number tell which of them stand where."""
    four = np.arange(4, dtype=np.float32)[:, None]
    assert multi_scale(four, (0.85,))[:, 0].tolist() == [0, 0, 1, 2, 3]
    eight = np.arange(8, dtype=np.float32)[:, None]
    assert multi_scale(eight, (0.75,))[:, 0].tolist() == [0, 1, 2, 4, 5, 7]
    # Six frames of the slow version and eight of the other: the last two are halved.
    both = multi_scale(eight, (1.0, 0.75))[:, 0].tolist()
    assert both == [0, 1, 2, 3.5, 4.5, 6, 3, 3.5]


def test_stored_rows_stand_for_a_network_run_on_each_scale() -> None:
    random = np.random.default_rng(5)
    weights = random.normal(size=(12, 6))
    pixels = random.normal(size=(64, 12))

    def network(frames: np.ndarray) -> np.ndarray:
        return np.array([np.tanh(frame @ weights) for frame in frames])

    total = np.zeros((73, 6))
    for scale, count in ((1.0, 64), (0.85, 54), (1.15, 73)):
        assert int(64 * scale) == count
        total[:count] += network(pixels[np.linspace(0, 63, count).astype(int)])
    got = multi_scale(network(pixels).astype(np.float32), THREE)
    np.testing.assert_allclose(got, total / 3, rtol=1e-5, atol=1e-6)
