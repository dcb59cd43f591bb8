"""Writes a status so that it is taken: what the API server refuses is written with less, for an end must be told.

A number or a text that a pod told may be refused where nobody thought of it, and all later statuses of the job with it:
it would seem to run forever. So a refused status loses its progress, then its metrics, then its messages.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Iterator

from quantization_api.status import QuantizationJobStatus
from quantization_operator.identity import Key
from quantization_operator.kube import ApiError
from quantization_operator.snapshots import QuantizationJob
from quantization_operator.write import Writer

logger = logging.getLogger(__name__)

REJECTED = (400, 413, 422)
_CANNOT_BE_DECODED = re.compile(r"decod|unmarshal|cannot convert|strconv|invalid character")
REMEMBERED = 1024
"""Jobs of which is known that it was logged."""


def reduced(status: QuantizationJobStatus) -> Iterator[tuple[str, QuantizationJobStatus]]:
    """What is left out, and the status without it and without all before it."""
    status = status.model_copy(update={"progress": None})
    yield "its progress", status
    status = status.model_copy(update={"metrics": [], "trials": [], "search": None})
    yield "its metrics", status
    conditions = [condition.model_copy(update={"message": ""}) for condition in status.conditions]
    failure = status.failure and status.failure.model_copy(
        update={
            "message": "the API server rejected the message; see the log of the pod",
            "hint": "",
            "pod_name": None,
        }
    )
    artifact = status.artifact and status.artifact.model_copy(update={"readers": []})
    update = {"conditions": conditions, "failure": failure, "artifact": artifact, "passes": None}
    yield "its messages", status.model_copy(update=update)


def rejects(error: ApiError) -> bool:
    """Whether the API server refuses what was written, and would refuse it again."""
    return error.code in REJECTED or (error.code >= 500 and bool(_CANNOT_BE_DECODED.search(error.message)))


class StatusWriter:
    """Writes statuses by a `Writer`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._logged: OrderedDict[Key, None] = OrderedDict()

    async def write(
        self, qjob: QuantizationJob, status: QuantizationJobStatus
    ) -> tuple[QuantizationJob, QuantizationJobStatus]:
        """Write a status, or as much of it as the API server takes; the object then, and what was written.

        Raises:
            ApiError: as `Writer.patch_status`, or it takes nothing of it.
        """
        before = qjob.status_as_stored()
        try:
            return await self._writer.patch_status(qjob, before, status), status
        except ApiError as error:
            if not rejects(error):
                raise
            rejection = error
        for left_out, less in reduced(status):
            try:
                written = await self._writer.patch_status(qjob, before, less)
            except ApiError as error:
                if not rejects(error):
                    raise
                continue
            self._log(qjob, left_out, rejection)
            return written, less
        raise rejection

    def _log(self, qjob: QuantizationJob, left_out: str, rejection: ApiError) -> None:
        key = Key(qjob.namespace, qjob.uid)
        if key in self._logged:
            return
        self._logged[key] = None
        if len(self._logged) > REMEMBERED:
            self._logged.popitem(last=False)
        logger.warning(
            "the status of %s was written without %s: %s",
            qjob.name,
            left_out,
            rejection,
            extra={"namespace": qjob.namespace, "uid": qjob.uid},
        )
