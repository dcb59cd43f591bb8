"""Writes an artifact so that it is either whole or not there.

    claim the output                       another job's live claim is a conflict
    upload objects, read each one back     in the background, while later layers are computed
    write manifest.json, conditionally     from here on there is an artifact
    remove the claim

What a killed run leaves has a claim and no manifest; the next run overwrites it and removes the rest.
Objects that nobody claimed are never touched: they are somebody's, so they are a conflict.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import (
    MANIFEST_NAME,
    MODEL_CARD_NAME,
    MODEL_PREFIX,
    ONNX_PREFIX,
    REPORT_PREFIX,
    Manifest,
    StoredObject,
)
from quantizer.store.claim import CLAIM_NAME, Claim
from quantizer.store.interface import ObjectInfo, PreconditionFailedError, Store
from quantizer.store.source import BLOCK, sha256_of

logger = logging.getLogger(__name__)

UPLOAD_ATTEMPTS = 2


def is_ours(key: str) -> bool:
    """True for the keys that an artifact consists of, its manifest apart."""
    return key == MODEL_CARD_NAME or key.startswith((MODEL_PREFIX, ONNX_PREFIX, REPORT_PREFIX))


def read_manifest(store: Store, info: ObjectInfo, broken: Category) -> tuple[Manifest, bytes]:
    """The manifest that lies there, and its bytes; `broken` is the category when it is none of ours."""
    data = bytes(store.read(info.key, 0, info.size, info.version))
    try:
        return Manifest.model_validate_json(data), data
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise QuantizationError(
            broken,
            f"{store.uri}/{MANIFEST_NAME} is not the manifest of an artifact: {where}: {first['msg']}",
        ) from error


def manifest_digest(data: bytes) -> str:
    """The digest that status.artifact.manifestDigest carries."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def missing_or_changed(manifest: Manifest, listing: dict[str, ObjectInfo]) -> list[str]:
    """Keys of the manifest that are not in the listing, or not with their size."""
    return [
        item.key
        for item in manifest.objects
        if item.key not in listing or listing[item.key].size != item.size
    ]


class Output:
    """What is at the output before anything is written.

    manifest, manifest_bytes: of an artifact of the same recipe, if there is one.
    whole: all its objects are there with their sizes.

    Raises:
        QuantizationError: ArtifactConflict when something else is there.
    """

    def __init__(self, store: Store, recipe: str) -> None:
        self.store = store
        self.listing = store.list()
        self.manifest: Manifest | None = None
        self.manifest_bytes = b""
        self.manifest_version: str | None = None
        self.whole = False
        found = self.listing.get(MANIFEST_NAME)
        if found is not None:
            self.manifest, self.manifest_bytes = read_manifest(store, found, Category.ARTIFACT_CONFLICT)
            self.manifest_version = found.version
            if self.manifest.recipe != recipe:
                raise QuantizationError(
                    Category.ARTIFACT_CONFLICT,
                    f"{store.uri} already holds an artifact of another recipe ({self.manifest.recipe})",
                )
            self.whole = not missing_or_changed(self.manifest, self.listing)
        elif CLAIM_NAME not in self.listing and (others := [key for key in self.listing if is_ours(key)]):
            raise QuantizationError(
                Category.ARTIFACT_CONFLICT,
                f"{store.uri} holds {others[0]}"
                f"{f' and {len(others) - 1} more' if len(others) > 1 else ''}, but no manifest and no mark "
                "of a broken run: these objects are not the quantizer's",
                "Choose an empty output.uri, or remove the objects if nobody needs them.",
            )


class ArtifactWriter:
    """Puts the objects of one artifact into its store.

    Args:
        output: what was found there.
        claim: held while writing.
        checkpoint: called between blocks; what it raises ends the transfer (a stopped run).
        on_bytes: called with the bytes that were written.
    """

    def __init__(
        self,
        output: Output,
        claim: Claim,
        checkpoint: Callable[[], None],
        on_bytes: Callable[[int], None],
    ) -> None:
        self.store = output.store
        self._replaces = output.manifest_version
        self._claim, self._checkpoint, self._on_bytes = claim, checkpoint, on_bytes
        self._objects: dict[str, StoredObject] = {}
        if aborted := self.store.abort_uploads():
            logger.info("dropped unfinished uploads of an earlier run: %d", aborted)

    @property
    def objects(self) -> list[StoredObject]:
        """What was written so far, by key."""
        return [self._objects[key] for key in sorted(self._objects)]

    def put_file(self, key: str, path: Path) -> None:
        """Uploads a file and reads it back.

        Raises:
            QuantizationError: ArtifactCorrupt when the store gives other bytes than it was given.
        """
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                self._checkpoint()
                digest.update(block)
        self._put(
            key,
            path.stat().st_size,
            digest.hexdigest(),
            lambda: self.store.put_file(key, path, self.check),
        )

    def put_bytes(self, key: str, data: bytes) -> None:
        """Stores a small object and reads it back."""
        self._put(key, len(data), hashlib.sha256(data).hexdigest(), lambda: self.store.put_bytes(key, data))

    def finish(self, manifest: Manifest) -> tuple[Manifest, bytes]:
        """Writes the manifest over `objects`; returns what lies there then.

        Raises:
            QuantizationError: ArtifactConflict when another artifact was finished there meanwhile.
        """
        self.check()
        manifest = manifest.model_copy(update={"objects": self.objects})
        data = manifest.model_dump_json(indent=2).encode() + b"\n"
        left_over = [key for key in self.store.list() if is_ours(key) and key not in self._objects]
        if left_over:
            logger.info("removing what an earlier run left: %d objects", len(left_over))
            self.store.delete(left_over)
        try:
            self.store.put_bytes(
                MANIFEST_NAME, data, if_absent=self._replaces is None, if_version=self._replaces
            )
        except PreconditionFailedError:
            # A retried request may find its own first attempt; anything else is another job's artifact.
            found = self.store.head(MANIFEST_NAME)
            if found is None or bytes(self.store.read(MANIFEST_NAME, 0, found.size)) != data:
                raise QuantizationError(
                    Category.ARTIFACT_CONFLICT, f"another job finished an artifact at {self.store.uri}"
                ) from None
        self._claim.release()
        return manifest, data

    def discard(self) -> None:
        """Removes what was written: the result is not to be published.

        An artifact of the same recipe that was there before keeps its objects, which have the same bytes.
        """
        self.check()
        if self._replaces is None:
            self.store.delete([key for key in self.store.list() if is_ours(key)])
        self._claim.release()

    def _put(self, key: str, size: int, digest: str, upload: Callable[[], object]) -> None:
        for attempt in range(1, UPLOAD_ATTEMPTS + 1):
            self.check()
            upload()
            self._on_bytes(size)
            stored = self.store.head(key)
            if stored is not None and stored.size == size and self._read_back(stored) == digest:
                self._objects[key] = StoredObject(key=key, size=size, sha256=digest)
                return
            logger.warning("%s/%s is not what was written (attempt %d)", self.store.uri, key, attempt)
        raise QuantizationError(
            Category.ARTIFACT_CORRUPT, f"{self.store.uri}/{key} reads back other bytes than were written"
        )

    def _read_back(self, stored: ObjectInfo) -> str:
        return sha256_of(self.store, stored, lambda _: self.check())

    def check(self) -> None:
        """Raises what ends the run: a stopped run, or an output that another job has taken over."""
        self._checkpoint()
        self._claim.check()
