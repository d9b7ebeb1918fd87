"""Log lines as JSON, one object a line, or as plain text on a terminal.

A record's ``fields`` (``extra={"fields": {...}}``)
become members of the object; a traceback becomes the member ``traceback``.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from common.text import hide_secrets, printable

ACCESS = "onepass.api.access"  # one line a request
FLUSH_SECONDS = 0.2


class JsonLines(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, message, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": hide_secrets(record.getMessage()),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = hide_secrets(self.formatException(record.exc_info))
        return orjson.dumps(line, default=str).decode()


class PlainLines(logging.Formatter):
    """Level, message, then the fields as ``name=value``."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The message and its fields; a traceback follows on lines of its own."""
        fields = getattr(record, "fields", {}).items()
        shown = [f"{name}={value}" for name, value in fields if value is not None]
        return printable(" ".join([super().formatMessage(record), *shown]))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """The traceback, in which nothing acts on the terminal."""
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


class BufferedHandler(logging.StreamHandler[TextIO]):
    """Writes lines of the access log every ``FLUSH_SECONDS``, every other line at once.

    A system call for each of thousands of requests a second would cost a tenth of the throughput.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        threading.Thread(target=self._flush_periodically, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line until the next flush."""
        try:
            self._lines.append(self.format(record) + self.terminator)
        except Exception:  # as logging.Handler does: a bad record must not fail its caller
            self.handleError(record)
        if record.name != ACCESS or record.levelno >= logging.WARNING:
            self.flush()

    def flush(self) -> None:
        """Write the kept lines; ``logging`` calls this at exit as well."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()

    def _flush_periodically(self) -> None:
        with suppress(OSError, ValueError):  # the stream is closed
            while True:
                time.sleep(FLUSH_SECONDS)
                self.flush()


def configure(as_json: bool | None) -> None:
    """Log onepass and uvicorn, and warnings of all packages, to stderr.

    None writes JSON unless stderr is a terminal.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    handler = BufferedHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else PlainLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("onepass", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
