"""The manifest as it lies at an output, and what it says about the objects beside it."""

import hashlib

from pydantic import ValidationError

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import (
    MANIFEST_NAME,
    MODEL_CARD_NAME,
    MODEL_PREFIX,
    ONNX_PREFIX,
    REPORT_PREFIX,
    Manifest,
)
from quantization_api.text import clean
from quantizer.store.interface import ObjectInfo, Store
from quantizer.store.small_objects import read_small


def is_ours(key: str) -> bool:
    """True for the keys that an artifact consists of, its manifest apart."""
    return key == MODEL_CARD_NAME or key.startswith((MODEL_PREFIX, ONNX_PREFIX, REPORT_PREFIX))


def read_manifest(store: Store, info: ObjectInfo, broken: Category) -> tuple[Manifest, bytes]:
    """The manifest that lies there, and its bytes; `broken` is the category when it is none of ours."""
    data = bytes(store.read(info.key, 0, info.size, info.version))
    return parse_manifest(store, data, broken), data


def parse_manifest(store: Store, data: bytes, broken: Category) -> Manifest:
    """What the bytes of a manifest say."""
    try:
        return Manifest.model_validate_json(data)
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
    """Keys of the manifest that are not in the listing, or not with their size."""
    return [
        item.key
        for item in manifest.objects
        if item.key not in listing or listing[item.key].size != item.size
    ]
