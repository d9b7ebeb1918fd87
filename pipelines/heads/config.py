"""The one configuration of training a head.

Its fields are the options of ``onepass probe train`` and stand in the head's JSON record.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.executors import ExecutorChoice
from common.json_models import JsonModel, option


def _widths(value: Any) -> Any:
    """Widths as the command line gives them, separated by commas."""
    return value.split(",") if isinstance(value, str) else value or ()


File = Annotated[str, BeforeValidator(str)]
Kind = Literal["pooled", "map"]  # of features: of the image, or of each place of its last map


ROWS, HEAD = "Rows", "Head"


class TrainConfig(JsonModel):
    """Options of training; equal options and rows give the same head."""

    source: File = Field(description="A finished run, or a clip file FILE.h5 of onepass clips.")
    labels: str = Field(
        description="The column with the classes. category: of images laid out SPLIT/CATEGORY/FILE."
    )

    split_by: str | None = option(
        ROWS, "The column with train, val or test; split: of images laid out SPLIT/CATEGORY/FILE."
    )
    val_share: float | None = option(
        ROWS, "Without --split-by: this share of each class validates; 0.2.", ge=0.01, le=0.9
    )
    validation: File | None = option(ROWS, "A second clip file, to validate on.")
    limit: int | None = option(ROWS, "Rows at most, spread evenly; for a quick try.", ge=2)

    features: Kind = option(
        HEAD, "What to train on; map needs a run with --features map.", "pooled"
    )
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_widths)] = option(
        HEAD, "Widths of hidden layers, as 256,128; without: linear.", ()
    )
    seed: int = option(HEAD, "Of division, weights and order.", 0, ge=0)
    random_backbone: bool = option(
        HEAD, "Extract again with the network untrained, and train on that as well.", False
    )
    executor: ExecutorChoice = option(
        HEAD, "Where --random-backbone extracts, as for onepass extract.", "auto"
    )

    @model_validator(mode="after")
    def _divided_once(self) -> TrainConfig:
        if self.val_share is not None and (self.split_by or self.validation):
            raise ValueError(
                "`val_share` takes part of the rows to validate on, `split_by` and `validation` "
                "name them; give one of the three"
            )
        return self
