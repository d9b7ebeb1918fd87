"""The configuration of a build: one set of defaults, and its limits."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import onepass
from common.errors import InputError
from common.json_models import configure
from index.config import IndexConfig


def test_the_python_api_has_its_defaults() -> None:
    parameters = inspect.signature(onepass.build_index).parameters
    for name, default in IndexConfig().model_dump().items():
        assert parameters[name].default == default, name


@pytest.mark.parametrize(
    ("field", "value"), [("metric", "l3"), ("recall", 0), ("recall", 1.5), ("shards", 0)]
)
def test_values_out_of_range_name_their_field(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=field):
        configure(IndexConfig, **{field: value})
