"""Logs as one JSON object a line, for machines; no request or answer body is ever logged."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

CONTEXT = ("job", "namespace", "uid", "rule", "category", "reason", "seconds")
"""Fields that a log call may give with `extra`."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the context, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: getattr(record, key) for key in CONTEXT if hasattr(record, key)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str, stream: TextIO = sys.stderr) -> None:
    """Send every logger's lines to one stream. Libraries speak from WARNING on: at DEBUG they log bodies."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("WARNING")
    logging.getLogger("quantization_operator").setLevel(level)
