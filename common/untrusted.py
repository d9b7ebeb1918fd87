"""Files from outside, read so that they run no code: tensors, and the columns of tables.

Importing Ray Data registers a column type of pickled Python objects; turning one of its values
into Python, as ``to_pylist`` does, unpickles it. So did a type of older versions of pyarrow. Neither
is ever needed here.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from mmap import ACCESS_READ
from mmap import mmap as mapped
from pathlib import Path
from typing import Any

import pyarrow as pa

from common.errors import SourceError, first_line

_NAME = b"ARROW:extension:name"
# As a pickle names it, with or without an int: a size of which it then fills the memory.
_BYTEARRAY = b"\nbytearray\n"


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
        ValueError: it is damaged, holds something else, or declares more than its size can hold;
            the message is one line.
    """
    _check_archive(Path(file))
    content = _load(file, mmap)
    _check_tensors(content, Path(file).stat().st_size)
    return content


def _load(file: str | Path, mmap: bool) -> Any:
    import torch  # it takes seconds, and most of what imports this module reads tables

    try:
        return torch.load(file, map_location="cpu", mmap=mmap, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # the unpickler raises anything
        if mmap and isinstance(error, RuntimeError):
            return _load(file, mmap=False)
        raise ValueError(_reason(error)) from None


def _check_archive(file: Path) -> None:
    """Refuse what grows as it is read: compressed or overlapping members, arrays made by a number."""
    if not file.exists():
        raise FileNotFoundError(file)
    if not file.is_file():  # to open a pipe waits for who writes into it
        raise ValueError("it is not a file")
    if not zipfile.is_zipfile(file):  # the format before PyTorch 1.6, or none
        if file.stat().st_size:
            with file.open("rb") as stream, mapped(stream.fileno(), 0, access=ACCESS_READ) as data:
                _refuse_bytearray(data.find(_BYTEARRAY) >= 0)
        return
    try:
        with zipfile.ZipFile(file) as archive:
            # Code is that of TorchScript, which is refused without reading it.
            members = [info for info in archive.infolist() if "/code/" not in info.filename]
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("it is compressed, which torch.save does not do; unpack it")
            if sum(member.file_size for member in members) > file.stat().st_size:
                raise ValueError("its archive declares more bytes than the file has")
            for member in members:
                if member.filename.endswith(".pkl"):
                    _refuse_bytearray(_BYTEARRAY in archive.read(member))
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"its archive is damaged: {first_line(error)}") from None


def _refuse_bytearray(is_there: bool) -> None:
    if is_there:
        raise ValueError("it holds bytearray, which is neither a tensor nor a container")


def _check_tensors(content: Any, file_bytes: int) -> None:
    """Refuse a tensor that repeats its values, by strides of 0 or as a sparse one, past its file."""
    import torch

    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:  # containers may share parts, and hold themselves
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            if value.numel() * value.element_size() > file_bytes:
                raise ValueError(
                    f"its tensor of {list(value.shape)} has more bytes than the file's {file_bytes}; "
                    "save it with .contiguous(), dense"
                )
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        waiting += getattr(value, "__dict__", {}).values()


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
