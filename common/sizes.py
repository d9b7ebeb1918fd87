"""Sizes of memory and files as people write them."""

from __future__ import annotations

import re

from common.errors import InputError

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]B)?", re.IGNORECASE)
_UNITS = {"": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


def parse_size(memory: str | int | None) -> int | None:
    """Bytes of a size such as ``2GB``; a number is bytes already, None stays None.

    Raises:
        InputError: it is not a size.
    """
    if memory is None or isinstance(memory, int):
        return memory
    size = _SIZE.fullmatch(memory.strip()) if isinstance(memory, str) else None
    if size is None:
        raise InputError(f"`memory={memory!r}`: give a size, as 2GB or 512MB")
    return int(float(size[1]) * _UNITS[(size[2] or "").upper()])
