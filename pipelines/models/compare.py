"""The former extractor compared with the one pass on real images: can stored vectors be kept?

The former extractor is ``nn.Sequential(*list(model.children())[:-1])``, flattened, with each
vector divided by its sum. It equals the penultimate features only where the model's children in
order are its forward pass, so it is run here to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from common.errors import ModelError, SourceError
from common.json_models import JsonModel
from pipelines.images.decode import decode_images, pixels_of
from pipelines.images.pixels import ImageError, crop, resize
from pipelines.model_info import FeaturePoint, ModelRequest, Outputs, Preprocess
from pipelines.models.base import Backbone, relative_difference
from pipelines.models.registry import describe, load_backbone
from pipelines.sources.plan import Plan, read_source

Verdict = Literal["identical", "other_point", "different", "not_runnable"]
TOLERANCE = 1e-5  # of a vector's largest value
UNSTEADY = 0.05  # |Σx| / Σ|x| below which the division enlarges noise twentyfold
BATCH = 16


class Difference(JsonModel):
    """The one pass at one feature point, compared with the old vectors.

    Both are divided by their sums first. The numbers are None where the dimensions differ.
    """

    point: FeaturePoint
    dim: int
    max_abs: float | None = None
    relative: float | None = None  # largest difference in a row over that row's largest value
    cosine_mean: float | None = None
    cosine_min: float | None = None

    @property
    def equal(self) -> bool:
        return self.relative is not None and self.relative <= TOLERANCE


class Comparison(JsonModel):
    """The result of running both extractors on the same pixels, in float32."""

    request: ModelRequest
    source: str
    weights: str  # their origin, for people
    verdict: Verdict
    says: str  # the verdict in words, with what to do
    rows: int  # compared
    errors: tuple[str, ...]  # rows left out, each with its reason and image
    old_dim: int | None = None
    old_shape: tuple[int, ...] | None = None  # of one image, before it was flattened
    old_error: str | None = None  # why the old extractor does not run
    old_is_map: bool = False  # it gives the unpooled map, flattened
    # How reliable the division by the sum is: the smallest |Σx| / Σ|x|, and the rows with a
    # negative sum, whose direction the division reversed.
    sum_share_min: float | None = None
    negative_sums: int = 0
    new: Difference  # at the requested feature point
    other: Difference | None  # at the other one, where the network has it

    @property
    def warnings(self) -> tuple[str, ...]:
        """Limits of the verdict or of the stored vectors."""
        lines = []
        if self.weights.startswith("random"):
            lines.append(
                f"{self.request.spec} has random weights: the verdict holds for the network, "
                "the sums and cosines only for these weights; give --checkpoint FILE"
            )
        if self.negative_sums:
            lines.append(
                f"{self.negative_sums} of {self.rows} old vectors have a sum below zero: dividing "
                "by it turned them to their opposite, away from their like; a new run stores "
                "vectors undivided"
            )
        elif self.sum_share_min is not None and self.sum_share_min < UNSTEADY:
            lines.append(
                f"the sum of an old vector is only {self.sum_share_min:.1e} of the sum of its "
                "absolute values: dividing by it enlarges noise; a new run stores vectors undivided"
            )
        return tuple(lines)


def compare(
    request: ModelRequest,
    source: str,
    *,
    limit: int = 64,
    report: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Run the former extractor and the one pass on the same images.

    Args:
        request: the model.
        source: a folder or a manifest of images.
        limit: rows at most, spread evenly over the source.
        report: receives rows done and planned.

    Raises:
        SourceError: no such source, or not one of its rows can be compared.
        ModelError: unknown spec, or weights or labels that do not fit.
    """
    plan = read_source(source)
    loaded = load_backbone(request)
    facts = describe(loaded, request, Outputs())
    backbone, preprocess = loaded.backbone, loaded.preprocess
    old = FormerExtractor(backbone.model)
    tallies: dict[FeaturePoint, _Tally] = {point: _Tally() for point in get_args(FeaturePoint)}
    totals = _OldTotals()
    with torch.inference_mode():
        for names, pixels in _batches(
            _spread(plan, limit), plan.root, preprocess, totals.errors, report
        ):
            x = normalise(pixels, preprocess)
            if not totals.add_old(old, x):
                break
            new = backbone.one_pass(x)
            points = {"penultimate": new.embedding, "map_mean": _mean(backbone, new.feature_map)}
            totals.is_map &= _same_map(totals.answer, new.feature_map)
            good = _finite(totals.vectors, *(v for v in points.values() if v is not None))
            totals.errors += [
                f"not finite: an extractor overflowed [{name}]"
                for name, finite in zip(names, good.tolist(), strict=True)
                if not finite
            ]
            totals.count(good)
            for point, tally in tallies.items():
                vectors = points[point]
                if vectors is not None and good.any():
                    tally.add(totals.vectors[good], vectors[good])
    if old.error is None and totals.rows == 0:
        raise SourceError(
            f"{source}: not one row can be compared, the first because of {totals.errors[0]}; "
            "give a source with readable images"
        )
    requested = request.feature_point
    rest: FeaturePoint = "map_mean" if requested == "penultimate" else "penultimate"
    difference = tallies[requested].difference(requested) or Difference(
        point=requested, dim=facts.feature_dim
    )
    other = tallies[rest].difference(rest)
    verdict = _verdict(old.error, difference, other)
    shape = None if old.error else tuple(totals.answer.shape[1:])
    return Comparison(
        request=request,
        source=source,
        weights=loaded.weights,
        verdict=verdict,
        says=_verdict_in_words(
            verdict, requested, rest, shape if totals.is_map and totals.steady else None
        ),
        rows=totals.rows,
        errors=tuple(totals.errors),
        old_dim=None if old.error else totals.vectors.shape[1],
        old_shape=shape,
        old_error=old.error,
        old_is_map=old.error is None and totals.is_map,
        sum_share_min=None if old.error else totals.share,
        negative_sums=totals.negative,
        new=difference,
        other=other,
    )


