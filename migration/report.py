"""The records of ``RUN2/migration/report.json``: what a migration changed.

Where something cannot be compared, its field ``reason`` says why and its numbers are null. Shares
are 0..1. In the names of fields *then* is the old run, *now* the new one.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.json_models import JsonModel
from index.config import Metric
from migration.verdict import Verdict
from pipelines.model_info import EngineName, Precision
from tracks.association.options import LinkOptions

FORMAT = 1

Quantiles = dict[str, float]  # "0.05" to the value of the 0.05 quantile


class Histogram(JsonModel):
    """Counts between edges; there is one edge more than counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class ComparedRun(JsonModel):
    """One of the two runs."""

    run: str
    spec: str
    weights: str
    fingerprint: str
    manifest_sha256: str
    dim: int
    classes: int
    precision: Precision
    engine: EngineName


class NewFailure(JsonModel):
    """A row that has an error in the new run only."""

    detection_id: str
    error: str


class Counts(JsonModel):
    """Number of rows, and of rows with an error."""

    rows: int
    failed_then: int
    failed_now: int
    newly_failed: int
    newly_fine: int
    first_failures: tuple[NewFailure, ...]  # a few of the newly failed


class Change(JsonModel):
    """Rows that changed from one class to another."""

    then: str
    now: str
    rows: int


class ClassKept(JsonModel):
    """Rows of one old class, and how many of them kept it."""

    label: str
    rows: int
    kept: int


class Labels(JsonModel):
    """Classes of the rows that both runs classify.

    ``agreement`` is over ``rows``: those where both classes are known to both models. The others
    are counted as ``only_then`` (the new model lacks the old class) and ``only_now``.
    """

    reason: str | None  # why they cannot be compared
    by: Literal["name", "number"] | None = None  # by number where neither model names its classes
    classes_then: int
    classes_now: int
    classes_shared: int
    rows: int = 0
    only_then: int = 0
    only_now: int = 0
    agreeing: int = 0
    agreement: float | None = None
    changes: tuple[Change, ...] = ()  # the most frequent first
    by_class: tuple[ClassKept, ...] = ()  # the most rows changed first


class Neighbours(JsonModel):
    """Overlap of the k nearest neighbours of the same detections in both embedding spaces.

    For each query, a detection of the run, the k nearest others are computed in both spaces by
    exact search; its overlap is the share of neighbours that both have in common. ``chance`` is
    the expected overlap of two unrelated spaces.
    """

    reason: str | None
    k: int
    metric: Metric
    seed: int
    queries: int = 0
    rows: int  # that queries are compared with
    overlap: float | None = None  # the mean
    chance: float | None = None
    quantiles: Quantiles = Field(default_factory=dict)
    counts: tuple[int, ...] = ()  # queries that share 0, 1, … k neighbours


class Drift(JsonModel):
    """Cosine of each row's old embedding to its new one, where both have the same dimension.

    Equal dimensions do not make one space: unless the new model was trained from the old one, its
    axes mean something else, and cosines are near zero whatever the quality of the new model.
    """

    reason: str | None
    rows: int = 0
    mean: float | None = None
    quantiles: Quantiles = Field(default_factory=dict)
    histogram: Histogram | None = None


class LinksChanged(JsonModel):
    """Links (previous, this) of both runs, linked with the same options.

    ``changed`` is the share of all links of either run that only one of them has.
    """

    reason: str | None
    options: LinkOptions | None = None
    then: int = 0
    now: int = 0
    kept: int = 0
    lost: int = 0
    new: int = 0
    changed: float | None = None
    tracks_then: int = 0
    tracks_now: int = 0


class Separation(JsonModel):
    """The threshold that separates linked pairs from the others best.

    It has the largest balanced accuracy, ``balanced``: (share of linked pairs within it + share of
    other pairs beyond it) / 2, which is 0.5 by chance and 1 for a perfect separation.
    """

    threshold: float
    balanced: float
    linked_within: float
    others_beyond: float


class Threshold(JsonModel):
    """The ``max_cost`` of the new space that corresponds to that of the old one.

    Pairs are those of detections in consecutive frames of a sequence, drawn at random where there
    are many; *linked* pairs are those that the old run links. A pair's cost is that of the two
    detections alone, with the weights of the tracker: the term of the boxes is the same in both
    spaces, only that of the embeddings differs.

    ``suggested`` matches quantiles: as many of the same pairs are within it in the new space as
    are within ``max_cost`` in the old one. It is the mean of the two costs it lies between.
    ``then`` and ``now`` say how well any threshold separates linked pairs from the others, which
    a change of the threshold cannot improve.
    """

    reason: str | None  # why nothing is suggested
    max_cost: float | None = None
    suggested: float | None = None
    pairs: int = 0
    linked: int = 0
    within: int = 0  # pairs of at most max_cost in the old space
    linked_within_now: float | None = None  # share of linked pairs of at most max_cost in the new
    then: Separation | None = None
    now: Separation | None = None
    linked_then: Histogram | None = None
    linked_now: Histogram | None = None
    others_then: Histogram | None = None
    others_now: Histogram | None = None


class RunCost(JsonModel):
    """Time per image of a run, by the session that finished it.

    ``images_a_second`` is measured between the first result and the last where there are two,
    otherwise over the whole session. Hours are of a GPU, or of a core where there is no GPU.
    """

    reason: str | None = None
    seconds: float
    rows: int = 0  # finished in that session
    images_a_second: float | None = None
    with_start_up: float | None = None
    unit: Literal["GPU", "core"] | None = None
    units: float | None = None
    unit_hours: float | None = None  # of that session
    hours_a_million: float | None = None  # on as many units
    unit_hours_a_million: float | None = None


class Costs(JsonModel):
    """Costs of both runs; comparable where one machine made both."""

    then: RunCost
    now: RunCost


class MigrationReport(JsonModel):
    """Contents of ``report.json``."""

    format: int = FORMAT
    created: str  # ISO 8601, UTC
    then: ComparedRun
    now: ComparedRun
    counts: Counts
    labels: Labels
    neighbours: Neighbours
    drift: Drift
    links: LinksChanged
    threshold: Threshold
    costs: Costs
    verdict: Verdict
    notes: tuple[str, ...]
