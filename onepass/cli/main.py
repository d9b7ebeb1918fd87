"""The command line: the commands of all modules, and errors as one line and an exit code.

Nothing heavy is imported at the top of any module in ``onepass.cli``: ``onepass --help`` must answer
at once, so torch, Ray and FAISS are imported by the command that needs them.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from common.errors import LeaseLostError, OnepassError, StalledError, StoppedError
from onepass.cli import extract, query, serve, submit
from onepass.cli.flags import with_flags

ORDER = (
    *("extract", "inspect", "query", "link", "migrate", "clips", "serve", "submit", "demo"),
    *("probe", "models", "index", "tracks", "database"),
)


class _OrderedGroup(TyperGroup):
    """Lists the commands in the order of ``ORDER``, whichever module they are from."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(
    name="onepass",
    cls=_OrderedGroup,
    help="Read every image once, run the network once, keep class and embedding.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Start with 'onepass demo'. Exit codes: 0 done, 1 failed work, 2 bad input.",
)


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option(help="Show tracebacks instead of one line.")] = False,
) -> None:
    context.ensure_object(dict)["debug"] = debug


for group in (extract, query, serve, submit):
    app.add_typer(group.app)


def main() -> None:
    """Run the command line; deliberate errors become one line and their exit code."""
    flags: dict[str, bool] = {}  # filled in by ``options``; empty if parsing failed before it
    try:
        app(obj=flags)
    except OnepassError as error:
        if flags.get("debug"):
            raise
        typer.echo(f"error: {with_flags(str(error))}", err=True)
        in_ray = LeaseLostError | StalledError | StoppedError
        _exit(error.exit_code, at_once=isinstance(error, in_ray))
    except OSError as error:  # a full disk, a folder without permission
        if flags.get("debug"):
            raise
        file = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {file}{error.strerror or error}; what is written is kept", err=True)
        _exit(1, at_once=True)


def _exit(code: int, *, at_once: bool) -> None:
    """Exit; ``at_once`` where a thread inside Ray may wake up and start Ray again."""
    sys.stdout.flush()
    sys.stderr.flush()
    if at_once:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