class FormerExtractor:
    """All children of a model but the last, run one after the other.

    ``error`` says why they do not run on this model, once a call has failed.
    """

    def __init__(self, model: nn.Module) -> None:
        children = list(model.children())[:-1]
        self._layers = nn.Sequential(*children)
        self.error = None if children else "the model has one child, without it nothing is left"

    def __call__(self, x: torch.Tensor) -> torch.Tensor | None:
        """``[B, 3, H, W]`` to ``[B, ...]``, not flattened yet; None where it fails."""
        if self.error is None:
            try:
                answer = self._layers(x)
            except Exception as error:  # any network's own layers, in an order not meant for them
                message = " ".join((str(error).splitlines() or [""])[0].split())
                self.error = f"{type(error).__name__}: {message}"
            else:
                if not isinstance(answer, torch.Tensor):
                    self.error = f"it gives a {type(answer).__name__}, not a tensor"
                elif answer.ndim < 2 or len(answer) != len(x):
                    self.error = f"{len(x)} images give {tuple(answer.shape)}, not a row each"
                else:
                    return answer.float()
        return None


def normalise(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """uint8 ``[B, 3, H, W]`` to network input, float32."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32)[:, None, None]
        for values in (preprocess.mean, preprocess.std)
    )
    return (pixels.float() / 255 - mean) / std


def divide_by_sum(vectors: torch.Tensor) -> torch.Tensor:
    """``[N, D]`` with each row divided by its sum, in float64; a row that sums to 0 is kept.

    float64, so that the division adds no difference of its own to what is compared.
    """
    exact = vectors.double()
    total = exact.sum(1, keepdim=True)
    return exact / torch.where(total == 0, torch.ones_like(total), total)


@dataclass
class _Tally:
    """Differences at one feature point, accumulated over batches."""

    dim: int | None = None
    comparable: bool = False
    max_abs: float = 0.0
    relative: float = 0.0
    cosines: list[float] = field(default_factory=list)

    def add(self, old: torch.Tensor, new: torch.Tensor) -> None:
        self.dim = new.shape[1]
        self.comparable = old.shape == new.shape
        if not self.comparable:
            return
        a, b = divide_by_sum(old), divide_by_sum(new)
        apart = (a - b).abs().amax(1)
        largest = a.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
        self.max_abs = max(self.max_abs, float(apart.max()))
        self.relative = max(self.relative, float((apart / largest).max()))
        self.cosines += torch.cosine_similarity(a, b).tolist()

    def difference(self, point: FeaturePoint) -> Difference | None:
        if self.dim is None:
            return None
        if not self.comparable:
            return Difference(point=point, dim=self.dim)
        return Difference(
            point=point,
            dim=self.dim,
            max_abs=self.max_abs,
            relative=self.relative,
            cosine_mean=float(np.mean(self.cosines)),
            cosine_min=min(self.cosines),
        )


class _OldTotals:
    """Outputs of the old extractor: the last batch, and counts over all."""

    answer: torch.Tensor  # [B, ...], not flattened
    vectors: torch.Tensor  # [B, D], flattened

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.rows = 0
        self.is_map = True
        self.share = 1.0
        self.negative = 0

    @property
    def steady(self) -> bool:
        """Whether the division kept the direction of the old vectors."""
        return self.share >= UNSTEADY and not self.negative

    def add_old(self, old: FormerExtractor, x: torch.Tensor) -> bool:
        answer = old(x)
        if answer is None:
            return False
        self.answer, self.vectors = answer, answer.flatten(1)
        return True

    def count(self, good: torch.Tensor) -> None:
        if not good.any():
            return
        exact = self.vectors[good].double()
        total = exact.sum(1)
        share = total.abs() / exact.abs().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
        self.rows += len(exact)
        self.share = min(self.share, float(share.min()))
        self.negative += int((total < 0).sum())


def _spread(plan: Plan, limit: int) -> pa.Table:
    """At most ``limit`` rows, evenly over the plan, in its order."""
    count = plan.table.num_rows
    return plan.table.take(np.unique(np.linspace(0, count - 1, min(limit, count)).astype(int)))


def _batches(
    rows: pa.Table,
    root: Path,
    preprocess: Preprocess,
    errors: list[str],
    report: Callable[[int, int], None] | None,
) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Image names and uint8 pixels ``[B, 3, H, W]``; unreadable rows are added to ``errors``."""
    names: list[str] = []
    pixels: list[torch.Tensor] = []
    for number, (name, decoded, box) in enumerate(decode_images(rows, root), start=1):
        try:
            pixels.append(resize(crop(pixels_of(decoded), box), preprocess))
            names.append(name)
        except ImageError as error:
            errors.append(f"{error} [{name}]")
        if len(names) == BATCH or (names and number == rows.num_rows):
            yield names, torch.stack(pixels)
            names, pixels = [], []
        if report is not None:
            report(number, rows.num_rows)


def _mean(backbone: Backbone, feature_map: torch.Tensor) -> torch.Tensor | None:
    try:
        return backbone.mean(feature_map)
    except (ModelError, IndexError, RuntimeError):
        return None  # a network whose map has no positions, or which ends in several maps


def _same_map(old: torch.Tensor, feature_map: torch.Tensor) -> bool:
    """Whether the old extractor stopped before pooling."""
    unpooled = old.ndim > 2 and old[0].numel() > old.shape[1]
    return (
        unpooled
        and old.shape == feature_map.shape
        and relative_difference(old, feature_map) <= TOLERANCE
    )


def _finite(*answers: torch.Tensor) -> torch.Tensor:
    """Rows ``[B]`` that are finite in every answer."""
    return torch.stack([answer.isfinite().all(1) for answer in answers]).all(0)


def _verdict(error: str | None, new: Difference, other: Difference | None) -> Verdict:
    if error is not None:
        return "not_runnable"
    if new.equal:
        return "identical"
    return "other_point" if other is not None and other.equal else "different"


def _verdict_in_words(
    verdict: Verdict, requested: FeaturePoint, rest: FeaturePoint, as_map: tuple[int, ...] | None
) -> str:
    if verdict == "identical":
        with_option = " with --feature-point map_mean" if requested == "map_mean" else ""
        return f"identical{with_option}: stored vectors can be kept"
    if verdict == "not_runnable":
        return "old extractor fails on this network: re-extract"
    if verdict == "other_point":
        return (
            f"differ by construction: re-extract, or use --feature-point {rest} "
            "which equals the old one"
        )
    if as_map is not None:
        return (
            "differ by construction: re-extract, or average each stored vector over the places "
            f"of its map {list(as_map)}, which gives --feature-point map_mean"
        )
    return "differ by construction: re-extract"
