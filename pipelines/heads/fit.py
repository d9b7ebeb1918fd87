"""Fit a head with scikit-learn; the validation rows choose how strongly it is regularised."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from common.extras import optional
from pipelines.heads.features import Examples, Kind, batch_rows
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
class TrainOptions:
    """How a head is trained; two equal options on equal rows give the same head."""

    labels: str
    features: Kind = "pooled"
    hidden: tuple[int, ...] = ()
    seed: int = 0
    split_by: str | None = None
    val_share: float | None = None  # a fifth where nothing else divides
    validation: Path | None = None  # a second clip file
    limit: int | None = None
    random_backbone: bool = False


@dataclass(frozen=True)
class Fitted:
    """A head, and the setting that the validation loss chose: ``C``, or ``epochs``."""

    head: Head
    chosen: dict[str, float]


def fit(
    examples: Examples,
    parts: Parts,
    options: TrainOptions,
    report: Report = lambda done, most: None,
) -> Fitted:
    """Train logistic regression, or an MLP where ``options.hidden`` has widths.

    ``report`` receives steps done and the most there will be. The same arguments give the same
    weights on one machine.
    """
    mean, scale = standardisation(examples.features, parts.train)
    if options.hidden:  # rows of length 1: else a step of Adam moves a wide layer too far
        scale /= np.float32(math.sqrt(len(scale)))
    x, held = (_scaled(examples.features[r], mean, scale) for r in (parts.train, parts.validation))
    y, truth = parts.targets[parts.train], parts.targets[parts.validation]

    def losses(model: Any) -> npt.NDArray[np.float64]:
        likely = model.predict_proba(held)[np.arange(len(truth)), truth]
        found: npt.NDArray[np.float64] = -np.log(np.maximum(likely, 1e-12), dtype=np.float64)
        return found

    fitted = _network if options.hidden else _linear
    weights, chosen = fitted(x, y, losses, options, report)
    facts = HeadInfo(
        features=examples.kind,
        shape=examples.shape,
        hidden=options.hidden,
        dropout=0.0,
        classes=parts.classes,
        spec=examples.spec,
        fingerprint=examples.fingerprint,
    )
    return Fitted(head_of(facts, mean, scale, weights), chosen)


def _scaled(rows: Floats, mean: Floats, scale: Floats) -> Floats:
    rows -= mean  # in place: they are a copy already, and may be most of the memory
    rows *= scale
    return rows


def _linear(
    x: Floats, y: Rows, losses: Losses, options: TrainOptions, report: Report
) -> tuple[Weights, dict[str, float]]:
    """The strongest regularisation within one standard error of the lowest validation loss."""
    model = optional("sklearn.linear_model", "probe").LogisticRegression(
        max_iter=1000, warm_start=True
    )
    tried: list[tuple[float, float, Weights]] = []
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            # Where the steps run out, the validation loss judges the weights of the last one.
            warnings.simplefilter(
                "ignore", optional("sklearn.exceptions", "probe").ConvergenceWarning
            )
            model.set_params(C=strength).fit(x, y)
        found = losses(model)
        tried.append((found.mean(), found.std() / math.sqrt(len(found)), weights_of(model)))
        report(len(tried), len(STRENGTHS))
    lowest, error, _ = min(tried, key=lambda one: one[0])
    best = next(n for n, (loss, _, _) in enumerate(tried) if loss <= lowest + error)
    return tried[best][2], {"C": STRENGTHS[best]}


def _network(
    x: Floats, y: Rows, losses: Losses, options: TrainOptions, report: Report
) -> tuple[Weights, dict[str, float]]:
    """The epoch of the lowest validation loss."""
    model = optional("sklearn.neural_network", "probe").MLPClassifier(
        options.hidden, batch_size=min(_BATCH, len(y)), random_state=options.seed
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
    """Mean and one over the standard deviation of each column, ``[D]`` each, over ``rows``.

    A column that is constant but for rounding gets the scale 1: dividing by its deviation
    would make noise as loud as features.
    """
    scaler = optional("sklearn.preprocessing", "probe").StandardScaler()
    for some in _blocks(rows, features.shape[1]):
        scaler.partial_fit(features[some])  # sums in float64
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
    """A head that answers like the classifier of ``weights`` does on standardised features."""
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
    """Best class and its score, ``[N]`` each, of flattened features ``[N, D]``, or some rows."""
    rows = np.arange(len(features)) if rows is None else rows
    logits = [np.empty((0, len(head.facts.classes)), np.float32)]
    for some in _blocks(rows, features.shape[1]):
        logits.append(head(torch.from_numpy(features[some]).to(head.mean.device)).cpu().numpy())
    index, score = top_classes(np.concatenate(logits), 1)
    return index[:, 0], score[:, 0]


def _blocks(rows: Rows, width: int) -> Iterator[Rows]:
    step = batch_rows(width)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
