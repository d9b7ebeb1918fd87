"""Class names of a model, read from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import ModelError
from common.text import GUESSED, decode


def read_labels(file: str, note: Callable[[str], None] = lambda text: None) -> tuple[str, ...]:
    """Read class names: one per line, or a JSON list, or a JSON map ``{name: index}``.

    Args:
        file: UTF-8, UTF-16 with a byte order mark, or Latin-1; blank lines may only be its last.
        note: receives that its encoding was guessed.

    Raises:
        ModelError: missing, not text, empty, a blank line between names, or indices that do not run
            from 0 without a gap.
    """
    path = Path(file)
    if not path.is_file():
        raise ModelError(f"`labels={file!r}`: no such file")
    try:
        text, encoding = decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"`labels={file!r}` cannot be read: {error}") from None
    if encoding == GUESSED:
        note(f"{path.name} is not UTF-8 and was read as Latin-1")
    names = _of_json(file, text) if path.suffix.lower() == ".json" else _of_lines(file, text)
    if not any(names):
        raise ModelError(f"`labels={file!r}` has no names")
    return names


def _of_lines(file: str, text: str) -> tuple[str, ...]:
    # Only these end a line: names may hold others, as U+2028.
    names = tuple(line.strip() for line in re.split(r"\r\n|\r|\n", text.rstrip()))
    if any(names) and "" in names:
        raise ModelError(
            f"`labels={file!r}`: line {names.index('') + 1} is empty; a line is the name of a class"
        )
    return names


def _of_json(file: str, text: str) -> tuple[str, ...]:
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise ModelError(f"`labels={file!r}` is not JSON: {error}") from None
    if isinstance(data, dict):
        indices = list(data.values())
        whole = all(type(index) is int for index in indices)
        if not whole or sorted(indices) != list(range(len(indices))):
            raise ModelError(f"`labels={file!r}`: the indices must run from 0 without a gap")
        data = sorted(data, key=data.__getitem__)
    if not isinstance(data, list) or any(isinstance(name, list | dict) for name in data):
        raise ModelError(
            f"`labels={file!r}`: give a JSON list of names, or a map from name to index"
        )
    return tuple(str(name) for name in data)
