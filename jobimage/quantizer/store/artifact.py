"""Writes an artifact so that it is either complete or absent, and so that no job destroys another job's.

    take the claim                          another job's live claim is a conflict
    finish an earlier decision              a run that was killed while publishing still gets its artifact
    stage objects, read each one back       under this process's own prefix, while later layers are computed
    stage the manifest, then decide         by one conditional write of the claim, which only one process can win
    publish                                 on the server (promotion.py); any process can finish it
    remove the state, the claim last

What a killed run leaves behind has a claim; the next run removes the staged objects and continues from the finished
layers. Nothing that is published is ever removed because of a conflict or a failure. Unclaimed objects belong to
someone else: they are a conflict, and are never touched.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import MANIFEST_NAME, Manifest, StoredObject
from quantizer.store.claim import Claim
from quantizer.store.interface import ObjectInfo, StopCheck, Store
from quantizer.store.manifests import is_ours, manifest_digest, missing_or_changed, parse_manifest
from quantizer.store.mark import CLAIM_NAME, Decision
from quantizer.store.promotion import clean_up, drop_dead_attempts, publish
from quantizer.store.small_objects import read_small
from quantizer.store.source import BLOCK, sha256_of

logger = logging.getLogger(__name__)

UPLOAD_ATTEMPTS = 2
LOOKS = 3
"""Listings to take before objects count as foreign: another run that ends meanwhile makes them look so."""


class Output:
    """What is at the output before anything is written.

    Raises:
        QuantizationError: ArtifactConflict when something else is there.
    """

    def __init__(self, store: Store, recipe: str) -> None:
        self.store, self.recipe = store, recipe
        self.manifest: Manifest | None = None
        """Of an artifact of the same recipe, if there is one."""
        self.manifest_bytes = b""
        self.whole = False
        """Whether all its objects are there with their sizes."""
        for _ in range(LOOKS):
            self.listing = store.list()
            foreign = self._foreign()
            if MANIFEST_NAME not in self.listing and not foreign:
                return
            # Another run may be ending right now, which makes the listing out of date.
            if (found := read_small(store, MANIFEST_NAME)) is not None:
                self._take_in(found.data)
                return
        if foreign:
            raise QuantizationError(
                Category.ARTIFACT_CONFLICT,
                f"{store.uri} holds {foreign[0]}"
                f"{f' and {len(foreign) - 1} more' if len(foreign) > 1 else ''}, but neither a manifest "
                "nor a claim: the quantizer did not write these objects",
                "Choose an empty output.uri, or remove the objects if nobody needs them.",
            )

    def _foreign(self) -> list[str]:
        """Objects with an artifact's names but without a manifest or a claim."""
        if MANIFEST_NAME in self.listing or CLAIM_NAME in self.listing:
            return []
        return [key for key in self.listing if is_ours(key)]

    def _take_in(self, data: bytes) -> None:
        self.manifest_bytes = data
        self.manifest = parse_manifest(self.store, data, Category.ARTIFACT_CONFLICT)
        if self.manifest.recipe != self.recipe:
            raise QuantizationError(
                Category.ARTIFACT_CONFLICT,
                f"{self.store.uri} already holds an artifact of another recipe ({self.manifest.recipe})",
            )
        self.whole = not missing_or_changed(self.manifest, self.store.list())


class ArtifactWriter:
    """Puts the objects of one artifact into its store.

    Args:
        output: what was found there after the claim was taken.
        claim: held while writing.
        stop_check: called between blocks.
        on_bytes: called with the number of bytes written.
    """

    def __init__(
        self,
        output: Output,
        claim: Claim,
        stop_check: StopCheck,
        on_bytes: Callable[[int], None],
    ) -> None:
        self.store = output.store
        self._replaces = manifest_digest(output.manifest_bytes) if output.manifest else ""
        self._claim, self._stop_check, self._on_bytes = claim, stop_check, on_bytes
        self._objects: dict[str, StoredObject] = {}
        drop_dead_attempts(self.store, claim)

    @property
    def objects(self) -> list[StoredObject]:
        """The objects staged so far, by key."""
        return [self._objects[key] for key in sorted(self._objects)]

    def staged(self, key: str) -> str:
        """Where an object or a folder of the artifact is kept until it is published."""
        return self._claim.staging + key

    def put_file(self, key: str, path: Path) -> None:
        """Uploads a file and reads it back.

        Raises:
            QuantizationError: ArtifactCorrupt when the file does not read back as written.
        """
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                self._stop_check()
                digest.update(block)
        self._objects[key] = self._put(
            key,
            path.stat().st_size,
            digest.hexdigest(),
            lambda: self.store.put_file(self.staged(key), path, self.check),
        )

    def put_bytes(self, key: str, data: bytes) -> None:
        """Stores a small object and reads it back."""
        self._objects[key] = self._put_small(key, data)

    def take(self, key: str, item: StoredObject, copy: Callable[[str], None]) -> None:
        """Stores a copy of another artifact's object, and reads it back.

        copy: copies it to a key of this store.

        Raises:
            QuantizationError: ArtifactCorrupt when the copy is not as `item` says.
        """
        self._objects[key] = self._put(key, item.size, item.sha256, lambda: copy(self.staged(key)))

    def finish(self, manifest: Manifest) -> tuple[Manifest, bytes]:
        """Publishes `objects` and their manifest; returns the manifest and its bytes.

        Raises:
            QuantizationError: ArtifactConflict when another job has taken the output, or published there.
        """
        self.check()
        manifest = manifest.model_copy(update={"objects": self.objects})
        data = manifest.model_dump_json(indent=2).encode() + b"\n"
        self._put_small(MANIFEST_NAME, data)
        decision = Decision(
            attempt=self._claim.nonce, manifest=manifest_digest(data), replaces=self._replaces
        )
        publish(self.store, self._claim, decision, self.check)
        clean_up(self.store, self._claim)
        return manifest, data

    def check(self) -> None:
        """Raises when the run was stopped, or when another job has taken the output over."""
        self._stop_check()
        self._claim.check()

    def _put_small(self, key: str, data: bytes) -> StoredObject:
        return self._put(
            key,
            len(data),
            hashlib.sha256(data).hexdigest(),
            lambda: self.store.put_bytes(self.staged(key), data),
        )

    def _put(self, key: str, size: int, digest: str, upload: Callable[[], object]) -> StoredObject:
        for attempt in range(1, UPLOAD_ATTEMPTS + 1):
            self.check()
            upload()
            self._on_bytes(size)
            stored = self.store.head(self.staged(key))
            if stored is not None and stored.size == size and self._read_back(stored) == digest:
                return StoredObject(key=key, size=size, sha256=digest)
            logger.warning("%s/%s does not read back as written (attempt %d)", self.store.uri, key, attempt)
        raise QuantizationError(
            Category.ARTIFACT_CORRUPT, f"{self.store.uri}/{key} does not read back as written"
        )

    def _read_back(self, stored: ObjectInfo) -> str:
        return sha256_of(self.store, stored, lambda _: self.check())
