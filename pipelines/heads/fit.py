"""Fit a head with scikit-learn; the validation loss selects the regularisation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from common.extras import optional
from pipelines.heads.features import Examples, batch_rows
from pipelines.heads.parts import Parts, Rows
from pipelines.model_info import HeadInfo
from pipelines.models.head import Head
from pipelines.models.scores import top_classes

Floats = npt.NDArray[np.float32]
Weights = list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]  # of each layer: [in, out] and [out]
Losses = Callable[[Any], npt.NDArray[np.float64]]  # of a model, one a validation row
Report = Callable[[int, int], None]  # steps done and the most there will be
STRENGTHS = tuple(10.0**power for power in range(-5, 2))  # C of LogisticRegression
_EPOCHS, _PATIENCE, _BATCH = 200, 20, 64  # of MLPClassifier
# A column that varies by less than this share of its own size holds rounding, not a feature.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class Fitted:
    """A head, and the setting selected by the validation loss: ``C``, or ``epochs``."""

    head: Head
    chosen: dict[str, float]


def fit(
    examples: Examples,
    parts: Parts,
    *,
    hidden: tuple[int, ...] = (),
    seed: int = 0,
    report: Report = lambda done, most: None,
) -> Fitted:
    """Train logistic regression, or an MLP.

    The same arguments give the same weights on one machine.

    Args:
        examples: the features and their model.
        parts: rows to train and to validate on.
        hidden: widths of the MLP's layers; none: logistic regression.
        seed: of the MLP's weights and order.
        report: receives steps done and steps at most.
    """
    mean, scale = standardisation(examples.features, parts.train)
    if hidden:  # rows of length 1: else a step of Adam moves a wide layer too far
        scale /= np.float32(math.sqrt(len(scale)))
    x, x_val = (_scaled(examples.features[r], mean, scale) for r in (parts.train, parts.validation))
    y, y_val = parts.targets[parts.train], parts.targets[parts.validation]

    def losses(model: Any) -> npt.NDArray[np.float64]:
        likelihood = model.predict_proba(x_val)[np.arange(len(y_val)), y_val]
        return np.asarray(-np.log(np.maximum(likelihood, 1e-12), dtype=np.float64))

    if hidden:
        weights, chosen = _fit_mlp(x, y, losses, hidden, seed, report)
    else:
        weights, chosen = _fit_linear(x, y, losses, report)
    facts = HeadInfo(
        features=examples.kind,
        shape=examples.shape,
        hidden=hidden,
        dropout=0.0,
        classes=parts.classes,
        spec=examples.spec,
        fingerprint=examples.fingerprint,
    )
    return Fitted(head_of(facts, mean, scale, weights), chosen)


def _scaled(rows: Floats, mean: Floats, scale: Floats) -> Floats:
    rows -= mean  # in place: a copy already, which may take most of the memory
    rows *= scale
    return rows


def _fit_linear(
    x: Floats, y: Rows, losses: Losses, report: Report
) -> tuple[Weights, dict[str, float]]:
    """The strongest regularisation within one standard error of the lowest validation loss."""
    model = optional("sklearn.linear_model", "probe").LogisticRegression(
        max_iter=1000, warm_start=True
    )
    trials: list[tuple[float, float, Weights]] = []
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            # Without convergence, the validation loss is that of the last step's weights.
            warnings.simplefilter(
                "ignore", optional("sklearn.exceptions", "probe").ConvergenceWarning
            )
            model.set_params(C=strength).fit(x, y)
        loss = losses(model)
        trials.append((loss.mean(), loss.std() / math.sqrt(len(loss)), weights_of(model)))
        report(len(trials), len(STRENGTHS))
    lowest, error, _ = min(trials, key=lambda trial: trial[0])
    best = next(n for n, (mean, _, _) in enumerate(trials) if mean <= lowest + error)
    return trials[best][2], {"C": STRENGTHS[best]}


def _fit_mlp(
    x: Floats, y: Rows, losses: Losses, hidden: tuple[int, ...], seed: int, report: Report
) -> tuple[Weights, dict[str, float]]:
    """The epoch of the lowest validation loss."""
    model = optional("sklearn.neural_network", "probe").MLPClassifier(
        hidden, batch_size=min(_BATCH, len(y)), random_state=seed
    )
    best, epochs, weights = math.inf, 0, None
    for epoch in range(1, _EPOCHS + 1):
        loss = losses(model.partial_fit(x, y, classes=np.unique(y))).mean()
        if weights is None or loss < best:
            best, epochs, weights = loss, epoch, weights_of(model)
        report(epoch, _EPOCHS)
        if epoch - epochs >= _PATIENCE:
            break
    assert weights is not None
    return weights, {"epochs": epochs}


def standardisation(features: Floats, rows: Rows) -> tuple[Floats, Floats]:
    """Mean and reciprocal standard deviation of each column, ``[D]`` each, over ``rows``.

    A column that is constant up to rounding gets the scale 1, because dividing by its deviation
    would only enlarge noise.
    """
    scaler = optional("sklearn.preprocessing", "probe").StandardScaler()
    for block in _blocks(rows, features.shape[1]):
        scaler.partial_fit(features[block])  # sums in float64
    deviation = np.sqrt(scaler.var_)
    constant = deviation <= _CONSTANT * np.abs(scaler.mean_)
    scale = 1 / np.where(constant, 1.0, deviation)
    return scaler.mean_.astype(np.float32), scale.astype(np.float32)


def weights_of(model: Any) -> Weights:
    """A copy of weights ``[in, out]`` and bias ``[out]`` of each layer of a fitted classifier."""
    if hasattr(model, "coefs_"):
        return [(w.copy(), b.copy()) for w, b in zip(model.coefs_, model.intercepts_, strict=True)]
    return [(model.coef_.T.copy(), model.intercept_.copy())]


def head_of(facts: HeadInfo, mean: Floats, scale: Floats, weights: Weights) -> Head:
    """A head that answers like a fitted classifier on standardised features.

    Args:
        facts: of the head.
        mean, scale: ``[D]`` each, of the standardisation.
        weights: of the classifier.
    """
    head = Head(facts)
    layers = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        head.mean.copy_(torch.from_numpy(mean))
        head.scale.copy_(torch.from_numpy(scale))
        for layer, (weight, bias) in zip(layers, weights, strict=True):
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.copy_(torch.from_numpy(bias))
    return head.eval().requires_grad_(False)


@torch.no_grad()
def classify(
    head: Head, features: Floats, rows: Rows | None = None
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Classify stored features.

    Args:
        head: to classify with.
        features: ``[N, D]``, flattened.
        rows: ``[R]``, indices; default: all.

    Returns:
        Best class and its score, ``[R]`` each.
    """
    rows = np.arange(len(features)) if rows is None else rows
    logits = [np.empty((0, len(head.facts.classes)), np.float32)]
    for block in _blocks(rows, features.shape[1]):
        logits.append(head(torch.from_numpy(features[block]).to(head.mean.device)).cpu().numpy())
    index, score = top_classes(np.concatenate(logits), 1)
    return index[:, 0], score[:, 0]


def _blocks(rows: Rows, width: int) -> Iterator[Rows]:
    step = batch_rows(width)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
