"""Logs: one JSON object per line in a pod, plain lines for people."""

import json
import logging
import re
import sys
from datetime import UTC, datetime

from typing_extensions import override

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters except tabs and newlines."""
QUIET = ("botocore", "boto3", "s3transfer", "urllib3", "transformers", "matplotlib", "fontTools")


class JsonFormatter(logging.Formatter):
    """A record as JSON: time, level, logger, message, and the traceback if there is one."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
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


def set_up(as_json: bool) -> None:
    """Logs to standard error from now on; libraries only warn."""
    logging.setLogRecordFactory(Record)
    logging.captureWarnings(True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else PlainFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO if as_json else logging.WARNING, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
