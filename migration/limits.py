"""The limits that a migration must meet: the options of ``onepass migrate`` that decide its verdict."""

from __future__ import annotations

from pydantic import Field

from common.json_models import JsonModel


class Limits(JsonModel):
    """What a migration must meet; a measure at its limit meets it.

    The defaults are below what two models of one kind reach and above what an untrained network
    reaches. EfficientNet-Lite0 and Lite1 agree on 0.93 of 200 ImageNet images and share
    0.49 of their ten nearest; on 119 crops of a moth trap they share 0.68, and Lite0 with an
    untrained ResNet-18 0.36. Classes that do not fit the images agree less (0.39 there), and a
    model for another task needs other limits.
    """

    min_label_agreement: float = Field(
        default=0.8, ge=0, le=1, description="Share of rows that keep their class."
    )
    min_overlap: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="Mean share of the ten nearest that both spaces have in common.",
    )
    max_new_failures: int = Field(
        default=0, ge=0, description="Rows that fail with the new model only."
    )
    max_changed_links: float = Field(
        default=0.3, ge=0, le=1, description="Share of links that only one of the runs has."
    )
