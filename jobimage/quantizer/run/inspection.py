"""Describes what lies at a place: an input model, or an artifact."""

import math
from typing import Any

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import MANIFEST_NAME, Manifest
from quantization_api.pod import StorageAccess
from quantizer.checkpoint.data_types import word
from quantizer.run.inputs import Model, open_model
from quantizer.run.structure import kinds_of_layers
from quantizer.store.interface import ARTIFACT
from quantizer.store.location import Location, open_store
from quantizer.store.manifests import manifest_digest, read_manifest

SMALLEST_GROUP, LARGEST_GROUP = 16, 4096


def inspect(uri: str, access: StorageAccess) -> dict[str, Any]:
    """A description as plain data; `kind` is model or artifact.

    Raises:
        QuantizationError: ModelNotFound, ModelUnsupported, AccessDenied, StorageUnavailable, or
            ArtifactCorrupt for a manifest that is not one.
    """
    store = open_store(Location.parse(uri), ARTIFACT, access)
    found = store.head(MANIFEST_NAME)
    if found is None:
        return describe_model(open_model(uri, access))
    manifest, data = read_manifest(store, found, Category.ARTIFACT_CORRUPT)
    return {
        "kind": "artifact",
        "uri": store.uri,
        "manifestDigest": manifest_digest(data),
        "manifest": manifest.model_dump(mode="json"),
    }


def manifest_at(uri: str, access: StorageAccess) -> Manifest:
    """The manifest of an artifact.

    Raises:
        QuantizationError: ModelNotFound where there is none, AccessDenied, StorageUnavailable, or ArtifactCorrupt for
            a manifest that is not one.
    """
    store = open_store(Location.parse(uri), ARTIFACT, access)
    found = store.head(MANIFEST_NAME)
    if found is None:
        raise no_artifact(store.uri)
    return read_manifest(store, found, Category.ARTIFACT_CORRUPT)[0]


def no_artifact(uri: str) -> QuantizationError:
    """What is said where there is no manifest."""
    return QuantizationError(
        Category.MODEL_NOT_FOUND,
        f"there is no finished artifact at {uri}: it has no {MANIFEST_NAME}",
        "Check the URI; a run that did not finish leaves no manifest.",
    )


def describe_model(model: Model) -> dict[str, Any]:
    """Architecture, linears with their shapes, how the layers are built, group sizes that divide all of them, revision.

    dtypes has the sizes of what is stored; quantization how that is quantized, if it is; beside what a model that
    takes more than text has beside its decoder of text.
    """
    layout = model.layout
    linears = layout.linear_shapes()
    reader = layout.reader
    dtypes: dict[str, int] = {}
    for info in reader.stored.values():
        name = word(info.dtype)
        dtypes[name] = dtypes.get(name, 0) + info.length
    layers = [layout.linear_shapes(index) for index in range(layout.layers)]
    weights = sum(math.prod(shape) for layer in layers for shape in layer.values())
    return {
        "kind": "model",
        "uri": model.location.uri,
        "revision": model.revision,
        "architecture": model.architecture,
        "modelType": layout.architecture.model_type,
        "layers": layout.layers,
        "hiddenSize": layout.width,
        "vocabulary": layout.vocabulary,
        "maxPositions": layout.max_positions,
        "sizeBytes": model.bytes,
        "dtypes": dtypes,
        "quantization": {"method": reader.method, "readAs": word(reader.dtype)} if reader.method else None,
        "beside": [{"name": name, "sizeBytes": size} for name, size in layout.bytes_beside.items()],
        "linears": [{"name": name, "shape": list(shape)} for name, shape in linears.items()],
        "structure": kinds_of_layers(layout),
        "linearWeights": weights,
        "groupSizes": group_sizes([columns for layer in layers for _, columns in layer.values()]),
    }


def group_sizes(inputs: list[int]) -> list[int]:
    """-1, and the powers of two from 16 that divide the inputs of every linear."""
    common = math.gcd(*inputs)
    sizes, size = [-1], SMALLEST_GROUP
    while size <= LARGEST_GROUP:
        if common % size == 0:
            sizes.append(size)
        size *= 2
    return sizes
