"""The one configuration of training a head.

Its fields are the options of ``onepass probe train`` and stand in the head's JSON record.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.executors import ExecutorChoice
from common.json_models import JsonModel


def _widths(value: Any) -> Any:
    """Widths as the command line gives them, separated by commas."""
    return value.split(",") if isinstance(value, str) else value or ()


File = Annotated[str, BeforeValidator(str)]
Kind = Literal["pooled", "map"]  # of features: of the image, or of each place of its last map


class TrainConfig(JsonModel):
    """Options of training; equal options and rows give the same head."""

    source: File = Field(description="A finished run, or a clip file FILE.h5 of onepass clips.")
    labels: str = Field(
        description="The column with the classes. category: of images laid out SPLIT/CATEGORY/FILE."
    )
    features: Kind = Field(
        "pooled", description="What to train on; map needs a run with --features map."
    )
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_widths)] = Field(
        (), description="Widths of hidden layers, as 256,128; without: linear."
    )
    seed: int = Field(0, ge=0, description="Of division, weights and order.")
    split_by: str | None = Field(
        None,
        description="The column with train, val or test; split: of images laid out "
        "SPLIT/CATEGORY/FILE.",
    )
    val_share: float | None = Field(
        None,
        ge=0.01,
        le=0.9,
        description="Without --split-by: this share of each class validates; 0.2.",
    )
    validation: File | None = Field(None, description="A second clip file, to validate on.")
    limit: int | None = Field(
        None, ge=2, description="Rows at most, spread evenly; for a quick try."
    )
    random_backbone: bool = Field(
        False, description="Extract again with the network untrained, and train on that as well."
    )
    executor: ExecutorChoice = Field(
        "auto", description="Where --random-backbone extracts, as for onepass extract."
    )

    @model_validator(mode="after")
    def _divided_once(self) -> TrainConfig:
        if self.val_share is not None and (self.split_by or self.validation):
            raise ValueError(
                "`val_share` takes part of the rows to validate on, `split_by` and `validation` "
                "name them; give one of the three"
            )
        return self
