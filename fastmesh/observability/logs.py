"""The process's own log (not the access log): an event a line on stderr, as text or JSON.

Text: ``2026-01-31T12:00:00.123Z info    fastmesh.reload: the message key=value``; further lines of a message
follow, indented. JSON: one object a line with
``time``, ``level``, ``logger``, ``message``, then the fields that the caller passed as
``extra={"fields": {…}}``, and ``exception`` when there is one.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

ROOT_LOGGER = "fastmesh"

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "error",
}


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _one_line(text: str) -> str:
    """Control characters escaped: what a peer or a file supplies can not forge a log line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = _NAMES.get(record.levelno, record.levelname.lower())
        # A message of several lines (a configuration error with its caret) stays so, indented.
        lines = [_one_line(line) for line in record.getMessage().splitlines()] or [""]
        line = f"{timestamp(record.created)} {level:<7} {record.name}: " + "\n    ".join(lines)
        for key, value in _fields(record).items():
            line += f" {key}={_one_line(str(value))}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": _NAMES.get(record.levelno, record.levelname.lower()),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in _fields(record).items():
            entry.setdefault(key, value)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is now; a closed stderr loses lines, never the process."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def set_up(level: str = "info", format: str = "text") -> None:
    """Sends ``fastmesh.*`` to stderr; may be called again when the configuration changes."""
    logger = logging.getLogger(ROOT_LOGGER)
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logger.handlers[:] = [handler]
    logger.setLevel(LEVELS.get(level, logging.INFO))
    logger.propagate = False
