"""Densities that linking compares: how displacements, looks and areas vary; logarithms, in nats.

A link's evidence is ``log p(seen | same individual) - log p(seen | different ones)``. Animals sit for long and
then leave at once, so the displacements of one individual are a mixture of a narrow and a broad
Student's t; a look either holds from frame to frame or has changed with the pose, a mixture of two
normal distributions. No single observation may decide alone: each may be an outlier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from index.vectors import Floats

FREEDOM = 4.0  # of Student's t: heavy tails that still have a variance
MOVE_OUTLIERS, OTHER_OUTLIERS = 0.01, 0.1  # share of links whose evidence says nothing
DOUBLES = 0.02  # share of different individuals that look alike
MAX_MOVE = 12.0  # nats; a displacement of nearly nothing is not more certain than this


@dataclass(frozen=True)
class Moves:
    """How far apart two detections lie, in sizes of their boxes; scatters are ``[2, 2]``."""

    near: Floats  # scatter of one individual that goes on as before
    far: Floats  # of one that leaves its place
    far_share: float  # of links
    different: Floats  # scatter between different individuals

    def evidence(self, displacement: Floats) -> Floats:
        """Of displacements ``[..., 2]``, in nats ``[...]``."""
        same = self.same(log_t(displacement, self.near), displacement)
        return self.against_different(same, displacement)

    def same(self, near: Floats, displacement: Floats) -> Floats:
        """Density of one individual, where ``near`` is that of its narrow part."""
        far = log_t(displacement, self.far)
        mixed: Floats = np.logaddexp(np.log1p(-self.far_share) + near, np.log(self.far_share) + far)
        return mixed

    def against_different(self, same: Floats, displacement: Floats) -> Floats:
        """Evidence of displacements whose density in one individual is ``same``."""
        evidence = with_outliers(same - log_t(displacement, self.different), MOVE_OUTLIERS)
        return np.minimum(evidence, MAX_MOVE)


@dataclass(frozen=True)
class Looks:
    """Cosines of two looks: means and standard deviations."""

    kept: tuple[float, float]  # of one individual that looks as before
    changed: tuple[float, float]  # of one in another pose
    changed_share: float  # of links
    different: tuple[float, float]  # of different individuals

    def evidence(self, cosine: Floats) -> Floats:
        """Of cosines, in nats; nothing is more alike than alike."""
        capped = np.minimum(cosine, self.kept[0])
        same = np.logaddexp(
            np.log1p(-self.changed_share) + log_normal(capped, *self.kept),
            np.log(self.changed_share) + log_normal(capped, *self.changed),
        )
        evidence = with_outliers(same - log_normal(cosine, *self.different), OTHER_OUTLIERS)
        return with_doubles(evidence)

    @property
    def same(self) -> tuple[float, float]:
        """Mean and standard deviation of both parts together."""
        shares = np.array([1 - self.changed_share, self.changed_share])
        means, deviations = np.array([self.kept, self.changed]).T
        mean = float(shares @ means)
        return mean, float(np.sqrt(shares @ (deviations**2 + means**2) - mean**2))


def log_t(displacement: Floats, scatter: Floats) -> Floats:
    """Student's t of two dimensions about 0, but for a constant; scatter ``[2, 2]`` or ``[..., 2, 2]``."""
    distance, determinant = _distance(displacement, scatter)
    density: Floats = -0.5 * np.log(determinant) - (FREEDOM + 2) / 2 * np.log1p(distance / FREEDOM)
    return density


def t_weights(displacement: Floats, scatter: Floats) -> Floats:
    """Weights of observations ``[N, 2]`` in the next estimate of their scatter, by EM."""
    weights: Floats = (FREEDOM + 2) / (FREEDOM + _distance(displacement, scatter)[0])
    return weights


def _distance(displacement: Floats, scatter: Floats) -> tuple[Floats, Floats]:
    """Squared Mahalanobis distance from 0, and the determinant."""
    a, b, c = scatter[..., 0, 0], scatter[..., 0, 1], scatter[..., 1, 1]
    determinant = a * c - b * b
    x, y = displacement[..., 0], displacement[..., 1]
    return (c * x * x - 2 * b * x * y + a * y * y) / determinant, determinant


def log_normal(value: Floats, mean: float, deviation: float) -> Floats:
    """Normal density, but for a constant."""
    density: Floats = -0.5 * ((value - mean) / deviation) ** 2 - np.log(deviation)
    return density


def with_outliers(evidence: Floats, share: float) -> Floats:
    """Evidence where ``share`` of the observations of one individual say nothing."""
    bounded: Floats = np.logaddexp(np.log1p(-share) + evidence, np.log(share))
    return bounded


def with_doubles(evidence: Floats) -> Floats:
    """Evidence where some pairs of different individuals are as alike as one individual is."""
    bounded: Floats = -np.logaddexp(np.log1p(-DOUBLES) - evidence, np.log(DOUBLES))
    return bounded
