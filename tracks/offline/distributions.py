"""Densities that linking compares: how displacements, looks and areas vary; logarithms, in nats.

A link's evidence is ``log p(seen | same individual) - log p(seen | different ones)``. Animals sit for long and
then leave at once, so the displacements of one individual are a mixture of a narrow and a broad
Student's t; a look either holds from frame to frame or has changed with the pose, a mixture of two
normal distributions. No look may decide alone: each may be an outlier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from index.vectors import Floats

FREEDOM = 2.0  # of Student's t: tails so heavy that a start at once is no surprise
OUTLIERS = 0.1  # share of links whose look, or size, says nothing
MAX_MOVE = 12.0  # nats; a displacement of nearly nothing is not more certain than this


Number = Any  # a float, or one for each pair [P]
Normal = tuple[Number, Number]  # mean and standard deviation


@dataclass(frozen=True)
class Moves:
    """How far apart two detections lie, in sizes of their boxes.

    One for all pairs, or for each pair its own: scatters are ``[2, 2]`` or ``[P, 2, 2]``.
    """

    near: Floats  # scatter of one individual that goes on as before
    far: Floats  # of one that leaves its place
    far_share: Number  # of links

    def evidence(
        self, displacement: Floats, anywhere: Floats, near: Floats | None = None
    ) -> Floats:
        """Of displacements ``[P, 2]``, in nats ``[P]``.

        A detection that continues none may be anywhere in the image. The places of others say nothing
        more: two that stay close together would make every step of that length an exchange.

        Args:
            displacement: in sizes of the boxes.
            anywhere: log density of a place anywhere ``[P]``.
            near: log density of each in an individual that goes on ``[P]``, where its velocity is
                known; default by ``self.near``.
        """
        if near is None:
            near = log_t(displacement, self.near)
        far = log_t(displacement, self.far)
        same = np.logaddexp(np.log1p(-self.far_share) + near, np.log(self.far_share) + far)
        evidence: Floats = np.minimum(same - anywhere, MAX_MOVE)
        return evidence


@dataclass(frozen=True)
class Looks:
    """Cosines of two looks; one for all pairs, or for each its own ``[P]``."""

    kept: Normal  # of one individual that looks as before
    changed: Normal  # of one in another pose
    changed_share: Number  # of links
    different: Normal  # of different individuals
    doubles: Number  # share of different individuals that are as alike as one is

    def evidence(self, cosine: Floats) -> Floats:
        """Of cosines ``[P]``, in nats."""
        return with_doubles(with_outliers(self.ratio(cosine), OUTLIERS), self.doubles)

    def ratio(self, cosine: Floats) -> Floats:
        """The same without outliers and doubles; nothing is more alike than alike."""
        capped = np.minimum(cosine, self.kept[0])
        same = np.logaddexp(
            np.log1p(-self.changed_share) + log_normal(capped, *self.kept),
            np.log(self.changed_share) + log_normal(capped, *self.changed),
        )
        ratio: Floats = same - log_normal(cosine, *self.different)
        return ratio

    @property
    def same(self) -> tuple[float, float]:
        """Mean and standard deviation of both parts together, where it is one for all pairs."""
        shares = np.array([1 - self.changed_share, self.changed_share])
        means, deviations = np.array([self.kept, self.changed]).T
        mean = float(shares @ means)
        return mean, float(np.sqrt(shares @ (deviations**2 + means**2) - mean**2))


@dataclass(frozen=True)
class Growth:
    """Logarithms of area ratios: standard deviations about 0; one for all pairs, or ``[P]``."""

    same: Number  # of one individual
    different: Number  # of different ones

    def evidence(self, seen: Floats) -> Floats:
        """Of logarithms of area ratios ``[P]``, in nats."""
        ratio = log_normal(seen, 0.0, self.same) - log_normal(seen, 0.0, self.different)
        return with_outliers(ratio, OUTLIERS)


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


def log_normal(value: Floats, mean: Number, deviation: Number) -> Floats:
    """Normal density, but for a constant."""
    density: Floats = -0.5 * ((value - mean) / deviation) ** 2 - np.log(deviation)
    return density


def with_outliers(evidence: Floats, share: float) -> Floats:
    """Evidence where ``share`` of the observations of one individual say nothing."""
    bounded: Floats = np.logaddexp(np.log1p(-share) + evidence, np.log(share))
    return bounded


def with_doubles(evidence: Floats, share: Number) -> Floats:
    """Evidence where ``share`` of different individuals are as alike as one individual is."""
    bounded: Floats = -np.logaddexp(np.log1p(-share) - evidence, np.log(share))
    return bounded
