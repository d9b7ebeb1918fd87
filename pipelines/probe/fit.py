"""Fit a head: rows to train on and to validate on, standardised, until validation stops falling."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from cluster.errors import InputError
from pipelines.engines.engine import this_device
from pipelines.facts import HeadFacts
from pipelines.head import Head
from pipelines.probe.features import Examples, Kind, batch_rows
from pipelines.records import Record
from pipelines.scores import top_classes

Rows = npt.NDArray[np.int64]
DEFAULT_SHARE = 0.2
# A column that varies by less than this share of its own size holds rounding, not a feature.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class TrainOptions:
    """How a head is trained; two equal options on equal rows give the same head."""

    labels: str
    features: Kind = "pooled"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    epochs: int = 200
    patience: int = 20  # epochs without a better validation loss
    lr: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 64
    seed: int = 0
    split_by: str | None = None
    val_share: float | None = None  # DEFAULT_SHARE where nothing else divides
    validation: Path | None = None  # a second clip file
    limit: int | None = None
    random_backbone: bool = False


@dataclass(frozen=True)
class Parts:
    """Which rows are trained on, validated on and tested on, as places among the examples."""

    classes: tuple[str, ...]  # by name
    targets: Rows  # class of every row
    train: Rows
    validation: Rows
    test: Rows


class Curves(Record):
    """Loss and accuracy, one number an epoch; of training while its weights still moved."""

    train_loss: tuple[float, ...]
    train_accuracy: tuple[float, ...]
    validation_loss: tuple[float, ...]
    validation_accuracy: tuple[float, ...]


@dataclass(frozen=True)
class Fitted:
    """A head with the weights of its best epoch (counted from 1)."""

    head: Head
    curves: Curves
    best_epoch: int


def divide(examples: Examples, *, share: float, seed: int) -> Parts:
    """Divide as the source says, or take a stratified share of every class to validate on.

    A class of two rows or more always gets one to validate on and keeps one to train on.

    Raises:
        InputError: fewer than two classes, a class with nothing to train on, or nothing to
            validate on.
    """
    names, targets = np.unique(examples.labels, return_inverse=True)
    classes = tuple(names.tolist())
    if len(classes) < 2:
        raise InputError(
            f"all {len(targets)} labelled rows are {classes[0]!r}; a head needs two classes or more"
        )
    parts = examples.parts
    if parts is None:
        parts = _stratified(targets, share, seed)
    places = {name: np.flatnonzero(parts == name) for name in ("train", "validation", "test")}
    trained = np.bincount(targets[places["train"]], minlength=len(classes))
    for index in np.flatnonzero(trained == 0).tolist():
        seen = {name: int((targets[rows] == index).sum()) for name, rows in places.items()}
        where = ", ".join(f"{count} to {name}" for name, count in seen.items() if count)
        raise InputError(
            f"class {classes[index]!r} has no row to train on ({where}); give it some, or take "
            "its label away"
        )
    if not len(places["validation"]):
        raise InputError(
            f"none of the {len(targets)} labelled rows is there to validate on; give another "
            "--split-by or --validation, or classes of two rows or more"
        )
    return Parts(classes, targets, places["train"], places["validation"], places["test"])


def _stratified(targets: Rows, share: float, seed: int) -> npt.NDArray[np.str_]:
    stream = np.random.Generator(np.random.PCG64(seed))
    parts = np.full(len(targets), "train", dtype="<U10")
    for index in range(int(targets.max()) + 1):
        rows = stream.permutation(np.flatnonzero(targets == index))
        count = min(len(rows) - 1, max(1, math.floor(len(rows) * share + 0.5)))
        parts[rows[:count]] = "validation"
    return parts


def fit(
    examples: Examples,
    parts: Parts,
    options: TrainOptions,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Fitted:
    """Train a head with AdamW and keep the weights of the lowest validation loss.

    ``report`` is told epochs done and the most there will be. The same arguments give the
    same weights on one machine.

    Raises:
        InputError: the loss is not finite from the first epoch on.
    """
    facts = HeadFacts(
        features=examples.kind,
        shape=examples.shape,
        hidden=options.hidden,
        dropout=options.dropout,
        classes=parts.classes,
        spec=examples.spec,
        fingerprint=examples.fingerprint,
    )
    device = this_device()
    gpus = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.manual_seed(options.seed)
        head = Head(facts)
        mean, scale = standardisation(examples.features, parts.train)
        head.mean.copy_(torch.from_numpy(mean))
        head.scale.copy_(torch.from_numpy(scale))
        return _epochs(head.to(device), examples.features, parts, options, report)


def _epochs(
    head: Head,
    features: npt.NDArray[np.float32],
    parts: Parts,
    options: TrainOptions,
    report: Callable[[int, int], None],
) -> Fitted:
    order = np.random.Generator(np.random.PCG64(options.seed))
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=options.lr, weight_decay=options.weight_decay
    )
    train: list[tuple[float, float]] = []
    validation: list[tuple[float, float]] = []
    best_loss, best_epoch, best = math.inf, 0, copy.deepcopy(head.state_dict())
    for epoch in range(1, options.epochs + 1):
        head.train()
        loss_sum, right = 0.0, 0
        for x, y in _batches(
            features, parts.targets, order.permutation(parts.train), options.batch, head.mean.device
        ):
            optimizer.zero_grad()
            outputs = head.outputs(x)
            loss = loss_of(outputs, y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum += float(loss.detach()) * len(y)
            right += int((chosen(outputs) == y).sum())
        train.append((loss_sum / len(parts.train), right / len(parts.train)))
        validation.append(evaluate(head, features, parts.targets, parts.validation))
        if validation[-1][0] < best_loss:
            best_loss, best_epoch = validation[-1][0], epoch
            best = copy.deepcopy(head.state_dict())
        report(epoch, options.epochs)
        if not best_epoch:
            raise InputError(
                f"the loss is {validation[-1][0]} after the first epoch; give a smaller --lr than "
                f"{options.lr:g}"
            )
        if epoch - best_epoch >= options.patience:
            break
    head.load_state_dict(best)
    curves = Curves(
        train_loss=tuple(loss for loss, _ in train),
        train_accuracy=tuple(share for _, share in train),
        validation_loss=tuple(loss for loss, _ in validation),
        validation_accuracy=tuple(share for _, share in validation),
    )
    return Fitted(head.cpu().eval().requires_grad_(False), curves, best_epoch)


def standardisation(
    features: npt.NDArray[np.float32], rows: Rows
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and one over the standard deviation of each column, ``[D]`` each, over ``rows``.

    A column that is constant but for rounding gets the scale 1: dividing by its deviation
    would make noise as loud as features.
    """
    width = features.shape[1]
    total, square = np.zeros(width), np.zeros(width)
    for some in _blocks(rows, width):
        total += features[some].sum(0, dtype=np.float64)
    mean = total / len(rows)
    for some in _blocks(rows, width):
        square += ((features[some] - mean) ** 2).sum(0)
    deviation = np.sqrt(square / len(rows))
    constant = deviation <= _CONSTANT * np.abs(mean)
    scale = 1 / np.where(constant, 1.0, deviation)
    return mean.astype(np.float32), scale.astype(np.float32)


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean loss of ``Head.outputs``: binary cross-entropy for ``[B, 1]``, else cross-entropy."""
    if outputs.shape[1] == 1:
        return binary_cross_entropy_with_logits(outputs[:, 0], targets.float())
    return cross_entropy(outputs, targets)


def chosen(outputs: torch.Tensor) -> torch.Tensor:
    """Class of each row of ``Head.outputs``."""
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)


@torch.no_grad()
def evaluate(
    head: Head, features: npt.NDArray[np.float32], targets: Rows, rows: Rows
) -> tuple[float, float]:
    """Mean loss and accuracy over ``rows``."""
    head.eval()
    loss, right = 0.0, 0
    for some in _blocks(rows, features.shape[1]):
        for x, y in _batches(features, targets, some, len(some), head.mean.device):
            outputs = head.outputs(x)
            loss += float(loss_of(outputs, y)) * len(y)
            right += int((chosen(outputs) == y).sum())
    return loss / len(rows), right / len(rows)


@torch.no_grad()
def classify(
    head: Head, features: npt.NDArray[np.float32], rows: Rows | None = None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Best class and its score, ``[N]`` each, of flattened features ``[N, D]``, or some rows."""
    head.eval()
    rows = np.arange(len(features)) if rows is None else rows
    logits = [np.empty((0, len(head.facts.classes)), np.float32)]
    for some in _blocks(rows, features.shape[1]):
        x = torch.from_numpy(features[some]).to(head.mean.device)
        logits.append(head(x).cpu().numpy())
    index, score = top_classes(np.concatenate(logits), 1)
    return index[:, 0], score[:, 0]


def _blocks(rows: Rows, width: int) -> Iterator[Rows]:
    step = batch_rows(width)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _batches(
    features: npt.NDArray[np.float32],
    targets: Rows,
    rows: Rows,
    size: int,
    device: torch.device,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        yield (
            torch.from_numpy(features[some]).to(device),
            torch.from_numpy(targets[some]).to(device),
        )
