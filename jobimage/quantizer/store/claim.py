"""The claim on an output: who writes there, so that two jobs never mix their objects.

A claim is an object that its owner rewrites every RENEW_SECONDS. Whoever finds the claim of another job
watches it for PATIENCE_SECONDS: a claim that changes is alive, one that does not is what a killed run
left behind and is taken over. No clocks are compared. Every write is conditional on the version seen
before, so of two that try at the same time one wins.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import STATE_PREFIX
from quantizer.store.interface import ObjectInfo, PreconditionFailedError, Store

CLAIM_NAME = f"{STATE_PREFIX}claim.json"
RENEW_SECONDS = 15.0
PATIENCE_SECONDS = 40.0
LOOK_SECONDS = 2.0


def holder_of(store: Store, claim: ObjectInfo) -> dict[str, str]:
    """Who claims an output (job, uid, recipe); {} when what lies there is no claim."""
    try:
        holder = json.loads(bytes(store.read(claim.key, 0, claim.size)))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


class Claim:
    """`with Claim(store, uid, job, recipe) as claim:` - `claim.check()` fails when another took it over.

    uid: identity of the job; another attempt of the same job takes its own claim over at once.
    has_ended: whether the owner with this uid is known to be gone, so that nobody need watch its claim.
    """

    def __init__(
        self,
        store: Store,
        uid: str,
        job: str,
        recipe: str,
        has_ended: Callable[[str], bool] = lambda _: False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._uid, self._job, self._recipe = store, uid, job, recipe
        self._has_ended, self._sleep = has_ended, sleep
        self._count = 0
        self._version = ""
        self._lost: QuantizationError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)

    def __enter__(self) -> Self:
        """Takes the claim.

        Raises:
            QuantizationError: ArtifactConflict while another job holds it.
        """
        try:
            self._take()
        except PreconditionFailedError:
            raise self._conflict("another job claimed it at the same moment") from None
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops renewing. The claim itself stays until `release`: it marks what a broken run left behind."""
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raises ArtifactConflict when another job has taken the output over."""
        if self._lost is not None:
            raise self._lost

    def release(self, last: Sequence[str] = ()) -> None:
        """Removes everything else of the run's state, then the claim, then `last`, which is needed until then."""
        self._stop.set()
        self._thread.join()
        self.check()
        kept = (CLAIM_NAME, *last)
        self._store.delete([key for key in self._store.list(STATE_PREFIX) if key not in kept])
        self._store.delete(kept)

    def _take(self) -> None:
        found = self._store.head(CLAIM_NAME)
        if found is None:
            self._version = self._store.put_bytes(CLAIM_NAME, self._text(), if_absent=True)
            return
        holder = holder_of(self._store, found)
        owner = str(holder.get("uid"))
        if owner != self._uid and not self._has_ended(owner):
            waited = 0.0
            while waited < PATIENCE_SECONDS:
                self._sleep(LOOK_SECONDS)
                waited += LOOK_SECONDS
                now = self._store.head(CLAIM_NAME)
                if now is None:
                    raise self._conflict(f"{holder.get('job')} has just finished with it; run again")
                if now.version != found.version:
                    raise self._conflict(f"{holder.get('job')} writes to it right now")
        self._version = self._store.put_bytes(CLAIM_NAME, self._text(), if_version=found.version)

    def _text(self) -> bytes:
        self._count += 1
        return json.dumps(
            {"job": self._job, "uid": self._uid, "recipe": self._recipe, "renewed": self._count}
        ).encode()

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                self._version = self._store.put_bytes(CLAIM_NAME, self._text(), if_version=self._version)
            except PreconditionFailedError:
                self._lost = self._conflict("another job took it over")
                return
            except QuantizationError as error:
                if error.category is not Category.STORAGE_UNAVAILABLE:
                    self._lost = error
                    return
                # The next renewal, or the run itself, finds out whether the storage stays away.

    def _conflict(self, why: str) -> QuantizationError:
        return QuantizationError(
            Category.ARTIFACT_CONFLICT,
            f"the output {self._store.uri} is in use: {why}",
            "Give every job an output.uri of its own.",
        )
