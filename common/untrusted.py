"""Files from outside, read so that they run no code: tensors, and the columns of tables.

Importing Ray Data registers a column type of pickled Python objects; turning one of its values
into Python, as ``to_pylist`` does, unpickles it. So did a type of older versions of pyarrow. Neither
is ever needed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from common.errors import SourceError, first_line

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


def read_tensors(file: str | Path, *, mmap: bool = False) -> Any:
    """Read a file of ``torch.save`` that may hold tensors, numbers, texts and containers of them.

    Args:
        file: to read, onto the CPU.
        mmap: read values only when they are used; the format before PyTorch 1.6 cannot be mapped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged or holds something else; the message is one line.
    """
    import torch  # it takes seconds, and most of what imports this module reads tables

    try:
        return torch.load(file, map_location="cpu", mmap=mmap, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # the unpickler raises anything
        if mmap and isinstance(error, RuntimeError):
            return read_tensors(file)
        raise ValueError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Why torch does not read a file, in one line; its own text is several, and about options of it."""
    if named := re.search(r"GLOBAL ([\w.]+\w)", str(error)):
        return f"it holds {named[1]}, which is neither a tensor nor a container"
    if "Unsupported operand" in str(error):
        return "it is not a file of torch.save, or was written by another pickle protocol than 2"
    if "TorchScript" in str(error):
        return "it is a TorchScript archive"
    if "file in archive" in str(error):
        return "it is an archive, but not of torch.save"
    return re.split(r" In PyTorch 2\.6| This is an internal", first_line(error))[0]


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
