"""The manifest at an output, and what it says about the objects beside it."""

import hashlib

from pydantic import ValidationError

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import (
    MANIFEST_NAME,
    MODEL_CARD_NAME,
    MODEL_PREFIX,
    ONNX_PREFIX,
    REPORT_PREFIX,
    TRIALS_PREFIX,
    Manifest,
    OtherSchemaError,
)
from quantization_api.text import clean
from quantizer.store.interface import ObjectInfo, Store
from quantizer.store.small_objects import read_small


def is_ours(key: str) -> bool:
    """Whether a key is one of an artifact's, other than its manifest."""
    return key == MODEL_CARD_NAME or key.startswith((MODEL_PREFIX, ONNX_PREFIX, REPORT_PREFIX, TRIALS_PREFIX))


def read_manifest(store: Store, info: ObjectInfo, broken: Category) -> tuple[Manifest, bytes]:
    """The manifest and its bytes; `broken` is the category if it is not a valid one."""
    data = bytes(store.read(info.key, 0, info.size, info.version))
    return parse_manifest(store, data, broken), data


def parse_manifest(store: Store, data: bytes, broken: Category) -> Manifest:
    """The manifest in these bytes; `broken` is the category if it is not a valid one."""
    try:
        return Manifest.read(data)
    except OtherSchemaError as error:
        raise QuantizationError(
            broken, f"{store.uri}/{MANIFEST_NAME} {error}", "Use the quantizer of the release that wrote it."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise QuantizationError(
            broken,
            f"{store.uri}/{MANIFEST_NAME} is not an artifact's manifest: "
            f"{clean(where, 256)}: {clean(first['msg'], 256)}",
        ) from error


def manifest_digest(data: bytes) -> str:
    """The digest that status.artifact.manifestDigest carries."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest_of_digest(store: Store, key: str, digest: str) -> tuple[Manifest, bytes] | None:
    """The manifest under a key, if it has this digest."""
    found = read_small(store, key)
    if found is None or manifest_digest(found.data) != digest:
        return None
    return parse_manifest(store, found.data, Category.ARTIFACT_CORRUPT), found.data


def missing_or_changed(manifest: Manifest, listing: dict[str, ObjectInfo]) -> list[str]:
    """Keys of the manifest that are missing from the listing or have another size there."""
    return [
        item.key
        for item in manifest.objects
        if item.key not in listing or listing[item.key].size != item.size
    ]
