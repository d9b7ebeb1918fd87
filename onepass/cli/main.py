"""The command line: the commands of every module put together, and what an error becomes.

Nothing heavy is imported at the top, here or in the modules beside it: ``onepass --help`` must
answer at once, so torch, Ray and FAISS are imported by the command that needs them.
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


class _InOrder(TyperGroup):
    """Help lists the commands in the order of their use, whichever module they are from."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(
    name="onepass",
    cls=_InOrder,
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
    given: dict[str, bool] = {}  # filled in by the callback; empty if parsing did not get there
    try:
        app(obj=given)
    except OnepassError as error:
        if given.get("debug"):
            raise
        typer.echo(f"error: {with_flags(str(error))}", err=True)
        ended = LeaseLostError | StalledError | StoppedError
        _leave(error.exit_code, at_once=isinstance(error, ended))
    except OSError as error:  # a full disk, a folder without permission
        if given.get("debug"):
            raise
        at = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {at}{error.strerror or error}; what is written is kept", err=True)
        _leave(1, at_once=True)


def _leave(code: int, *, at_once: bool) -> None:
    """Exit; ``at_once`` where a thread inside Ray would wake up and start Ray again."""
    sys.stdout.flush()
    sys.stderr.flush()
    if at_once:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
