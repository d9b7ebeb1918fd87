"""What a migration changed, as records: the contract of ``RUN2/migration/report.json``.

What cannot be compared is said in a field ``reason``, and its numbers are null; nothing is left
out in silence. Shares are 0..1. *then* is the old run, *now* the new one.
"""

from __future__ import annotations

from typing import Literal

from common.json_models import JsonModel
from index.metrics import Metric
from pipelines.model_info import EngineName, Precision
from tracks.association.options import LinkOptions

FORMAT = 1

Quantiles = dict[str, float]  # "0.05" to the value that a share of 0.05 lies below


class Histogram(JsonModel):
    """Counts between edges; one edge more than counts."""

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
    """A row that has an error now and had none."""

    detection_id: str
    error: str


class Counts(JsonModel):
    """Rows, and how many of them have an error."""

    rows: int
    failed_then: int
    failed_now: int
    newly_failed: int
    newly_fine: int
    first_failures: tuple[NewFailure, ...]  # a few of the newly failed


class Change(JsonModel):
    """Rows whose class was one and is another."""

    then: str
    now: str
    rows: int


class ClassKept(JsonModel):
    """Rows of one old class, and how many of them are of it still."""

    label: str
    rows: int
    kept: int


class Labels(JsonModel):
    """Classes of the rows that both runs classify.

    ``agreement`` is over the ``rows`` of which both answers are classes that both models have;
    the others are counted as ``only_then`` (the old answer is no class of the new model) and
    ``only_now``.
    """

    reason: str | None  # why they cannot be compared
    by: Literal["name", "number"] | None  # of classes; by number where neither model names them
    classes_then: int
    classes_now: int
    classes_shared: int
    rows: int
    only_then: int
    only_now: int
    agreeing: int
    agreement: float | None
    changes: tuple[Change, ...]  # the most frequent first
    by_class: tuple[ClassKept, ...]  # the most rows changed first


class Neighbours(JsonModel):
    """Overlap of the k nearest of the same detections, in the old space and in the new.

    For each query, a detection of the run, the k nearest others are found in both spaces by
    exact search; its overlap is the share of them that both name. ``chance`` is what two spaces
    that have nothing to do with each other come to.
    """

    reason: str | None
    k: int
    metric: Metric
    seed: int
    queries: int
    rows: int  # that neighbours were looked for among
    overlap: float | None  # the mean
    chance: float | None
    quantiles: Quantiles
    counts: tuple[int, ...]  # queries that share 0, 1, … k neighbours


class Drift(JsonModel):
    """Cosine of each row's old embedding to its new one, where both have as many numbers.

    Equal length does not make it one space: unless the new model was trained from the old one,
    its axes mean something else, cosines lie near zero and say nothing about its worth.
    """

    reason: str | None
    rows: int
    mean: float | None
    quantiles: Quantiles
    histogram: Histogram | None


class LinksChanged(JsonModel):
    """Links (previous, this) that linking makes with the same options in both spaces.

    ``changed`` is the share of all links of either run that only one of them has.
    """

    reason: str | None
    options: LinkOptions | None
    then: int
    now: int
    kept: int
    lost: int
    new: int
    changed: float | None
    tracks_then: int
    tracks_now: int


class Separation(JsonModel):
    """Where one threshold parts linked pairs from the others best.

    That is where (share of linked pairs within it + share of other pairs beyond it) / 2 is
    largest: ``balanced``, 0.5 by chance and 1 if they can be parted.
    """

    threshold: float
    balanced: float
    linked_within: float
    others_beyond: float


class Threshold(JsonModel):
    """What ``max_cost`` becomes in the new space.

    Pairs are those of detections in neighbouring frames of a sequence, up to a bound drawn at
    random; *linked* are those that the old run links. A pair's cost is that of the two
    detections alone, with the weights of the tracker, so boxes cost the same in both spaces and
    only the embeddings' term moves.

    ``suggested`` matches quantiles: as many of the same pairs lie within it in the new space as
    lie within ``max_cost`` in the old one. It is the middle between the two costs it may lie
    between. ``then`` and ``now`` say how well any threshold parts linked pairs from the others,
    which is what the suggestion cannot mend.
    """

    reason: str | None  # why nothing is suggested
    max_cost: float | None
    suggested: float | None
    pairs: int
    linked: int
    within: int  # pairs of at most max_cost in the old space
    linked_within_now: float | None  # share of linked pairs of at most max_cost in the new one
    then: Separation | None
    now: Separation | None
    linked_then: Histogram | None
    linked_now: Histogram | None
    others_then: Histogram | None
    others_now: Histogram | None


class RunCost(JsonModel):
    """What a run's images cost, by the session that finished it.

    ``images_a_second`` is between the first answer and the last where there are two, else of the
    whole session. Hours are of a GPU, or of a core where there is none.
    """

    reason: str | None
    seconds: float
    rows: int  # answered in that session
    images_a_second: float | None
    with_start_up: float | None
    unit: Literal["GPU", "core"] | None
    units: float | None
    unit_hours: float | None  # of that session
    hours_a_million: float | None  # on as many units
    unit_hours_a_million: float | None


class Costs(JsonModel):
    """Both runs' costs; they compare where the same machine made both."""

    then: RunCost
    now: RunCost


class Limits(JsonModel):
    """What a migration must keep to pass.

    The defaults lie below what two models of one kind reach and above what a network that was
    never trained does. EfficientNet-Lite0 and Lite1 agree on 0.93 of 200 ImageNet images and share
    0.49 of their ten nearest; on 119 crops of a moth trap they share 0.68, and Lite0 with an
    untrained ResNet-18 0.36. Classes that mean nothing for the images agree less (0.39 there), and
    a model for another task needs limits of its own. Failures are no matter of taste.
    """

    min_label_agreement: float = 0.8
    min_overlap: float = 0.4
    max_new_failures: int = 0
    max_changed_links: float = 0.3


class LimitCheck(JsonModel):
    """One limit and what was measured."""

    name: str
    limit: float
    measured: float | None
    outcome: Literal["met", "missed", "not comparable"]
    says: str


class Verdict(JsonModel):
    """Passed: no limit was missed. What is not comparable neither passes nor fails it."""

    passed: bool
    limits: tuple[LimitCheck, ...]


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
