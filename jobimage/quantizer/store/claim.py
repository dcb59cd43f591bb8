"""The claim on an output: of several jobs that write to it, one publishes and none destroys anything.

A claim is an object (mark.py) that its owner rewrites every RENEW_SECONDS. A job that finds another job's claim
watches it for PATIENCE_SECONDS: a claim that changes is alive; one that does not was left by a killed run and is
taken over. No clocks are compared. Every write is conditional on the version seen before, so only one of two
simultaneous writers wins, and a job that lost its claim is refused at its next write, however late that comes.
"""

import contextlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import STATE_PREFIX
from quantizer.store.interface import PreconditionFailedError, Store
from quantizer.store.manifests import is_ours
from quantizer.store.mark import CLAIM_NAME, Decision, Mark, Seen, look, staging_of

logger = logging.getLogger(__name__)

RENEW_SECONDS = 15.0
PATIENCE_SECONDS = 40.0
LOOK_SECONDS = 2.0
ATTEMPTS = 20
PAUSE_SECONDS = 0.2
JOIN_SECONDS = 10.0


def make_nonce() -> str:
    """A random name for this process: 32 hexadecimal digits."""
    return secrets.token_hex(16)


class ClaimLostError(QuantizationError):
    """Another process has the output now. Nothing there is ours any more except what we staged."""


