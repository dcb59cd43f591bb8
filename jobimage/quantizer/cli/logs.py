"""Logs: one JSON object per line in a pod, plain lines for people."""

import json
import logging
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from typing_extensions import override

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters except tabs and newlines."""
OWN = ("quantizer", "quantization_api")
"""Whose records are shown from the level on that is set; of libraries only errors are."""
VERBOSITY = "TRANSFORMERS_VERBOSITY"
"""transformers writes to standard error by itself, and takes its level from here when it is imported."""


class JsonFormatter(logging.Formatter):
    """A record as JSON: time, level, logger, message, and the traceback if there is one.

    shown: what of a message or a traceback may be shown; all of it by default.
    """

    def __init__(self, shown: Callable[[str], str] = str) -> None:
        super().__init__()
        self._shown = shown

    @override
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._shown(record.getMessage()),
        }
        if record.exc_info:
            line["traceback"] = self._shown(self.formatException(record.exc_info))
        return writable(json.dumps(line, ensure_ascii=False))


class PlainFormatter(logging.Formatter):
    """A record for people."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        return writable(super().format(record))


class Record(logging.LogRecord):
    """A record whose message is writable, for the handlers of libraries too."""

    @override
    def getMessage(self) -> str:
        return writable(super().getMessage())


def writable(text: str) -> str:
    """Text that is safe for any stream and any terminal.

    Lone surrogates (from file names that are not text) and control characters (from quoted input) are escaped.
    """
    escaped = text.encode("utf-8", "backslashreplace").decode()
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", escaped)


def worth_showing(record: logging.LogRecord) -> bool:
    """Whether a record is ours or an error: a library's warning is about its next version, or about our code."""
    return record.levelno >= logging.ERROR or record.name.partition(".")[0] in OWN


def set_up(as_json: bool) -> None:
    """Logs to standard error from now on; libraries say only what is an error."""
    logging.setLogRecordFactory(Record)
    logging.captureWarnings(True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else PlainFormatter("%(levelname)s %(message)s"))
    handler.addFilter(worth_showing)
    logging.basicConfig(level=logging.INFO if as_json else logging.WARNING, handlers=[handler], force=True)
    os.environ.setdefault(VERBOSITY, "error")
