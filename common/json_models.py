"""JSON records on disk, with their own sha256; writing a file atomically; hashes of files and values."""

from __future__ import annotations

import hashlib
import json
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import InputError, RunError, first_line

T = TypeVar("T", bound="JsonModel")

_ADVICE = {
    "int": "give a whole number",
    "float": "give a number",
    "bool": "give True or False",
    "string": "give a text",
    "literal": "choose from {expected}",
    "greater_than_equal": "give {ge} or more",
    "greater_than": "give more than {gt:g}",
    "less_than_equal": "give {le} or less",
    "less_than": "give less than {lt:g}",
    "finite": "give a number",
    "tuple": "give as many values as it takes, separated by commas",
    "missing": "give as many values as it takes, separated by commas",
    "too_long": "give fewer values",
}
_DRAFT = re.compile(r"\..+\.[0-9]+")  # the names that ``write_atomic`` gives them
_OWN = "sha256"  # of the rest of a record, as ``sha256_json`` has it
_CHUNK_BYTES = 8 * 2**20  # in an object store each chunk is a request


class JsonModel(BaseModel):
    """Base of all records that are stored as JSON: frozen, and without unknown fields."""

    # Built when first used: a command uses few of those that it imports.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def option(panel: str, description: str, default: Any = None, **limits: Any) -> Any:
    """A field of a configuration, which is also an option of a command.

    Args:
        panel: heading under which the command's help shows it.
        description: its help.
        default: its value where none is given.
        limits: as ``pydantic.Field`` takes them, ``ge`` and ``le``.
    """
    return Field(default, description=description, json_schema_extra={"panel": panel}, **limits)


def configure(kind: type[T], /, **values: Any) -> T:
    """Make a configuration of what a user gave.

    Args:
        kind: the configuration.
        values: its fields; a field that is not given has its default.

    Raises:
        InputError: a field is missing, unknown, or of another type; or fields do not fit together.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    problem, context = first["type"], first.get("ctx", {})
    if problem == "value_error":
        field = f"`{name}={values.get(name)!r}`: " if name else ""
        raise InputError(f"{field}{context['error']}")
    if problem == "missing" and len(first["loc"]) == 1:
        raise InputError(f"give `{name}`")
    if problem == "extra_forbidden":
        near = get_close_matches(name, kind.model_fields, 1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise InputError(f"`{name}`: there is no such parameter{hint}")
    advice = _advice(problem, context, first["msg"])
    raise InputError(f"`{name}={values.get(name)!r}`: {advice}")


def _advice(problem: str, context: dict[str, Any], message: str) -> str:
    """What a field takes, where a value of another type was given."""
    for begin, text in _ADVICE.items():
        if problem.startswith(begin):
            return text.format(**context)
    return message[:1].lower() + message[1:]


def read_json(file: Path, kind: type[T]) -> T:
    """Read one JSON record.

    Raises:
        RunError: the file is not what this version writes, or damaged.
    """
    return parse_json(json.dumps(read_record(file)).encode(), kind, file)


def read_record(file: Path) -> dict[str, Any]:
    """Read a JSON record as it stands, without its own hash, which it is compared with.

    Raises:
        RunError: it is damaged. One without a hash is of an earlier version and is taken as it is.
    """
    then = "; restore it from a copy, or make its folder again"
    try:
        record = json.loads(file.read_bytes())
        own = record.pop(_OWN, None)
    except (ValueError, AttributeError, RecursionError) as error:
        raise RunError(f"{file} cannot be read: {first_line(error)}{then}") from None
    if own is not None and own != sha256_json(record):
        raise RunError(f"{file} was damaged or changed by hand: its own sha256 differs{then}")
    checked: dict[str, Any] = record
    return checked


def has_own_hash(file: Path) -> bool:
    """Whether a JSON record, which can be read, has a hash that it is compared with."""
    return _OWN in json.loads(file.read_bytes())


def parse_json(data: bytes, kind: type[T], file: Path) -> T:
    """A JSON record from the contents of ``file``; errors as ``read_json``."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RunError(
            f"{file} cannot be read: {field}: {first['msg']}; it was written by another version or "
            "damaged"
        ) from None


def write_atomic(file: Path, data: bytes) -> None:
    """Write ``file`` so that a reader sees all of it or none of it.

    Raises:
        OSError: the disk is full or not writable, and no draft is left; or an object store refused
            or did not answer.
    """
    from common.storage import is_remote, write_bytes  # late: Arrow takes half a second

    if is_remote(file):
        write_bytes(file, data)
        return
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def write_json(file: Path, record: JsonModel) -> None:
    """Write one JSON record; as ``write_atomic``."""
    write_atomic(file, record.model_dump_json(indent=2).encode())


def write_hashed(file: Path, record: JsonModel) -> None:
    """Write one JSON record that is read again, its own hash last; as ``write_atomic``."""
    write_record(file, record.model_dump(mode="json"))


def write_record(file: Path, record: dict[str, Any]) -> None:
    """Write a JSON value with its own hash; as ``write_atomic``."""
    hashed = record | {_OWN: sha256_json(record)}
    write_atomic(file, json.dumps(hashed, indent=2, ensure_ascii=False).encode())


def is_draft(name: str) -> bool:
    """Whether a file is an unfinished one of ``write_atomic``, whose process was killed."""
    return _DRAFT.fullmatch(name) is not None


def drop_drafts(folder: Path) -> None:
    """Delete unfinished files of killed processes; only while no process writes to ``folder``."""
    from common.storage import is_remote  # late: Arrow takes half a second

    if not is_remote(folder) and folder.is_dir():
        for entry in list(folder.iterdir()):
            if is_draft(entry.name):
                entry.unlink(missing_ok=True)


def sha256_file(file: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
