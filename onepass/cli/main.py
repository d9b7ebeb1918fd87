"""The command line: the commands of all modules, and errors as one line and an exit code.

Nothing heavy is imported at the top of any module in ``onepass.cli``: ``onepass --help`` must answer
at once, so torch, Ray and FAISS are imported by the command that needs them.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from common.errors import (
    InputError,
    LeaseLostError,
    OnepassError,
    OnepassWarning,
    StalledError,
    StoppedError,
)
from onepass.cli import (
    clips,
    database,
    detect,
    extract,
    index,
    inspect,
    link,
    migrate,
    models,
    probe,
    query,
    serve,
    submit,
    tracks,
)
from onepass.cli.console import echo, print_traceback, warn
from onepass.cli.flags import with_flags

PANELS = {
    "From images to answers": ("demo", "detect", "extract", "index", "query", "serve"),
    "From a run": ("inspect", "link", "tracks", "clips", "probe", "migrate"),
    "Models, databases, clusters": ("models", "database", "submit"),
}


class _InPanels(TyperGroup):
    """Lists the commands as ``PANELS`` has them, whichever module they are from."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in PANELS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command: Any = super().get_command(ctx, cmd_name)
        for panel, names in PANELS.items():
            if cmd_name in names:
                command.rich_help_panel = panel
        return command


app = typer.Typer(
    name="onepass",
    cls=_InPanels,
    help="Read every image once, run the network once, keep class and embedding.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Start with 'onepass demo'. Exit codes: 0 done, 1 failed work, 2 bad input.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from onepass import __version__  # late: it reads the installed package

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    context.ensure_object(dict)["debug"] = debug


for single in (detect, extract, inspect, query, link, migrate, clips, serve, submit):
    app.add_typer(single.app)
for name, group in {
    "index": index,
    "tracks": tracks,
    "probe": probe,
    "models": models,
    "database": database,
}.items():
    app.add_typer(group.app, name=name)


def main() -> None:
    """Run the command line; deliberate errors become one line and their exit code."""
    flags: dict[str, bool] = {}  # filled in by ``options``; empty if parsing failed before it
    try:
        # Not standalone: Typer would draw a box around an error, which scripts and logs do not want.
        with _shown_warnings():
            sys.exit(app(obj=flags, standalone_mode=False) or 0)
    except (
        TyperException
    ) as error:  # what was typed cannot be parsed; without a word, help was shown
        if message := error.format_message():
            command = getattr(getattr(error, "ctx", None), "command_path", "onepass")
            echo(f"error: {message.rstrip('.')}; see '{command} --help'", err=True)
        sys.exit(InputError.exit_code)
    except OnepassError as error:
        if flags.get("debug"):
            print_traceback()
        else:
            echo(f"error: {with_flags(str(error))}", err=True)
        in_ray = LeaseLostError | StalledError | StoppedError
        _exit(error.exit_code, at_once=isinstance(error, in_ray))
    except OSError as error:  # a full disk, a folder without permission
        if flags.get("debug"):
            print_traceback()
        else:
            file = f"{error.filename}: " if error.filename else ""
            echo(f"error: {file}{error.strerror or error}; what is written is kept", err=True)
        _exit(1, at_once=True)
    except Exception:  # a fault of ours
        print_traceback()
        _exit(1, at_once=False)


@contextmanager
def _shown_warnings() -> Iterator[None]:
    """Print an ``OnepassWarning`` as the commands print theirs: one line, without a file name."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_warning(
            message: Warning | str, category: type[Warning], *where: Any, **more: Any
        ) -> None:
            if issubclass(category, OnepassWarning):
                warn(str(message))
            else:
                show(message, category, *where, **more)

        warnings.showwarning = show_warning
        warnings.simplefilter("always", OnepassWarning)
        yield


def _exit(code: int, *, at_once: bool) -> None:
    """Exit; ``at_once`` where a thread inside Ray may wake up and start Ray again."""
    sys.stdout.flush()
    sys.stderr.flush()
    if at_once:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
