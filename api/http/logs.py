"""Log lines as JSON, one object a line: for machines that collect them.

On a terminal they are plain text instead. A record's ``fields`` (``extra={"fields": {...}}``)
become members of the object; a traceback becomes the member ``traceback``.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import TextIO

import orjson

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
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class PlainLines(logging.Formatter):
    """Level, message, then the fields as name=value."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The message and its fields; a traceback follows on lines of its own."""
        fields = getattr(record, "fields", {}).items()
        said = [f"{name}={value}" for name, value in fields if value is not None]
        return " ".join([super().formatMessage(record), *said])


class BufferedHandler(logging.StreamHandler[TextIO]):
    """Writes the lines of requests once in a moment, every other line at once.

    A call of the system for each of thousands of requests a second costs a tenth of them.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        threading.Thread(target=self._write_now_and_then, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line for a moment."""
        try:
            self._lines.append(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)
        if record.name != ACCESS or record.levelno >= logging.WARNING:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered; ``logging`` calls this at exit as well."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()

    def _write_now_and_then(self) -> None:
        with suppress(OSError, ValueError):  # nobody reads any more
            while True:
                time.sleep(FLUSH_SECONDS)
                self.flush()


def configure(*, as_json: bool) -> None:
    """Send the lines of onepass and uvicorn, and everybody's warnings, to stderr."""
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
