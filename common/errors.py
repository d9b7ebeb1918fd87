"""Every error onepass raises on purpose: an ``InputError`` or a ``WorkError``.

A message is one line: the value, what is wrong with it, what is allowed, what to do next. It names
parameters in backticks, as Python writes them: `` `out='runs/first'` exists ``. The command line
prints it without a traceback, and with options in their place: ``--out runs/first exists``.
"""

from __future__ import annotations

from common.text import hide_secrets


def first_line(error: BaseException) -> str:
    """The first line of another library's error; its type where there is no message."""
    return hide_secrets(_first_line(error)) or type(error).__name__


def _first_line(error: BaseException) -> str:
    # The text of a KeyError is the repr of its argument, line ends escaped.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return (str(message).strip().splitlines() or [""])[0]


class OnepassWarning(UserWarning):
    """Something to know of an answer that was given all the same."""


class OnepassError(Exception):
    """Base of all deliberate errors; ``exit_code`` is what the command line returns.

    Passwords in URLs are not kept in the message.
    """

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(hide_secrets(arg) if isinstance(arg, str) else arg for arg in args))


class InputError(OnepassError):
    """The request cannot be carried out as written; nothing was changed on disk."""

    exit_code = 2


class SourceError(InputError):
    """The source of images is missing, empty or malformed."""


class ModelError(InputError):
    """The model, its checkpoint, its labels or its preprocessing does not fit."""


class RunError(InputError):
    """A run folder is missing, unfinished, or belongs to another command."""


class SnapshotError(InputError):
    """An index folder, metric, factory string or query does not fit."""


class FilterError(SnapshotError):
    """A condition on rows cannot be used; safe to show to any client."""


class ColumnError(SnapshotError):
    """A column of an index does not exist or cannot be used so; safe to show to any client."""


class ExampleError(SnapshotError):
    """The examples of a search give no query; safe to show to any client."""


class FrameError(InputError):
    """A live frame cannot be linked as it is; safe to show to any client."""


class ClashError(FrameError):
    """A live frame clashes with one that came before it; safe to show to any client."""


class FolderError(InputError):
    """A folder cannot be written, or another command is at work on it."""


class ClusterError(InputError):
    """The Ray cluster cannot be reached or is too small."""


class StorageError(InputError):
    """An object store refuses or does not answer."""


class WorkError(OnepassError):
    """The request was right but carrying it out failed."""


class StalledError(WorkError):
    """No progress was made for the stated time."""


class LeaseLostError(WorkError):
    """Another command has taken over the folder in an object store that this one worked on."""


class UnavailableError(WorkError):
    """A part of the service does not answer; a retry may help."""


class LinkStateError(WorkError):
    """The state of live linking cannot be read or written."""


class LinkFullError(LinkStateError):
    """The state of live linking is as large as it may become; safe to show to any client."""


class LinkDamagedError(LinkStateError):
    """The stored state of one sequence is damaged; safe to show to any client."""

    def __init__(self, sequence: str, reason: str) -> None:
        super().__init__(
            f"the stored state of sequence {sequence[:100]!r} is damaged: {reason}; start the "
            "sequence anew with DELETE /v1/link/{sequence}, or put back an earlier copy of the "
            "file of `link_state`"
        )


class StoppedError(WorkError):
    """The user stopped the work; what is written is kept."""

    exit_code = 130


class LeftRunningError(WorkError):
    """The user stopped following a job; the job goes on."""

    exit_code = 130


class FileAccessError(WorkError):
    """This machine could not open or read a file, which may be whole; a retry may help."""


class VerifyError(WorkError):
    """Stored files disagree with their manifest."""


class DamagedFileError(VerifyError):
    """A file does not hold what its format says, or was cut short.

    Attributes:
        reason: what is wrong with it, without its name.
    """

    def __init__(self, file: object, reason: str) -> None:
        super().__init__(str(file), reason)
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.args[0]} is damaged or cut short: {self.reason}; restore it from a copy, or "
            "make it again"
        )


def work_error(
    what: str,
    error: BaseException,
    *,
    then: str = "what is written is kept, the same command continues",
) -> WorkError:
    """One line out of Ray's nested traceback, with the full one as the cause.

    Args:
        what: what failed: "extraction".
        error: as it was raised; its innermost cause gives the message.
        then: what was kept or changed, and what to do next.

    Returns:
        The error to raise.
    """
    inner = error
    while (cause := getattr(inner, "cause", None) or inner.__cause__) is not None:
        if str(inner).strip() and not (str(cause).strip() or cause.__cause__):
            break  # Ray Data marks its own errors by a cause without a message
        inner = cause
    # Ray appends advice to a message, in an OSError even as its file name.
    text = (isinstance(inner, OSError) and inner.strerror) or _first_line(inner) or "no message"
    kind = "" if isinstance(inner, OnepassError) else f"{type(inner).__name__}: "
    wrapped = WorkError(f"{what} failed: {kind}{text}; {then} (--debug shows where)")
    wrapped.__cause__ = error
    return wrapped
