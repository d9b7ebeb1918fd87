"""What every command shares: progress, words, and the ``--json`` option.

It is imported before the command is known, so rich waits until there is progress to show.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from cluster.errors import InputError, StoppedError
from cluster.executors import ExecutorChoice

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]

ExecutorOption = Annotated[
    ExecutorChoice,
    typer.Option(
        "--executor",
        help="local: this process. ray: the cluster of RAY_ADDRESS, or a Ray of its own. auto: ray "
        "with a cluster, in a Ray job, or with two GPUs or more; else local.",
    ),
]


def say(text: str) -> None:
    typer.echo(text)


def warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def placed(name: str | Path) -> Path:
    """A folder as the command line names it: of this machine, or in an object store."""
    if "://" not in str(name):
        return Path(name)
    from cluster.storage import place  # late: Arrow takes half a second

    return place(name)


def here(name: str | Path) -> Path:
    """A folder or file of this machine, for what does not work in an object store.

    Raises:
        InputError: it is the URI of something else.
    """
    if "://" in str(name):
        raise InputError(
            f"{name}: this command works on folders of this machine; copy it here first (aws s3 "
            "sync, gcloud storage rsync) and name the copy, or name a folder for what it writes"
        )
    return Path(name)


def absolute(file: str | None) -> str | None:
    """A path that other working folders and processes understand as well."""
    return str(Path(file).resolve()) if file else None


def progress(name: str, done: int, total: int) -> None:
    """Show work that nobody passes a callback to, where a command shows any."""
    if Bar.shown is not None:
        Bar.shown.update(name, done, total)


class Bar:
    """Progress on stderr: a bar for people, a line now and then for logs.

    Args:
        resumes: whether the same command, after Ctrl-C, goes on where it was.

    Attributes:
        shown: the one that is on the screen.
    """

    shown: ClassVar[Bar | None] = None

    def __init__(self, *, resumes: bool = True) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._resumes = resumes
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
            transient=True,
        )
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._logged = time.monotonic()  # what ends, or fails, at once needs no progress

    def __enter__(self) -> Bar:
        self._progress.start()
        Bar.shown = self
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        Bar.shown = None
        self._progress.stop()
        if kind is KeyboardInterrupt:  # said here, because Typer would only print "Aborted"
            after = "continues where it was" if self._resumes else "starts anew"
            raise StoppedError(f"stopped; the same command {after}") from None

    def counted(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self.update(name, done, total)

    def update(self, name: str, done: int, total: int, *, note: str = "") -> None:
        now = time.monotonic()
        if name not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, visible=False)
            self._tasks[name] = self._progress.add_task(name, total=total, rate="")
        if done and name not in self._began:
            self._began[name] = (now, done)
        since, first = self._began.get(name, (now, done))
        rate = f"{(done - first) / (now - since):.0f}/s" if now - since > 1 else ""
        rate = f"{rate}  {note}".strip()
        self._progress.update(self._tasks[name], completed=done, total=total, rate=rate)
        if not self._live and now - self._logged > 10:
            self._logged = now
            typer.echo(f"{name}: {done} of {total} {rate}".rstrip(), err=True)
