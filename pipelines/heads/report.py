"""Measures of a head and of simple baselines, and the record of its training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, model_validator

from common.extras import optional
from common.json_models import JsonModel
from pipelines.heads.config import TrainConfig
from pipelines.heads.features import Examples
from pipelines.heads.parts import Parts, Rows
from pipelines.model_info import HeadInfo

FORMAT = 2
NEIGHBOURS = 5


class Score(JsonModel):
    """Two numbers to compare by; macro-F1 is the mean over classes that occur."""

    accuracy: float
    macro_f1: float


class ClassMeasures(JsonModel):
    """One class; 0 where there is nothing to divide by."""

    precision: float
    recall: float
    f1: float
    support: int  # rows of this class


class Measures(Score):
    """A classifier's answers compared with labels."""

    rows: int
    classes: dict[str, ClassMeasures]
    confusion: tuple[tuple[int, ...], ...]  # rows: the label; columns: the answer

    @property
    def score(self) -> Score:
        """The two numbers alone."""
        return Score(accuracy=self.accuracy, macro_f1=self.macro_f1)


class RandomBackbone(JsonModel):
    """The same head on features of the same network with random weights."""

    run: str
    scores: dict[str, Score]


class ProbeRecord(JsonModel):
    """Contents of the JSON file of a head; fields of earlier versions are ignored."""

    model_config = ConfigDict(extra="ignore")

    format: int = FORMAT
    config: TrainConfig
    head: HeadInfo
    head_sha256: str
    chosen: dict[str, float] = Field(default_factory=dict)  # by the validation loss: C, or epochs
    rows: dict[str, int]  # part to rows
    left_out: dict[str, int]  # reason to rows
    measures: dict[str, Measures]  # train, validation and, where there is one, test
    baselines: dict[str, dict[str, Score]]  # majority, knn, linear: part to score
    random_backbone: RandomBackbone | None
    notes: tuple[str, ...]
    versions: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _read_format_1(cls, data: Any) -> Any:
        """Format 1 has ``source`` and ``options``, among them some that are gone."""
        if not isinstance(data, dict) or "options" not in data:
            return data
        options = {k: v for k, v in data["options"].items() if k in TrainConfig.model_fields}
        return data | {"config": {"source": data["source"], **options}}


def measure(truth: Rows, answers: npt.NDArray[Any], classes: tuple[str, ...]) -> Measures:
    """Compare predicted classes with the labels.

    Args:
        truth: ``[N]``, class indices of the labels, N at least 1.
        answers: ``[N]``, predicted class indices.
        classes: their names.
    """
    metrics, indices = optional("sklearn.metrics", "probe"), np.arange(len(classes))
    columns = metrics.precision_recall_fscore_support(
        truth, answers, labels=indices, zero_division=0
    )
    return Measures(
        accuracy=metrics.accuracy_score(truth, answers),
        macro_f1=metrics.f1_score(truth, answers, average="macro", zero_division=0),
        rows=len(truth),
        classes={
            name: ClassMeasures(precision=p, recall=r, f1=f, support=n)
            for name, p, r, f, n in zip(classes, *(c.tolist() for c in columns), strict=True)
        },
        confusion=metrics.confusion_matrix(truth, answers, labels=indices).tolist(),
    )


def baselines_of(examples: Examples, parts: Parts) -> dict[str, dict[str, Score]]:
    """Scores of simple classifiers on the rows outside training.

    ``majority`` predicts the most frequent class, ``knn`` that of the five nearest training rows
    by cosine.
    """
    features, targets = examples.features, parts.targets
    models = {
        "majority": optional("sklearn.dummy", "probe").DummyClassifier(strategy="most_frequent"),
        "knn": optional("sklearn.neighbors", "probe").KNeighborsClassifier(
            min(NEIGHBOURS, len(parts.train)), metric="cosine", algorithm="brute"
        ),
    }
    scores: dict[str, dict[str, Score]] = {}
    for name, model in models.items():
        model.fit(features[parts.train], targets[parts.train])
        scores[name] = {
            part: measure(targets[rows], model.predict(features[rows]), parts.classes).score
            for part, rows in parts.measured.items()
            if part != "train"
        }
    return scores
