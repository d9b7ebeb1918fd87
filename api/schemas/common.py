"""What several models share, errors and probes."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from api.schemas import MAX_DIM

Box = tuple[float, float, float, float]
_LONGEST_TIME = 100
_NUMBER_OR_EXIF = re.compile(r"[-+]?[\d.]+\Z|\d{4}:")


def _camera_time(value: Any) -> Any:
    """Numbers and EXIF's text as a table's column of times is read; pydantic would make it 1970."""
    if isinstance(value, str) and len(value) > _LONGEST_TIME:
        raise ValueError(f"a time has at most {_LONGEST_TIME} characters")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number or (isinstance(value, str) and _NUMBER_OR_EXIF.match(value)):
        # late: Arrow takes half a second, which a client can do without
        import pyarrow as pa

        from pipelines.times import read_times

        return read_times(pa.chunked_array([[str(value)]]))[0].as_py()
    return value


# A camera does not say in which time zone it is, and "date-time" means a time with a zone.
CameraTime = Annotated[
    datetime,
    BeforeValidator(_camera_time),
    WithJsonSchema({"type": "string", "examples": ["2022-06-20T00:29:59"]}),
]
# Every list of a request stops at its first wrong element: a megabyte of them would be a gigabyte of
# errors.
Numbers = Annotated[list[float], Field(max_length=MAX_DIM, fail_fast=True)]
Vector = Annotated[
    Numbers | str | None,
    Field(
        description="A raw embedding of the index's model: a list of numbers, or the base64 of "
        "little-endian float32."
    ),
]

Value = str | int | float | bool | None
"""A value of a column; times are text in ISO 8601."""


def examples(*values: dict[str, Any]) -> ConfigDict:
    """Configuration of a model with examples, each a JSON object of the model."""
    return ConfigDict(json_schema_extra={"examples": list(values)})


class StrictModel(BaseModel):
    """Base of JSON requests: a field that the model does not have is an error."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        """One error, where pydantic by itself makes one for each field of a million."""
        for name in values if isinstance(values, dict) else ():
            if name not in cls.model_fields:
                fields = ", ".join(cls.model_fields)
                raise ValueError(f"there is no field {name[:100]!r}; there is {fields}")
        return values


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str = Field(description="Stable identifier; programs switch on it.")
    message: str = Field(description="One line for people: what is wrong and what to do.")


class ErrorAnswer(BaseModel):
    """The body of every error."""

    model_config = examples(
        {"error": {"code": "detection_not_found", "message": "no detection 'x' in this snapshot"}}
    )

    error: ErrorBody


class Health(BaseModel):
    """Alive or ready."""

    model_config = examples({"status": "ok"})

    status: str
