"""Publishes the staged objects of an attempt, once that is decided.

    remove the manifest that is replaced      there is no artifact until the manifest is copied
    copy each object to its place             on the server; objects that are already there stay
    copy the manifest                         now the new artifact exists
    remove the attempt's staged objects, and what an earlier run left beside the artifact
    settle the claim

Any process may do any step at any time, even two at once or one that slept for hours: only the bytes that were decided
are copied, and if another process has finished the work, they are gone and there is nothing to copy. Every removal is
conditional on a version, concerns names that are never reused, or follows a renewal of the claim.
"""

import logging

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import MANIFEST_NAME, Manifest, StoredObject
from quantizer.store.claim import Claim, ClaimLostError
from quantizer.store.interface import StopCheck, Store, never_stop
from quantizer.store.manifests import is_ours, manifest_digest, manifest_of_digest
from quantizer.store.mark import ATTEMPTS, Decision, staging_of
from quantizer.store.small_objects import GONE, read_small, remove_small
from quantizer.store.source import sha256_of

logger = logging.getLogger(__name__)

COPY_ATTEMPTS = 3


class _SupersededError(QuantizationError):
    """There is a manifest that the decision does not replace."""


def publish(store: Store, claim: Claim, decision: Decision, stop_check: StopCheck) -> None:
    """Decides to publish, and publishes.

    Raises:
        QuantizationError: ArtifactConflict when another job has the output, or published there;
            ArtifactCorrupt when the staged objects have changed or are gone.
    """
    claim.decide(decision)
    try:
        done = settle(store, claim, stop_check)
    except ClaimLostError as lost:
        done = _published_by_another(store, claim, decision, stop_check, lost)
    if done is None and store.head(MANIFEST_NAME) is not None:
        raise QuantizationError(
            Category.ARTIFACT_CONFLICT, f"another job published an artifact at {store.uri}"
        )
    if done is None:
        raise QuantizationError(
            Category.ARTIFACT_CORRUPT, f"{store.uri}: the staged objects of the artifact are gone"
        )


def settle(store: Store, claim: Claim, stop_check: StopCheck = never_stop) -> Manifest | None:
    """Carries out the decision at a claimed output; returns the published manifest.

    None: nothing was decided, or it cannot be published and the next run starts over.
    """
    decision = claim.decision
    if decision is None:
        return None
    manifest = _published(store, decision) or _promoted(store, claim, decision, stop_check)
    if manifest is not None:
        _remove_what_is_not_listed(store, claim, manifest)
    staged = staging_of(decision.attempt)
    store.delete([staged + MANIFEST_NAME])  # first: without it a process that wakes up late publishes nothing
    store.delete(store.list(staged))
    claim.settled()
    return manifest


def clean_up(store: Store, claim: Claim) -> None:
    """Removes the state beside a complete artifact. A failure is only logged: leftover state does no harm."""
    try:
        claim.renew()
        store.abort_uploads()
        claim.release()
    except ClaimLostError:
        logger.info("another process has taken over %s and will remove its state", store.uri)
    except QuantizationError as error:
        logger.warning("the artifact is complete, but its state remains at %s: %s", store.uri, error.message)


def drop_dead_attempts(store: Store, claim: Claim) -> None:
    """Removes what earlier processes staged; they have lost the claim and can never publish it."""
    left = [key for key in store.list(ATTEMPTS) if not key.startswith(claim.staging)]
    claim.renew()
    if aborted := store.abort_uploads():
        logger.info("dropped %d unfinished uploads of an earlier run", aborted)
    store.delete(left)


def _published(store: Store, decision: Decision) -> Manifest | None:
    found = manifest_of_digest(store, MANIFEST_NAME, decision.manifest)
    return found[0] if found else None


def _published_by_another(
    store: Store, claim: Claim, decision: Decision, stop_check: StopCheck, lost: ClaimLostError
) -> Manifest:
    """The manifest after another process took the claim, and our decision with it, and publishes it."""
    manifest = _published(store, decision)
    if manifest is None:
        claim.take()
        settle(store, claim, stop_check)
        manifest = _published(store, decision)
    if manifest is None:
        raise lost
    return manifest


def _promoted(store: Store, claim: Claim, decision: Decision, stop_check: StopCheck) -> Manifest | None:
    """Publishes; returns the manifest, or None when the decision cannot be carried out."""
    try:
        found = manifest_of_digest(store, staging_of(decision.attempt) + MANIFEST_NAME, decision.manifest)
        if found is None:
            return _published(store, decision)
        _promote(store, claim, decision, found[0], stop_check)
        return found[0]
    except QuantizationError as error:
        if error.category not in GONE and not isinstance(error, _SupersededError):
            raise
        if (manifest := _published(store, decision)) is not None:
            return manifest
        claim.renew()  # without the claim we know nothing about what is there
        logger.warning("the staged artifact cannot be published: %s", error.message)
        return None


def _promote(
    store: Store, claim: Claim, decision: Decision, manifest: Manifest, stop_check: StopCheck
) -> None:
    staged = staging_of(decision.attempt)
    _remove_the_replaced(store, decision)
    for item in manifest.objects:
        stop_check()
        claim.check()
        _put_in_place(store, staged, item)
    for _ in range(COPY_ATTEMPTS):
        claim.renew()
        _copy(store, staged + MANIFEST_NAME, MANIFEST_NAME)
        if _published(store, decision) is not None:
            break
    else:
        raise QuantizationError(
            Category.ARTIFACT_CORRUPT, f"{store.uri}/{MANIFEST_NAME} does not read back as written"
        )


def _remove_the_replaced(store: Store, decision: Decision) -> None:
    there = read_small(store, MANIFEST_NAME)
    if there is None:
        return
    replaced = manifest_digest(there.data) == decision.replaces
    if not replaced or not remove_small(store, MANIFEST_NAME, there.version):
        raise _SupersededError(
            Category.ARTIFACT_CONFLICT,
            f"another artifact was published at {store.uri} in the meantime; it was left alone",
        )


def _put_in_place(store: Store, staged: str, item: StoredObject) -> None:
    if _is_there(store, item):
        return
    for _ in range(COPY_ATTEMPTS):
        _copy(store, staged + item.key, item.key)
        if _is_there(store, item):
            return
    raise QuantizationError(
        Category.ARTIFACT_CORRUPT, f"{store.uri}/{item.key} does not read back as written"
    )


def _copy(store: Store, source: str, target: str) -> None:
    """Copies; tolerates an interruption by another process, which aborts uploads it takes for leftovers."""
    try:
        store.copy(source, target)
    except QuantizationError as error:
        if error.category not in GONE or store.head(source) is None:
            raise
        logger.warning("the copy to %s/%s was interrupted: %s", store.uri, target, error.message)


def _is_there(store: Store, item: StoredObject) -> bool:
    """Whether an object reads back as recorded. The server's checksum may be a mere copy: it proves nothing."""
    info = store.head(item.key)
    if info is None or info.size != item.size:
        return False
    try:
        return sha256_of(store, info) == item.sha256
    except QuantizationError as error:
        if error.category not in GONE:
            raise
        return False


def _remove_what_is_not_listed(store: Store, claim: Claim, manifest: Manifest) -> None:
    listed = {item.key for item in manifest.objects}
    left = [key for key in store.list() if is_ours(key) and key not in listed]
    if left:
        logger.info("removing %d objects left by an earlier run", len(left))
        claim.renew()
        store.delete(left)
