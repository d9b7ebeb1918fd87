"""What the functions of the Python API share: reading arguments, progress and warnings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from upath import UPath

from common.errors import InputError, OnepassWarning
from common.moved import Pairs
from common.progress import ProgressBar
from common.storage import to_path
from pipelines.run import Run

PATH = str | Path | UPath


class Update(Protocol):
    """``ProgressBar.update``, or a function that shows nothing."""

    def __call__(self, stage: str, done: int, total: int, *, note: str = "") -> None: ...


def read_path(name: str, value: Any) -> Path:
    """A path that a user gave as text or ``Path``.

    Args:
        name: of the parameter, for messages.
        value: what was given; may be a URI of an object store.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, PATH) or not str(value):
        raise InputError(f"`{name}={value!r}`: give a path, as text or Path")
    return to_path(str(value))


def read_run(name: str, value: Any) -> Run:
    """A run that a user gave, opened or by its folder.

    Args:
        name: of the parameter, for messages.
        value: what was given.

    Raises:
        InputError: it is neither.
        RunError: there is no finished run in the folder.
    """
    if isinstance(value, Run):
        return value
    if not isinstance(value, PATH) or not str(value):
        raise InputError(f"`{name}={value!r}`: give a run, or the path of its folder")
    return Run.open(to_path(str(value)))


def read_sources(name: str, value: Any) -> list[Path]:
    """Paths of runs or of files of vectors that a user gave: one, or several.

    Args:
        name: of the parameter, for messages.
        value: what was given.

    Raises:
        InputError: it is neither a run nor a path, nor a list of them.
    """
    several = [value] if isinstance(value, Run | PATH) else value
    if not isinstance(several, Sequence) or not several:
        raise InputError(f"`{name}={value!r}`: give a run, a file of vectors, or a list of them")
    return [each.path if isinstance(each, Run) else read_path(name, each) for each in several]


def pairs_of(value: Any) -> Pairs:
    """Folders of images that were moved, of all opened runs among what a user gave."""
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    runs = [each for each in several if isinstance(each, Run)]
    return tuple(dict.fromkeys(pair for run in runs for pair in run.pairs))


@contextmanager
def show_progress(shown: bool) -> Iterator[Update]:
    """A bar in a terminal or a notebook while the block runs; with False, nothing."""
    if shown:
        with ProgressBar() as bar:
            yield bar.update
    else:
        yield lambda stage, done, total, *, note="": None


def warn(texts: Iterable[str]) -> None:
    """Issue an ``OnepassWarning`` for each, at the line of the user's call."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    for text in texts:
        warnings.warn(text, OnepassWarning, stacklevel=level)
