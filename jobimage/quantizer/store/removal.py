"""Removes an artifact: exactly what its manifest lists. If interrupted, the next try removes the rest.

    claim the output                         a live run of another job is a conflict, and nothing is touched
    finish an earlier decision               a result that another job has decided to publish belongs to it
    copy the manifest into .state            from now on the rest can be removed, whatever happens
    remove the manifest                      from now on there is no artifact, only leftovers
    remove what the manifest lists
    remove the state, the claim, and that copy last

An unfinished run has no manifest; there the claim tells who owns the objects.
"""

from collections.abc import Callable
from dataclasses import dataclass

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import MANIFEST_NAME, STATE_PREFIX, Manifest
from quantizer.store.claim import Claim
from quantizer.store.interface import ObjectInfo, Store
from quantizer.store.manifests import is_ours, parse_manifest
from quantizer.store.mark import Mark, look, works_for
from quantizer.store.promotion import drop_dead_attempts, settle
from quantizer.store.small_objects import read_small, remove_small

REMOVED_MANIFEST = f"{STATE_PREFIX}removed-manifest.json"


@dataclass(frozen=True)
class Ours:
    """What may be removed; with neither field, whatever is at the output, since its location was given explicitly."""

    recipe: str | None = None
    """An artifact of this recipe, if its manifest records no owner or no uid is given."""
    uid: str | None = None
    """What this job made, by the owner in the manifest, and what its run left, by the claim."""

    @property
    def anything(self) -> bool:
        """Whether the location alone says what to remove."""
        return self.recipe is None and self.uid is None

    def includes(self, manifest: Manifest, mark: Mark) -> bool:
        """Whether the artifact may be removed. Another job may use it, but its owner decides."""
        if self.anything:
            return True
        if self.uid is not None and manifest.owner:
            return manifest.owner == self.uid
        written = self.claimed(mark) and mark.recipe == manifest.recipe
        return manifest.recipe == self.recipe or written

    def claimed(self, mark: Mark) -> bool:
        """Whether the claim on the output is our job's."""
        return self.uid is not None and works_for(self.uid, mark.uid)


@dataclass(frozen=True)
class _Found:
    """What is to be removed."""

    recipe: str
    manifest: bytes | None
    """None when it is no longer in its place."""
    version: str
    """Of the manifest."""
    keys: list[str]
    """The objects beside it."""


def remove(
    store: Store, ours: Ours, uid: str, name: str, has_ended: Callable[[str], bool] = lambda _: False
) -> int | None:
    """Removes what is ours at the output; returns the number of objects, without the state. None: nothing is ours.

    uid, name: for the claim; those of the job if known, so that its own claim is not a conflict.

    Raises:
        QuantizationError: ArtifactConflict when another job is writing there, or manifest.json is not a manifest;
            AccessDenied, StorageUnavailable.
    """
    seen = look(store)
    found = _find(store, ours, seen.mark if seen else Mark())
    if found is None:
        return None

    def ended(other: str) -> bool:
        return works_for(uid, other) or has_ended(other)  # the workers of the job were stopped before

    with Claim(store, uid, name, found.recipe, ended) as claim:
        settle(store, claim)
        found = _find(store, ours, claim.found)
        if found is None:
            claim.give_back()
            return None
        drop_dead_attempts(store, claim)
        _remove(store, claim, found)
    return len(found.keys) + (found.manifest is not None)


def _remove(store: Store, claim: Claim, found: _Found) -> None:
    if found.manifest is not None:
        store.put_bytes(REMOVED_MANIFEST, found.manifest)
        claim.renew()
        if not remove_small(store, MANIFEST_NAME, found.version):
            raise QuantizationError(
                Category.ARTIFACT_CONFLICT,
                f"another artifact was published at {store.uri} in the meantime; it was left alone",
            )
    claim.renew()
    store.delete(found.keys)
    claim.release(last=[REMOVED_MANIFEST])


def _find(store: Store, ours: Ours, mark: Mark) -> _Found | None:
    listing = store.list()
    if there := read_small(store, MANIFEST_NAME):
        manifest = parse_manifest(store, there.data, Category.ARTIFACT_CONFLICT)
        if ours.includes(manifest, mark):
            return _Found(manifest.recipe, there.data, there.version, _listed(manifest, listing))
        # otherwise only the state is ours
        return _Found(manifest.recipe, None, "", []) if ours.claimed(mark) else None
    free = not mark.uid or ours.anything or ours.claimed(mark)
    if free and (removed := read_small(store, REMOVED_MANIFEST)):
        # A removal was killed. Its leftovers belong to no one, so any removal may finish it.
        manifest = parse_manifest(store, removed.data, Category.ARTIFACT_CONFLICT)
        return _Found(manifest.recipe, None, "", _listed(manifest, listing))
    state = any(key.startswith(STATE_PREFIX) for key in listing)
    if not ours.claimed(mark) and not (ours.anything and state):
        return None
    claimed = mark != Mark()
    return _Found(mark.recipe, None, "", [key for key in listing if claimed and is_ours(key)])


def _listed(manifest: Manifest, listing: dict[str, ObjectInfo]) -> list[str]:
    return [item.key for item in manifest.objects if item.key in listing]
