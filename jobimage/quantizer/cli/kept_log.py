"""The end of a pod's log on its way to the storage, for when the pod is gone.

It is written last of all, within seconds, and changes no end: the exit code and the termination message stand by then.
A process that is killed (out of memory, a lost node) writes nothing.
"""

import logging
import os
import socket
import threading
from collections import deque

from typing_extensions import override

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import RunRequest
from quantization_api.redaction import secrets_of, without_secrets
from quantization_api.text import clean
from quantizer.cli.logs import JsonFormatter, worth_showing
from quantizer.store.interface import OUTPUT
from quantizer.store.kept_logs import LOG_BYTES, keep
from quantizer.store.location import Location, open_store
from quantizer.store.mark import worker_of

logger = logging.getLogger(__name__)

LIMIT_SECONDS = 5.0
"""How long the end of a run may be put off."""
NOT_OURS = (Category.ARTIFACT_CONFLICT, Category.INVALID_WORKFLOW)
"""Ends that say that the output is somebody else's, or none: nothing is written there."""


class LastLines(logging.Handler):
    """The last LOG_BYTES of what is logged, in whole lines and without secrets; safe to read from any thread."""

    def __init__(self) -> None:
        super().__init__()
        secrets = secrets_of(os.environ)
        self.setFormatter(JsonFormatter(lambda text: without_secrets(text, secrets)))
        self.addFilter(worth_showing)
        self._lines: deque[bytes] = deque()
        self._bytes = 0

    @override
    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record).encode() + b"\n"
        self._lines.append(line)
        self._bytes += len(line)
        while self._bytes > LOG_BYTES:
            self._bytes -= len(self._lines.popleft())

    def text(self) -> bytes:
        """What is there, a JSON object a line."""
        return b"".join(list(self._lines))


class KeptLog:
    """Gathers what is logged from now on; `request` says where it goes, once that is known."""

    def __init__(self) -> None:
        self.request: RunRequest | None = None
        self._lines = LastLines()
        logging.getLogger().addHandler(self._lines)

    def keep(self, category: Category | None = None) -> None:
        """Stores it, as far as that can be done soon. category: of the failure that ended the run."""
        request, self.request = self.request, None  # a second signal may end a run that is ending
        if request is None or category in NOT_OURS:
            return
        logger.info("end of the log of %s", os.environ.get("HOSTNAME") or socket.gethostname())
        writing = threading.Thread(target=_store, args=(request, self._lines), name="kept log", daemon=True)
        writing.start()
        writing.join(LIMIT_SECONDS)
        if writing.is_alive():
            logger.warning("the log is not kept: the storage has not answered for %.0f s", LIMIT_SECONDS)


def _store(request: RunRequest, lines: LastLines) -> None:
    try:
        from quantizer.run.checks import check_places  # brings torch, which a run has by now

        check_places(request)
        once = request.storage.model_copy(update={"patience_seconds": 0})
        keep(
            open_store(Location.parse(request.output.uri), OUTPUT, once), worker_of(request.uid), lines.text()
        )
    except QuantizationError as error:
        logger.warning("the log is not kept: %s", error.message)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run has ended, and with its own cause
        logger.warning("the log is not kept: %s: %s", type(error).__name__, clean(str(error)))
