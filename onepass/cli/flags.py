"""Parameters of Python, as error messages name them, to what people type on the command line."""

from __future__ import annotations

import re

_OTHER_NAMES = {
    "kind": "--source",
    "k": "-k",
    "detection_id": "--id",
    "images": "--image",
    "vectors": "--vector",
    "learning_rate": "--lr",
    "memory_bytes": "--memory",
}
_POSITIONAL = frozenset({"source", "run", "runs", "index", "path", "url", "command"})
_PARAMETER = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")


def option_of(name: str) -> str:
    """The option of a parameter, as ``--batch-rows`` of ``batch_rows``."""
    return _OTHER_NAMES.get(name) or "--" + name.replace("_", "-")


def with_flags(message: str) -> str:
    """Rewrite the parameters of a message as options.

    Args:
        message: with parameters in backticks, as `` `hdf5=True` `` or `` `out='runs/first'` ``.

    Returns:
        The same with ``--hdf5`` and ``--out runs/first``.

    Example:
        >>> with_flags("`frames=5` is for videos; set `kind='video'`")
        '--frames 5 is for videos; set --source video'
    """
    return _PARAMETER.sub(_as_typed, message)


def _as_typed(parameter: re.Match[str]) -> str:
    name, value = parameter[1], parameter[2]
    if name in _POSITIONAL:
        return name.upper() if value is None else _unquoted(value)
    flag = option_of(name)
    if name == "images" and "=" in (value or ""):  # of moved folders; else images to search with
        flag = "--images"
    if value is None or value == "True":
        return flag
    if value == "False":
        return flag.replace("--", "--no-", 1)
    return f"{flag} {_unquoted(value)}"


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
