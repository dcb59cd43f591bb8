"""Checks an artifact: every object against the manifest, then the model itself, loaded and run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import MANIFEST_NAME, MODEL_PREFIX, Manifest, StoredObject
from quantization_api.pod import StorageAccess
from quantization_api.workflow import Workflow
from quantizer.algorithms.finite import all_finite
from quantizer.calibration.tokens import probe_tokens
from quantizer.checkpoint.reader import SafetensorsReader, rows_within
from quantizer.decoder.architecture import ModuleNames
from quantizer.evaluation.own_dtype import run_in_own_dtype
from quantizer.evaluation.views import open_view
from quantizer.passes.making import weight_pass
from quantizer.run.checks import readable
from quantizer.run.inspection import no_artifact
from quantizer.store.interface import ARTIFACT, ObjectInfo
from quantizer.store.location import Location, open_store
from quantizer.store.manifests import is_ours, manifest_digest, read_manifest
from quantizer.store.source import StoreSource, sha256_of

NAMED_AT_MOST = 5
DAMAGED = "Copy these objects again from where they are whole, or delete the artifact and make it again."
SLICE_BYTES = 64 * 1024 * 1024

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, done, total): "read" in bytes, then as evaluation.streamed.OnProgress."""


@dataclass(frozen=True)
class Verified:
    """A sound artifact."""

    manifest: Manifest
    digest: str
    """Of the manifest."""
    bytes: int
    """Size of all objects."""
    unlisted: list[str]
    """Objects at the output that the manifest does not name."""


def verify(
    uri: str, access: StorageAccess, device: torch.device, scratch: Path, on_progress: OnProgress
) -> Verified:
    """Reads everything and runs the model.

    Raises:
        QuantizationError: ModelNotFound when there is no manifest; ArtifactCorrupt naming the objects
            that are missing or differ, or the tensor that is missing or not finite.
    """
    location = Location.parse(uri)
    store = open_store(location, ARTIFACT, access)
    listing = store.list()
    if MANIFEST_NAME not in listing:
        raise no_artifact(store.uri)
    manifest, data = read_manifest(store, listing[MANIFEST_NAME], Category.ARTIFACT_CORRUPT)
    wrong = {item.key: how for item in manifest.objects if (how := _differs(item, listing))}
    total, done = sum(item.size for item in manifest.objects), 0
    for item in manifest.objects:
        if item.key not in wrong:
            if sha256_of(store, listing[item.key]) != item.sha256:
                wrong[item.key] = "has other bytes (its SHA-256 differs)"
            done += item.size
            on_progress("read", done, total)
    if wrong:
        raise QuantizationError(
            Category.ARTIFACT_CORRUPT,
            f"{store.uri}: {len(wrong)} of {len(manifest.objects)} objects are not as the manifest says: "
            f"{_named(wrong)}",
            DAMAGED,
        )
    source = StoreSource(open_store(location.child(MODEL_PREFIX.rstrip("/")), ARTIFACT, access), ARTIFACT)
    load(source, device, scratch, on_progress, _module_names(manifest))
    named = {item.key for item in manifest.objects}
    unlisted = [key for key in listing if is_ours(key) and key not in named]
    return Verified(manifest, manifest_digest(data), total, unlisted)


def _differs(item: StoredObject, listing: Mapping[str, ObjectInfo]) -> str:
    """How an object differs from the manifest, as far as a listing shows it; "" if it does not."""
    if item.key not in listing:
        return "is missing"
    size = listing[item.key].size
    return f"has {size:,} bytes instead of {item.size:,}" if size != item.size else ""


def _named(wrong: Mapping[str, str]) -> str:
    shown = [f"{key} {how}" for key, how in list(wrong.items())[:NAMED_AT_MOST]]
    return ", ".join(shown) + (
        f", and {len(wrong) - NAMED_AT_MOST} more" if len(wrong) > NAMED_AT_MOST else ""
    )


def _module_names(manifest: Manifest) -> ModuleNames | None:
    """The module names that the manifest's workflow gave for an architecture that is not in the table."""
    try:
        workflow = Workflow.model_validate(manifest.workflow)
    except ValidationError as error:
        raise QuantizationError(
            Category.ARTIFACT_CORRUPT, f"the manifest's workflow is not valid: {error.errors()[0]['msg']}"
        ) from error
    return weight_pass(*workflow.passes).modules


def load(
    source: StoreSource,
    device: torch.device,
    scratch: Path,
    on_progress: OnProgress,
    modules: ModuleNames | None = None,
) -> None:
    """Reads a quantized model back layer by layer and runs a probe of tokens through it.

    Raises:
        QuantizationError: ArtifactCorrupt when a tensor is missing or damaged, a scale or weight is not
            finite, or the logits are not.
    """
    view = open_view(readable(source), device, modules)
    for index in range(view.model.layout.layers):
        view.names(index)  # all tensors are there before any is read
    reader = view.model.layout.reader
    for name in reader.tensors:
        if reader.tensors[name].dtype.is_floating_point and not _finite(reader, name):
            raise QuantizationError(Category.ARTIFACT_CORRUPT, f"{name} has values that are not finite")
    probe = probe_tokens(view.model.layout.vocabulary, view.model.layout.max_positions)
    try:
        run_in_own_dtype(readable(source), probe, device, on_progress, scratch, modules)
    except QuantizationError as error:
        if error.category is Category.NUMERICAL_FAILURE:
            raise QuantizationError(Category.ARTIFACT_CORRUPT, error.message) from error
        raise


def _finite(reader: SafetensorsReader, name: str) -> bool:
    info = reader.tensors[name]
    if not info.shape:
        return all_finite(reader.tensor(name))
    step = rows_within(info, SLICE_BYTES)
    return all(all_finite(rows) for _, rows in reader.slices(name, step))
