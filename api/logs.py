"""Log lines as JSON, one object a line: for machines that collect them.

On a terminal they are plain text instead. A record's ``fields`` (``extra={"fields": {...}}``)
become members of the object; a traceback becomes the member ``traceback``.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson


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


def configure(*, as_json: bool) -> None:
    """Send the lines of onepass and uvicorn, and everybody's warnings, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else PlainLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("onepass", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
