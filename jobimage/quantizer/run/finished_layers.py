"""Finished layers of an unfinished run, stored beside the artifact so that the next attempt resumes after them.

    .state/<recipe>/layer-00012.safetensors     the layer's tensors as they will be written
    .state/<recipe>/layer-00012.json            size and sha256 of those, and the reports; written last
    .state/<recipe>/schemes.json                bits and group size of each linear, where they were chosen

A layer counts if its record exists and its tensors have the digest in that record; one that is cut short, damaged or
lost is computed again. The record also has the checksums of the model's bytes that were read for the layer, so that a
bit that flipped in one attempt is noticed in the next.

Layers are removed when an artifact is whole at the output (promotion.py) or removed from there (removal.py), and where
the model's bytes are in doubt; never because a run failed: the next one resumes after them.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from quantization_api.manifest import STATE_PREFIX, LayerRanges, LinearReport
from quantizer.algorithms.grid import Scheme
from quantizer.checkpoint.data_types import word
from quantizer.checkpoint.writer import scratch_errors
from quantizer.passes.interface import FinishedLayer
from quantizer.store.interface import StopCheck, Store, never_stop
from quantizer.store.small_objects import UnsteadyError, read_small
from quantizer.store.source import Noted

logger = logging.getLogger(__name__)

RECORD = re.compile(r"layer-\d+\.json")
SCHEMES = "schemes.json"


class Remembering(Protocol):
    """A reader of the model that knows what it has read; see store.source.StoreSource."""

    def noted(self) -> dict[str, Noted]:
        """Checksums since the last call."""
        ...

    def recall(self, noted: dict[str, Noted]) -> bool:
        """Takes over those of an earlier attempt; returns whether they match what this one has read."""
        ...


def prefix_of(recipe: str) -> str:
    """Where the layers of a recipe are kept."""
    return f"{STATE_PREFIX}{recipe.removeprefix('sha256:')[:16]}/"


def forget(store: Store, recipe: str) -> None:
    """Removes the layers of a recipe: what they were computed from is in doubt."""
    logger.warning(
        "removing the finished layers: the bytes of the model that they were computed from are in doubt"
    )
    store.delete(store.list(prefix_of(recipe)))


class FinishedLayers:
    """The finished layers of one recipe. Use as a context manager: leaving it waits for the last upload.

    Args:
        store: of the artifact. recipe: digest of what is computed.
        scratch: directory for the file that is being stored.
        stop_check: called before and during transfers; what it raises ends the run (stopped, claim lost).
        model: what is read, to keep its checksums with the layers.
        on_kept: called with the number of layers that are stored, from a background thread too.
        on_layer: called with each layer that was computed, and its number; what it raises ends the run.
    """

    def __init__(
        self,
        store: Store,
        recipe: str,
        scratch: Path,
        stop_check: StopCheck = never_stop,
        model: Remembering | None = None,
        on_kept: Callable[[int], None] = lambda _: None,
        on_layer: Callable[[int, FinishedLayer], None] = lambda *_: None,
    ) -> None:
        self._store, self._scratch, self._stop_check, self._model = store, scratch, stop_check, model
        self._on_kept, self._on_layer = on_kept, on_layer
        self._prefix = prefix_of(recipe)
        self._records = {
            key for key in store.list(self._prefix) if RECORD.fullmatch(key.removeprefix(self._prefix))
        }
        on_kept(len(self._records))
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state")
        self._pending: Future[None] | None = None

    @property
    def calibration_dtype(self) -> torch.dtype | None:
        """What the first finished layer was computed in; None where there is none, or its record is damaged."""
        try:
            return _dtype(json.loads(self._whole(self._key(0, "json"))))
        except (ValueError, LookupError, TypeError):
            return None

    def load(self, index: int) -> FinishedLayer | None:
        """Layer `index` as an earlier attempt finished it, or None."""
        record_key = self._key(index, "json")
        if record_key not in self._records:
            return None
        try:
            record = json.loads(self._whole(record_key))
            data = self._whole(self._key(index, "safetensors"))
            if len(data) != record["size"] or hashlib.sha256(data).hexdigest() != record["sha256"]:
                raise ValueError("the tensors do not match the record")
            if self._model is not None and not self._model.recall(record.get("read", {})):
                raise ValueError("it was computed from other bytes of the model")
            linears = [LinearReport.model_validate(item) for item in record["linears"]]
            ranges = record.get("ranges") and LayerRanges.model_validate(record["ranges"])
            return FinishedLayer(load(data), linears, _dtype(record), ranges)
        except (ValueError, LookupError, TypeError, SafetensorError) as error:
            logger.warning("layer %d is computed again: its saved state cannot be used (%s)", index, error)
            self._records.discard(record_key)
            self._on_kept(len(self._records))
            return None

    def save(self, index: int, layer: FinishedLayer) -> None:
        """Stores a layer in the background, after the one before it; raises what storing that one raised."""
        self._on_layer(index, layer)
        self._wait()
        path = self._scratch / "state.safetensors"
        with scratch_errors():
            save_file({name: tensor.contiguous() for name, tensor in layer.tensors.items()}, path)
        record = {
            "calibration_dtype": word(layer.calibration_dtype),
            "linears": [linear.model_dump(mode="json") for linear in layer.linears],
            "ranges": layer.ranges and layer.ranges.model_dump(mode="json"),
            "read": {} if self._model is None else self._model.noted(),
        }
        self._pending = self._pool.submit(self._put, index, path, record)

    def load_schemes(self) -> dict[str, Scheme] | None:
        """Bits and group size of each linear as an earlier attempt chose them, or None."""
        key = f"{self._prefix}{SCHEMES}"
        if key not in self._store.list(self._prefix):
            return None
        try:
            said = json.loads(self._whole(key))
            return {name: Scheme(int(bits), int(size)) for name, (bits, size) in said.items()}
        except (ValueError, AttributeError, TypeError) as error:
            logger.warning("bits are chosen again: the choice that was kept cannot be used (%s)", error)
            return None

    def save_schemes(self, schemes: Mapping[str, Scheme]) -> None:
        """Stores such a choice."""
        said = {name: [scheme.bits, scheme.group_size] for name, scheme in schemes.items()}
        self._stop_check()
        self._store.put_bytes(f"{self._prefix}{SCHEMES}", json.dumps(said).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._wait()
        finally:
            self._pool.shutdown(wait=True)

    def _put(self, index: int, path: Path, said: dict[str, Any]) -> None:
        data = path.read_bytes()
        record = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **said}
        self._stop_check()
        self._store.put_file(self._key(index, "safetensors"), path, self._stop_check)
        self._store.put_bytes(self._key(index, "json"), json.dumps(record).encode())
        self._records.add(self._key(index, "json"))
        self._on_kept(len(self._records))

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _whole(self, key: str) -> bytes:
        try:
            found = read_small(self._store, key)
        except UnsteadyError as error:
            raise ValueError(f"{key} cannot be read") from error
        if found is None:
            raise ValueError(f"{key} is missing")
        return found.data

    def _key(self, index: int, kind: str) -> str:
        return f"{self._prefix}layer-{index:05d}.{kind}"


def _dtype(record: dict[str, Any]) -> torch.dtype:
    """What the layer of a record was computed in; LookupError where the record does not say."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[record["calibration_dtype"]]
