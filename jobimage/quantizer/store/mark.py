"""The contents of `.state/claim.json`: which process is writing to an output, and what it has decided to publish.

    claimed     a process is working; it rewrites the mark every claim.RENEW_SECONDS
    decided     the attempt named in `decision` becomes the artifact: the next process finishes that first
    released    no process is working: the output may be taken at once

Each process has its own nonce, so no two processes write the same mark.
"""

import os
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantization_api.bounded import Count
from quantization_api.manifest import STATE_PREFIX
from quantization_api.pod import WORKER_ENV
from quantization_api.text import clean
from quantizer.store.interface import Store
from quantizer.store.small_objects import read_small

CLAIM_NAME = f"{STATE_PREFIX}claim.json"
ATTEMPTS = f"{STATE_PREFIX}attempt-"
MARK_BYTES = 64 * 1024

Nonce = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
OptionalDigest = Annotated[str, Field(pattern="^(sha256:[0-9a-f]{64})?$")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Decision(_Document):
    """What is to be published."""

    attempt: Nonce
    """Nonce of the process that staged it."""
    manifest: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
    """Digest of the staged manifest."""
    replaces: OptionalDigest = ""
    """Digest of the manifest that it replaces; "" if there is none."""


class Mark(_Document):
    """Which process is writing to the output; all fields are empty if there is no valid mark."""

    job: str = ""
    """Name of the job, for messages."""
    uid: str = ""
    """Identity of the job."""
    recipe: str = ""
    nonce: Nonce | None = None
    """Identity of the process."""
    renewed: Count = 0
    """How often the process has written the mark."""
    released: bool = False
    """No process is working."""
    decision: Decision | None = None

    def text(self) -> bytes:
        """The bytes that are stored."""
        return self.model_dump_json().encode()

    @property
    def who(self) -> str:
        """The job, for messages."""
        return clean(self.job, 128) or "an unknown job"


@dataclass(frozen=True)
class Seen:
    """A mark and the version of the object that it was read from."""

    mark: Mark
    version: str


def works_for(uid: str, worker: str) -> bool:
    """Whether a process is one of the job with this uid: itself, or a worker of its search, UID/NUMBER."""
    return worker == uid or worker.startswith(f"{uid}/")


def worker_of(uid: str) -> str:
    """The identity of this process: the job's, and its number in an Indexed Job."""
    number = os.environ.get(WORKER_ENV)
    return f"{uid}/{number}" if number else uid


def staging_of(nonce: str) -> str:
    """The prefix for the objects of the process with this nonce."""
    return f"{ATTEMPTS}{nonce}/"


def look(store: Store) -> Seen | None:
    """The mark on an output, or None; an object that is not a valid mark counts as an empty one."""
    found = read_small(store, CLAIM_NAME, MARK_BYTES)
    return None if found is None else Seen(_parsed(found.data), found.version)


def _parsed(data: bytes) -> Mark:
    try:
        return Mark.model_validate_json(data)
    except ValidationError:
        return Mark()
