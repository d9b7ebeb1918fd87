"""Shared by all commands: printing, paths, and common options."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.executors import ExecutorChoice
from common.errors import InputError
from common.text import printable
from onepass.cli.flags import with_flags
from pipelines.config import ExtractConfig

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]

ExecutorOption = Annotated[
    ExecutorChoice,
    typer.Option(
        "--executor",
        help=ExtractConfig.model_fields["executor"].description,
    ),
]


Images = Annotated[
    list[str] | None,
    typer.Option(
        "--images",
        metavar="OLD=NEW",
        help="A folder of images that was moved, and where it is now; can be given again.",
    ),
]


def echo(line: str, *, err: bool = False) -> None:
    """Print a line for people, on stderr if ``err``; nothing in it acts on the terminal."""
    typer.echo(printable(line), err=err)


def warn(text: str) -> None:
    """Print a warning, with options in place of the parameters that it names."""
    echo(f"warning: {with_flags(text)}", err=True)


def print_traceback() -> None:
    """Print the traceback of the error that is handled, on stderr."""
    for line in traceback.format_exc().splitlines():
        echo(line, err=True)


def print_json(value: Any) -> None:
    """Print a value for machines, exactly; its letters are ASCII."""
    typer.echo(json.dumps(value, indent=2, default=str))


def to_path(name: str | Path) -> Path:
    """A folder of this machine, or one in an object store by its URI."""
    if "://" not in str(name):
        return Path(name)
    from common.storage import to_path  # late: Arrow takes half a second

    return to_path(name)


def local_path(name: str | Path) -> Path:
    """A folder or file of this machine, for commands that do not work in an object store.

    Raises:
        InputError: ``name`` is a URI.
    """
    if "://" in str(name):
        raise InputError(
            f"{name}: this command works on folders of this machine; copy it here first (aws s3 "
            "sync, gcloud storage rsync) and name the copy, or name a folder for what it writes"
        )
    return Path(name)