class Claim:
    """`with Claim(store, uid, job, recipe) as claim:` - `claim.check()` raises once another job has taken it over.

    Args:
        uid: identity of the job; another attempt of the same job takes the claim over at once.
        has_ended: whether the owner with this uid is known to be gone, so that its claim need not be watched.
        waits: whether to watch another job's claim; if not, it is a conflict at once.
    """

    def __init__(
        self,
        store: Store,
        uid: str,
        job: str,
        recipe: str,
        has_ended: Callable[[str], bool] = lambda _: False,
        sleep: Callable[[float], None] = time.sleep,
        *,
        waits: bool = True,
    ) -> None:
        self._store, self._uid = store, uid
        self._has_ended, self._sleep, self._waits = has_ended, sleep, waits
        self.nonce = make_nonce()
        self._mark = Mark(job=job, uid=uid, recipe=recipe, nonce=self.nonce)
        self._version = ""
        self._count = 0
        self._ended = False
        self._lost: QuantizationError | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread()
        self.found = Mark()
        """The mark that this claim replaced."""

    def __enter__(self) -> Self:
        """Takes the claim.

        Raises:
            QuantizationError: ArtifactConflict while another job holds it.
        """
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets go: finished layers stay and the output is marked as free; staged objects go."""
        self._stop_renewing()
        away = isinstance(error, QuantizationError) and error.category is Category.STORAGE_UNAVAILABLE
        if not self._ended and not away:
            self._let_go()

    @property
    def decision(self) -> Decision | None:
        """A decision that was not carried out yet, by this process or the one before it."""
        return self._mark.decision

    @property
    def staging(self) -> str:
        """The prefix of this process's own objects."""
        return staging_of(self.nonce)

    def check(self) -> None:
        """Raises what the last renewal found: ArtifactConflict when another job has taken the output over."""
        if self._lost is not None:
            raise self._lost

    def take(self) -> None:
        """Takes the claim, or takes it again after it was lost, together with any decision in it.

        Raises:
            QuantizationError: ArtifactConflict while another job holds it.
        """
        self._stop_renewing()
        for _ in range(ATTEMPTS):
            seen = look(self._store)
            if seen is not None and not self._is_free(seen.mark):
                seen = self._watch(seen)
            if self._seize(seen):
                self.found = seen.mark if seen else Mark()
                self._lost, self._ended = None, False
                self._start_renewing()
                return
            self._pause()
        raise self._conflict("other jobs keep claiming it")

    def renew(self) -> None:
        """Writes the claim now; on return, no other process has it.

        Raises:
            ClaimLostError: another process has it.
        """
        self._swap()

    def decide(self, decision: Decision) -> None:
        """Decides: from now on this attempt becomes the artifact, even if this process ends."""
        self._swap(decision=decision)

    def settled(self) -> None:
        """Clears the decision: it was published, or cannot be."""
        self._swap(decision=None)

    def give_back(self) -> None:
        """Returns the claim to its previous owner: nothing there is ours."""
        before = self.found
        self._swap(job=before.job, uid=before.uid, recipe=before.recipe, released=True)
        self._stop_renewing()
        self._ended = True

    def release(self, last: Sequence[str] = ()) -> None:
        """Removes the rest of the state, then the claim, then `last`, which is needed until then."""
        self._stop_renewing()
        kept = (CLAIM_NAME, *last)
        listed = [key for key in self._store.list(STATE_PREFIX) if key not in kept]
        self.renew()  # so what was listed belongs to no live run, however late the deletion arrives
        self._store.delete(listed)
        self._swap(released=True, decision=None)
        with contextlib.suppress(PreconditionFailedError):  # another run has already begun
            self._store.delete_if(CLAIM_NAME, self._version)
        self._store.delete(last)
        self._ended = True

    def _is_free(self, mark: Mark) -> bool:
        return mark.released or mark.uid == self._uid or self._has_ended(mark.uid)

    def _watch(self, seen: Seen) -> Seen | None:
        """Watches another job's claim until it may be taken; None when it is gone by then.

        A job that has decided is about to finish, so it is waited for.
        """
        if not self._waits:
            raise self._conflict(f"{seen.mark.who} may still be writing to it")
        waited = 0.0
        while waited < PATIENCE_SECONDS:
            self._sleep(LOOK_SECONDS)
            waited += LOOK_SECONDS
            now = look(self._store)
            if now is None or self._is_free(now.mark):
                return now
            if now.version != seen.version:
                if now.mark.decision is None:
                    raise self._conflict(f"{now.mark.who} is writing to it")
                seen, waited = now, 0.0
        return seen

    def _seize(self, seen: Seen | None) -> bool:
        """Tries once to replace what was seen with our mark; False when another process was faster."""
        with self._lock:
            mark = self._next(released=False, decision=seen.mark.decision if seen else None)
            try:
                version = self._store.put_bytes(
                    CLAIM_NAME,
                    mark.text(),
                    if_absent=seen is None,
                    if_version=seen.version if seen else None,
                )
            except PreconditionFailedError:
                now = look(self._store)
                if now is None or now.mark != mark:
                    return False
                version = now.version
            self._mark, self._version = mark, version
            return True

    def _swap(self, patient: bool = True, **changes: Any) -> None:
        """Rewrites our claim.

        A refusal is not a loss if the mark there is our own: the answer to an earlier write was lost, or the server got
        two requests at once and asks for a retry.
        """
        store = self._store if patient else self._store.impatient()
        with self._lock:
            for _ in range(ATTEMPTS):
                mark = self._next(**changes)
                try:
                    version = store.put_bytes(CLAIM_NAME, mark.text(), if_version=self._version)
                except PreconditionFailedError:
                    seen = look(store)
                    if seen is None or seen.mark.nonce != self.nonce:
                        self._lost = ClaimLostError(*self._in_use("another job took it over"))
                        raise self._lost from None
                    self._mark, self._version = seen.mark, seen.version
                    if seen.mark == mark:
                        return
                    self._pause()
                else:
                    self._mark, self._version = mark, version
                    return
        raise QuantizationError(
            Category.STORAGE_UNAVAILABLE,
            f"{self._store.uri}/{CLAIM_NAME} cannot be written: every attempt was refused",
        )

    def _next(self, **changes: Any) -> Mark:
        self._count += 1
        return self._mark.model_copy(update={**changes, "renewed": self._count})

    def _pause(self) -> None:
        self._sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))

    def _start_renewing(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(self._stop,), name="claim", daemon=True)
        self._thread.start()

    def _stop_renewing(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(RENEW_SECONDS):
            try:
                self._swap(patient=False)
            except QuantizationError as error:
                if error.category is not Category.STORAGE_UNAVAILABLE:
                    self._lost = error
                    return
                # If the storage stays away, the next renewal or the run itself reports it.

    def _let_go(self) -> None:
        """Marks the output as free and removes our staged objects, unless they are decided on."""
        try:
            try:
                self._swap(released=True)
                mark = self._mark
            except ClaimLostError:
                seen = look(self._store)
                mark = seen.mark if seen else Mark()
            if mark.decision is None or mark.decision.attempt != self.nonce:
                self._store.delete(self._store.list(self.staging))
            if mark.nonce == self.nonce and not self._marks_anything():
                with contextlib.suppress(PreconditionFailedError):  # another run has already begun
                    self._store.delete_if(CLAIM_NAME, self._version)
        except QuantizationError as error:
            logger.warning(
                "staged objects remain at %s until the next run: %s", self._store.uri, error.message
            )

    def _marks_anything(self) -> bool:
        """Whether there are objects whose owner only the claim tells."""
        left = [key for key in self._store.list() if is_ours(key) or key.startswith(STATE_PREFIX)]
        return left != [CLAIM_NAME]

    def _in_use(self, why: str) -> tuple[Category, str, str]:
        return (
            Category.ARTIFACT_CONFLICT,
            f"the output {self._store.uri} is in use: {why}",
            "Give each job its own output.uri.",
        )

    def _conflict(self, why: str) -> QuantizationError:
        return QuantizationError(*self._in_use(why))
