"""The former extractor compared with the one pass on real images: can stored vectors be kept?

The former extractor is ``nn.Sequential(*list(model.children())[:-1])``, flattened, with each
vector divided by its sum. It equals the penultimate features only where the model's children in
order are its forward pass, so it is run here to find out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import numpy as np
import torch
from torch import nn

from common.errors import ModelError, SourceError
from common.json_models import JsonModel
from common.sampling import spread
from pipelines.images.decode import PIXELS, decode_batches, unpack
from pipelines.model_info import FeaturePoint, ModelRequest, Outputs, Preprocess
from pipelines.models.base import Backbone, relative_difference
from pipelines.models.registry import describe, load_backbone
from pipelines.sources.read import read_source

Verdict = Literal["identical", "other_point", "different", "not_runnable"]
TOLERANCE = 1e-5  # of a vector's largest value
UNSTEADY = 0.05  # |Σx| / Σ|x| below which the division enlarges noise twentyfold
BATCH = 16


class Difference(JsonModel):
    """The one pass at one feature point, compared with the old vectors, both divided by their sums.

    The numbers are None where the dimensions differ.
    """

    point: FeaturePoint
    dim: int
    max_abs: float | None = None
    relative: float | None = None  # largest difference in a row over that row's largest value
    cosine_mean: float | None = None
    cosine_min: float | None = None

    @property
    def equal(self) -> bool:
        """Whether stored vectors are the same, but for rounding."""
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
    report: Callable[[int, int], None] = lambda done, planned: None,
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
    old = FormerExtractor(loaded.backbone.model)
    compared = _Compared()
    rows = plan.table.take(list(spread(range(plan.table.num_rows), limit)))
    done = 0
    with torch.inference_mode():
        for batch in decode_batches(rows, plan.images, {PIXELS: loaded.preprocess}, BATCH):
            good = np.asarray(batch["error"].is_null())
            compared.errors += batch["error"].drop_null().to_pylist()
            pixels = torch.from_numpy(unpack(batch, PIXELS, loaded.preprocess)[good])
            if len(pixels):
                x = normalise(pixels.permute(0, 3, 1, 2).contiguous(), loaded.preprocess)
                answer = old(x)
                if answer is None:
                    break
                names = batch["image"].filter(good).to_pylist()
                compared.add(answer, loaded.backbone, x, names)
            done += len(good)
            report(done, rows.num_rows)
    if old.error is None and not compared.rows:
        raise SourceError(
            f"{source}: not one row can be compared, the first because of {compared.errors[0]}; "
            "give a source with readable images"
        )
    requested = request.feature_point
    rest: FeaturePoint = "map_mean" if requested == "penultimate" else "penultimate"
    new = compared.difference(requested) or Difference(point=requested, dim=facts.feature_dim)
    other = compared.difference(rest)
    runs = old.error is None
    share = compared.share
    averaged = compared.is_map and runs and share >= UNSTEADY and not compared.negative
    verdict, says = _verdict(old.error, new, other, compared.shape if averaged else None)
    return Comparison(
        request=request,
        source=source,
        weights=loaded.weights,
        verdict=verdict,
        says=says,
        rows=compared.rows,
        errors=tuple(compared.errors),
        old_dim=math.prod(compared.shape) if runs else None,
        old_shape=compared.shape if runs else None,
        old_error=old.error,
        old_is_map=runs and compared.is_map,
        sum_share_min=share if runs else None,
        negative_sums=compared.negative,
        new=new,
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


class _Compared:
    """Both extractors' outputs compared row by row, accumulated over batches."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.rows = 0
        self.shape: tuple[int, ...] = ()  # of one old output, before it was flattened
        self.is_map = True
        self.share = 1.0  # the smallest |Σx| / Σ|x| of an old vector
        self.negative = 0
        self._dims: dict[FeaturePoint, int] = {}
        self._rows: dict[FeaturePoint, list[np.ndarray]] = {"penultimate": [], "map_mean": []}

    def add(
        self, answer: torch.Tensor, backbone: Backbone, x: torch.Tensor, names: list[str]
    ) -> None:
        outputs, old = backbone.one_pass(x), answer.flatten(1)
        new: dict[FeaturePoint, torch.Tensor] = {"penultimate": outputs.embedding}
        with suppress(ModelError, IndexError, RuntimeError):  # a map without positions, or several
            new["map_mean"] = backbone.mean(outputs.feature_map)
        self.shape = tuple(answer.shape[1:])
        self.is_map &= _same_map(answer, outputs.feature_map)
        finite = torch.stack([v.isfinite().all(1) for v in (old, *new.values())]).all(0)
        self.errors += [
            f"not finite: an extractor overflowed [{name}]"
            for name, is_finite in zip(names, finite.tolist(), strict=True)
            if not is_finite
        ]
        if not finite.any():
            return
        exact = old[finite].double()
        total = exact.sum(1)
        share = total.abs() / exact.abs().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
        self.rows += len(exact)
        self.share = min(self.share, float(share.min()))
        self.negative += int((total < 0).sum())
        for point, vectors in new.items():
            self._dims[point] = vectors.shape[1]
            if vectors.shape == old.shape:
                self._rows[point].append(_row_differences(old[finite], vectors[finite]))

    def difference(self, point: FeaturePoint) -> Difference | None:
        """Over all rows; None where the network has no such feature point."""
        if point not in self._dims:
            return None
        if not self._rows[point]:
            return Difference(point=point, dim=self._dims[point])
        max_abs, relative, cosine = np.concatenate(self._rows[point], axis=1)
        return Difference(
            point=point,
            dim=self._dims[point],
            max_abs=max_abs.max(),
            relative=relative.max(),
            cosine_mean=cosine.mean(),
            cosine_min=cosine.min(),
        )


def _row_differences(old: torch.Tensor, new: torch.Tensor) -> np.ndarray:
    """Largest difference, its share of the row's largest value, and cosine: ``[3, N]``."""
    a, b = divide_by_sum(old), divide_by_sum(new)
    apart = (a - b).abs().amax(1)
    largest = a.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.stack([apart, apart / largest, torch.cosine_similarity(a, b)]).numpy()


def _same_map(old: torch.Tensor, feature_map: torch.Tensor) -> bool:
    """Whether the old extractor stopped before pooling."""
    unpooled = old.ndim > 2 and old[0].numel() > old.shape[1]
    return (
        unpooled
        and old.shape == feature_map.shape
        and relative_difference(old, feature_map) <= TOLERANCE
    )


def _verdict(
    error: str | None, new: Difference, other: Difference | None, as_map: tuple[int, ...] | None
) -> tuple[Verdict, str]:
    """The verdict, and in words; ``as_map``: shape of a map that can be averaged."""
    if error is not None:
        return "not_runnable", "old extractor fails on this network: re-extract"
    if new.equal:
        option = " with --feature-point map_mean" if new.point == "map_mean" else ""
        return "identical", f"identical{option}: stored vectors can be kept"
    says = "differ by construction: re-extract"
    if other is not None and other.equal:
        says += f", or use --feature-point {other.point} which equals the old one"
        return "other_point", says
    if as_map is not None:
        says += (
            ", or average each stored vector over the places of its map "
            f"{list(as_map)}, which gives --feature-point map_mean"
        )
    return "different", says
