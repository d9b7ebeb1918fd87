"""Packages that only some commands need, imported when they do."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

from common.errors import InputError, first_line

Extra = Literal["database", "migrate", "probe", "tracks"]


def optional(module: str, extra: Extra, *, then: str = "") -> Any:
    """Import a module of an extra of onepass.

    Args:
        module: its full name, as "matplotlib.pyplot".
        extra: the extra of onepass that installs it.
        then: a shell command to run after the installation.

    Returns:
        The module.

    Raises:
        InputError: it is not installed, or a library that it needs is missing.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        why = "is not installed" if missing else f"cannot be used ({first_line(error)})"
        install = f"pip install 'onepass[{extra}]'" + (f" && {then}" if then else "")
        raise InputError(f"{package} {why}; run: {install}") from None
