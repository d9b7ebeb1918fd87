"""Progress of long work: a bar in a terminal or a notebook, and lines in a log.

rich is imported when there is progress to show: commands are parsed without it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar

from common.errors import StoppedError
from common.text import printable

_LOG_SECONDS = 10.0
_DRAW_SECONDS = 0.1


def progress(stage: str, done: int, total: int) -> None:
    """Update the ``ProgressBar`` that is open, if one is: for work without a callback.

    Args:
        stage: what is being done, as "fetch".
        done: items done so far.
        total: items in all.
    """
    if ProgressBar.current is not None:
        ProgressBar.current.update(stage, done, total)


class ProgressBar:
    """Progress on stderr, or below the cell of a notebook, while the ``with`` block runs.

    In a terminal it is a bar that goes away at the end, in a notebook a bar that stays, elsewhere
    a line every ten seconds. Each stage has its own count and rate; only the latest is shown.

    Args:
        resumes: for commands: Ctrl-C becomes a ``StoppedError`` whose message says whether the same
            command continues (True) or starts again (False). None: ``KeyboardInterrupt`` passes.

    Attributes:
        current: the bar that is open in this process.

    Example:
        with ProgressBar() as bar:
            build_index(runs, out, progress=bar.callback("index"))
            for number, file in enumerate(files, 1):
                copy(file)
                bar.update("copy", number, len(files))
    """

    current: ClassVar[ProgressBar | None] = None

    def __init__(self, *, resumes: bool | None = None) -> None:
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
        # FORCE_COLOR, which notebooks and some CI set, makes a terminal of any file for rich.
        self._live = console.is_terminal and sys.stderr.isatty()
        # Drawn by this class: rich's own way needs ipywidgets, and adds an empty output at the end.
        self._in_notebook = console.is_jupyter
        self._cell_output: Any = None
        self._drawn = 0.0
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
        self._first: dict[str, tuple[float, int]] = {}  # when a stage first had done something
        self._logged = time.monotonic()  # work that ends, or fails, at once needs no line

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        ProgressBar.current = self
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        ProgressBar.current = None
        self._progress.stop()
        # Raised here, because Typer would print "Aborted" and nothing else.
        if kind is KeyboardInterrupt and self._resumes is not None:
            effect = "continues where it was" if self._resumes else "starts anew"
            raise StoppedError(f"stopped; the same command {effect}") from None

    def callback(self, stage: str) -> Callable[[int, int], None]:
        """``update`` of one stage, for functions that call ``progress(done, total)``."""
        return lambda done, total: self.update(stage, done, total)

    def update(self, stage: str, done: int, total: int, *, note: str = "") -> None:
        """Show how far a stage has come; call it as often as is convenient.

        Args:
            stage: its name; a new name begins a new stage.
            done: items done so far.
            total: items in all.
            note: shown after the rate.
        """
        now = time.monotonic()
        if stage not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, visible=False)
            self._tasks[stage] = self._progress.add_task(stage, total=total, rate="")
        if done and stage not in self._first:
            self._first[stage] = (now, done)
        since, first = self._first.get(stage, (now, done))
        rate = f"{(done - first) / (now - since):.0f}/s" if now - since > 1 else ""
        rate = f"{rate}  {note}".strip()
        self._progress.update(self._tasks[stage], completed=done, total=total, rate=rate)
        if self._in_notebook:
            if done >= total or now - self._drawn > _DRAW_SECONDS:
                self._drawn = now
                self._draw_in_notebook()
        elif not self._live and now - self._logged > _LOG_SECONDS:
            self._logged = now
            line = f"{stage}: {done} of {total} {rate}".rstrip()
            print(printable(line), file=sys.stderr)  # noqa: T201

    def _draw_in_notebook(self) -> None:
        if self._cell_output is None:
            display = import_module("IPython.display").display
            self._cell_output = display(self._progress, display_id=True)
        else:
            self._cell_output.update(self._progress)
