"""Lists of detection ids: read from a file, and compared with an index."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from common.text import GUESSED, decode

if TYPE_CHECKING:
    from index.search.snapshot import Snapshot

_HEADER = "detection_id"
_NAMED = 3  # unknown ids that a warning lists; the rest are counted


def read_ids(file: Path | None) -> frozenset[str] | None:
    """Detection ids of a text file, one a line.

    What a spreadsheet writes is read as well: UTF-8 with or without a byte order mark, UTF-16
    with one, any line ends, blank lines, a first line ``detection_id``, ids in double quotes.

    Args:
        file: the file; None: no file.

    Returns:
        The ids; none where the file names none. None where no file is given.

    Raises:
        InputError: it cannot be read, or is not text.
    """
    if file is None:
        return None
    try:
        text, encoding = decode(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"--ids {file} cannot be read: {error}") from None
    if encoding == GUESSED:  # a wrong guess would name other rows
        raise InputError(f"--ids {file} is not UTF-8; give one id a line, in UTF-8")
    ids = [_unquoted(line.strip()) for line in re.split(r"\r\n|\r|\n", text)]
    if next(filter(None, ids), None) == _HEADER:
        ids.remove(_HEADER)
    return frozenset(filter(None, ids))


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def describe_unknown(snapshot: Snapshot, ids: Iterable[str] | None) -> list[str]:
    """A warning about those of some ids that an index does not hold, if there are any.

    Args:
        snapshot: a version of the index.
        ids: detection ids; None: none were given.

    Returns:
        One text, or none.
    """
    names = sorted(ids or ())
    rows = snapshot.rows_of(names).tolist()
    unknown = [name for name, row in zip(names, rows, strict=True) if row < 0]
    if not unknown:
        return []
    shown = ", ".join(map(repr, unknown[:_NAMED]))
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    return [
        f"{len(unknown)} of the {len(names)} `ids` are not in {snapshot.path}: {shown}{more}; rows "
        "that have an error are not indexed"
    ]
