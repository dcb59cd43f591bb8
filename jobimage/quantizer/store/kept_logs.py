"""The ends of logs, kept beside an output for when the pods are gone.

    .logs/UID.jsonl           of a job, by the uid of its QuantizationJob
    .logs/UID/NUMBER.jsonl    of a worker of a search

They are no part of the artifact and need no claim: a process writes its own only, over that of its earlier attempts.
"""

from quantization_api.manifest import LOGS_PREFIX
from quantizer.store.interface import Store
from quantizer.store.mark import works_for
from quantizer.store.small_objects import read_small

LOG_BYTES = 64 * 1024
"""The most that is kept of a log."""
SUFFIX = ".jsonl"


def keep(store: Store, worker: str, text: bytes) -> None:
    """Stores the end of a process's log. worker: as `mark.worker_of` names it.

    Raises:
        QuantizationError: the storage is away, full or refuses it.
    """
    store.put_bytes(f"{LOGS_PREFIX}{worker}{SUFFIX}", text[-LOG_BYTES:])


def kept(store: Store, uid: str | None) -> dict[str, bytes]:
    """The logs that are kept at an output, by worker; uid: of one job only.

    Raises:
        QuantizationError: AccessDenied, StorageUnavailable.
    """
    found = {_worker(key): read_small(store, key, LOG_BYTES) for key in _keys(store, uid)}
    return {worker: log.data for worker, log in found.items() if log is not None}


def remove_logs(store: Store, uid: str | None) -> int:
    """Removes the logs of a job, or all of them; returns how many.

    Raises:
        QuantizationError: AccessDenied, StorageUnavailable.
    """
    keys = _keys(store, uid)
    store.delete(keys)
    return len(keys)


def _keys(store: Store, uid: str | None) -> list[str]:
    return [key for key in store.list(LOGS_PREFIX) if uid is None or works_for(uid, _worker(key))]


def _worker(key: str) -> str:
    return key.removeprefix(LOGS_PREFIX).removesuffix(SUFFIX)
