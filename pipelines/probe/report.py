"""What a head is worth: measures of it and of baselines, and the record of its training."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.errors import InputError
from pipelines.facts import HeadFacts
from pipelines.head import head_sha256
from pipelines.probe.features import Examples
from pipelines.probe.fit import Curves, Fitted, Parts, Rows, TrainOptions, classify, standardisation
from pipelines.records import Record

FORMAT = 1
NEIGHBOURS = 5
_LINEAR_STEPS = 1000


class Score(Record):
    """Two numbers to compare by; macro-F1 is the mean over classes that occur."""

    accuracy: float
    macro_f1: float


class ClassMeasures(Record):
    """One class; 0 where there is nothing to divide by."""

    precision: float
    recall: float
    f1: float
    support: int  # rows of this class


class Measures(Score):
    """A classifier's answers held against labels."""

    rows: int
    classes: dict[str, ClassMeasures]
    confusion: tuple[tuple[int, ...], ...]  # rows: the label; columns: the answer


class RandomBackbone(Record):
    """The same head on the same network's features, untrained: what chance comes to."""

    run: str
    scores: dict[str, Score]


class ProbeRecord(Record):
    """Contents of the JSON beside a head."""

    format: int = FORMAT
    source: str
    head: HeadFacts
    head_sha256: str
    options: dict[str, Any]
    rows: dict[str, int]  # part to rows
    left_out: dict[str, int]  # reason to rows
    epochs: int  # run
    best_epoch: int  # whose weights the head has; the first is 1
    curves: Curves
    measures: dict[str, Measures]  # train, validation and, where there is one, test
    baselines: dict[str, dict[str, Score]]  # majority, knn, linear: part to score
    random_backbone: RandomBackbone | None
    notes: tuple[str, ...]
    versions: dict[str, str]


def extra(module: str) -> Any:
    """A module of the extra ``probe``.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise InputError(
            f"{module.partition('.')[0]} is not installed, which measures and pictures need; run: "
            "pip install 'onepass[probe]'"
        ) from None


def measure(truth: Rows, answers: npt.NDArray[Any], classes: tuple[str, ...]) -> Measures:
    """Hold class indices against the labels' ``[N]``, N at least 1."""
    metrics = extra("sklearn.metrics")
    indices = np.arange(len(classes))
    columns = metrics.precision_recall_fscore_support(
        truth, answers, labels=indices, zero_division=0
    )
    confusion = metrics.confusion_matrix(truth, answers, labels=indices)
    return Measures(
        **_score(truth, answers).model_dump(),
        rows=len(truth),
        classes={
            name: ClassMeasures(precision=p, recall=r, f1=f, support=int(n))
            for name, p, r, f, n in zip(classes, *(c.tolist() for c in columns), strict=True)
        },
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _score(truth: Rows, answers: npt.NDArray[Any]) -> Score:
    metrics = extra("sklearn.metrics")
    return Score(
        accuracy=float(metrics.accuracy_score(truth, answers)),
        macro_f1=float(metrics.f1_score(truth, answers, average="macro", zero_division=0)),
    )


def held_out(parts: Parts) -> dict[str, Rows]:
    """The parts that were not trained on, those that have rows."""
    found = {"validation": parts.validation, "test": parts.test}
    return {name: rows for name, rows in found.items() if len(rows)}


def measures_of(fitted: Fitted, examples: Examples, parts: Parts) -> dict[str, Measures]:
    """A head's measures on every part."""
    found = {}
    for name, rows in {"train": parts.train, **held_out(parts)}.items():
        answers, _ = classify(fitted.head, examples.features, rows)
        found[name] = measure(parts.targets[rows], answers, parts.classes)
    return found


def baselines_of(
    examples: Examples, parts: Parts, options: TrainOptions
) -> tuple[dict[str, dict[str, Score]], tuple[str, ...]]:
    """Scores of simple classifiers on the same rows, and what is to be said of them.

    ``majority`` answers the commonest class. ``knn`` asks the five nearest training rows by
    cosine. ``linear`` is logistic regression on standardised features, where the head is more
    than linear itself; of maps it is left out, because it takes longer than the head.
    """
    features, targets, train = examples.features, parts.targets, parts.train
    commonest = int(np.bincount(targets[train]).argmax())
    neighbours = extra("sklearn.neighbors").KNeighborsClassifier(
        min(NEIGHBOURS, len(train)), metric="cosine", algorithm="brute"
    )
    neighbours.fit(features[train], targets[train])
    answers: dict[str, Callable[[Rows], npt.NDArray[Any]]] = {
        "majority": lambda rows: np.full(len(rows), commonest),
        "knn": lambda rows: neighbours.predict(features[rows]),
    }
    notes: tuple[str, ...] = ()
    if options.hidden and examples.kind == "pooled":
        mean, scale = standardisation(features, train)
        linear = extra("sklearn.linear_model").LogisticRegression(max_iter=_LINEAR_STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of steps running out, which is said below
            linear.fit((features[train] - mean) * scale, targets[train])
        if int(linear.n_iter_.max()) >= _LINEAR_STEPS:
            notes = (f"the linear baseline did not settle in {_LINEAR_STEPS} steps",)
        answers["linear"] = lambda rows: linear.predict((features[rows] - mean) * scale)
    scores = {
        name: {part: _score(targets[rows], answer(rows)) for part, rows in held_out(parts).items()}
        for name, answer in answers.items()
    }
    return scores, notes


def notes_of(examples: Examples, parts: Parts) -> tuple[str, ...]:
    """What makes the measures less than they seem."""
    notes = []
    count = np.bincount(parts.targets[parts.validation], minlength=len(parts.classes))
    unseen = [parts.classes[index] for index in np.flatnonzero(count == 0)]
    if unseen:
        notes.append(
            f"{len(unseen)} of {len(parts.classes)} classes have no row to validate on, the first "
            f"is {unseen[0]!r}"
        )
    if examples.images is not None and examples.parts is None:
        # Boxes of one image, and frames of one video, are nearly the same picture.
        origin = np.array([name.partition("#")[0] for name in examples.images.tolist()])
        shared = np.isin(origin[parts.validation], origin[parts.train]).sum()
        if shared:
            notes.append(
                f"{shared} of {len(parts.validation)} rows to validate on come from an image or "
                "video that is trained on as well, so validation is too kind; divide with --split-by"
            )
    return tuple(notes)


def describe_probe(
    source: str,
    fitted: Fitted,
    examples: Examples,
    parts: Parts,
    options: TrainOptions,
    *,
    random_backbone: RandomBackbone | None,
) -> ProbeRecord:
    """Measure a head and its baselines, and put down how it was made."""
    baselines, notes = baselines_of(examples, parts, options)
    used = {name: value for name, value in vars(options).items() if value is not None}
    return ProbeRecord(
        source=source,
        head=fitted.head.facts,
        head_sha256=head_sha256(fitted.head),
        options=json.loads(json.dumps(used, default=str)),  # paths are text there
        rows={
            "train": len(parts.train),
            **{name: len(rows) for name, rows in held_out(parts).items()},
        },
        left_out=examples.left_out,
        epochs=len(fitted.curves.train_loss),
        best_epoch=fitted.best_epoch,
        curves=fitted.curves,
        measures=measures_of(fitted, examples, parts),
        baselines=baselines,
        random_backbone=random_backbone,
        notes=(*notes_of(examples, parts), *notes),
        versions={
            "python": platform.python_version(),
            **{
                name: version(name)
                for name in ("onepass", "torch", "numpy", "scikit-learn", "matplotlib")
            },
        },
    )
