"""Refusal of Arrow and Parquet columns that run code when they are read.

Importing Ray Data registers a column type of pickled Python objects; turning one of its values
into Python, as ``to_pylist`` does, unpickles it. So did a type of older versions of pyarrow. Neither
is ever needed here.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from common.errors import SourceError

_NAME = b"ARROW:extension:name"


def refuse_pickled(schema: pa.Schema, where: str) -> None:
    """Check all types of a schema, nested ones too; values are not read.

    Args:
        schema: of a file or table from outside.
        where: its name, for the message.

    Raises:
        SourceError: a column's type is one whose values are unpickled when they are read.
    """
    for field in schema:
        for name in _extensions(field):
            if name.startswith("ray.") or name == "arrow.py_extension_type":
                raise SourceError(
                    f"{where}: the column {field.name!r} is of the type {name!r}, which can run "
                    "any code when it is read; write it as numbers or text"
                )


def _extensions(field: pa.Field) -> Iterator[str]:
    """Names of a field's extension types, registered in this process or only in the file."""
    yield (field.metadata or {}).get(_NAME, b"").decode(errors="replace")
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        yield kind.extension_name
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        yield from _extensions(pa.field("", kind.value_type))
    for number in range(kind.num_fields):
        yield from _extensions(kind.field(number))
