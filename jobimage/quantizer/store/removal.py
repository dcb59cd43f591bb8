"""Removes an artifact: exactly what its manifest lists, so that it is gone, or can be removed by the next try.

    claim the output                         a live run of another job is a conflict, and nothing is touched
    copy the manifest into .state            what is left to remove is known from here on, whatever happens
    remove the manifest                      from here on there is no artifact, only what is left of one
    remove what the manifest lists
    remove the state, the claim, and that copy last

Of a run that did not end there is no manifest; there the claim says whose the objects are.
"""

from collections.abc import Callable
from dataclasses import dataclass

from quantization_api.failures import Category
from quantization_api.manifest import MANIFEST_NAME, STATE_PREFIX, Manifest
from quantizer.store.artifact import is_ours, read_manifest
from quantizer.store.claim import CLAIM_NAME, Claim, holder_of
from quantizer.store.interface import ObjectInfo, Store

REMOVED_MANIFEST = f"{STATE_PREFIX}removed-manifest.json"


@dataclass(frozen=True)
class Ours:
    """What may be removed.

    recipe: an artifact of this recipe. uid: what the run of this job left, which its claim tells. With neither: the
    artifact that is there, whatever its recipe, since somebody named its place.
    """

    recipe: str | None = None
    uid: str | None = None

    @property
    def anything(self) -> bool:
        """Whether the place alone says what is meant."""
        return self.recipe is None and self.uid is None

    def includes(self, manifest: Manifest, holder: dict[str, str]) -> bool:
        """Whether the artifact is meant: by its recipe, or since our run wrote it when it was stopped."""
        written = self.claimed(holder) and holder.get("recipe") == manifest.recipe
        return self.anything or manifest.recipe == self.recipe or written

    def claimed(self, holder: dict[str, str]) -> bool:
        """Whether the claim on the output is that of our job."""
        return self.uid is not None and holder.get("uid") == self.uid


@dataclass(frozen=True)
class _Found:
    """What is to be removed: a manifest, if it is still in its place, and objects."""

    recipe: str
    manifest: bytes | None
    keys: list[str]


def remove(
    store: Store, ours: Ours, uid: str, name: str, has_ended: Callable[[str], bool] = lambda _: False
) -> int | None:
    """Removes what is ours at the output; the number of objects, the state apart. None: nothing there is ours.

    uid, name: who removes, for the claim: the job itself where it is known, so that its own claim is no conflict.

    Raises:
        QuantizationError: ArtifactConflict when another job writes there, or what is named manifest.json is none;
            AccessDenied, StorageUnavailable.
    """
    found = _find(store, store.list(), ours)
    if found is None:
        return None
    with Claim(store, uid, name, found.recipe, has_ended) as claim:
        store.abort_uploads()
        if found.manifest is not None:
            store.put_bytes(REMOVED_MANIFEST, found.manifest)
            claim.check()
            store.delete([MANIFEST_NAME])
        claim.check()
        store.delete(found.keys)
        claim.release(last=[REMOVED_MANIFEST])
    return len(found.keys) + (found.manifest is not None)


def _find(store: Store, listing: dict[str, ObjectInfo], ours: Ours) -> _Found | None:
    holder = holder_of(store, listing[CLAIM_NAME]) if CLAIM_NAME in listing else {}
    if info := listing.get(MANIFEST_NAME):
        manifest, data = read_manifest(store, info, Category.ARTIFACT_CONFLICT)
        if ours.includes(manifest, holder):
            return _Found(manifest.recipe, data, _listed(manifest, listing))
        mine = ours.claimed(holder)
        return (
            _Found(manifest.recipe, None, []) if mine else None
        )  # only the state: the artifact is another's
    free = not holder or ours.anything or ours.claimed(holder)
    if free and (info := listing.get(REMOVED_MANIFEST)):
        # A removal was killed. Nobody can have what it left, so whoever comes ends it.
        manifest, _ = read_manifest(store, info, Category.ARTIFACT_CONFLICT)
        return _Found(manifest.recipe, None, _listed(manifest, listing))
    if not ours.claimed(holder):
        return None
    return _Found(str(holder.get("recipe")), None, [key for key in listing if is_ours(key)])


def _listed(manifest: Manifest, listing: dict[str, ObjectInfo]) -> list[str]:
    return [item.key for item in manifest.objects if item.key in listing]
