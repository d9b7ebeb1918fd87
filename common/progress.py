"""Progress on the screen: a bar for people, a line now and then for logs.

rich is imported when there is progress to show: commands are parsed without it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar

from common.errors import StoppedError


def progress(name: str, done: int, total: int) -> None:
    """Show work that nobody passes a callback to, where a command shows any."""
    if ProgressBar.shown is not None:
        ProgressBar.shown.update(name, done, total)


class ProgressBar:
    """Progress on stderr: a bar for people, a line now and then for logs.

    Args:
        resumes: whether the same command, after Ctrl-C, goes on where it was.

    Attributes:
        shown: the one that is on the screen.
    """

    shown: ClassVar[ProgressBar | None] = None

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

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        ProgressBar.shown = self
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        ProgressBar.shown = None
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
            print(f"{name}: {done} of {total} {rate}".rstrip(), file=sys.stderr)  # noqa: T201
