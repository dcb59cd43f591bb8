"""A checkpoint as layers of plain weights, whatever lies on disk: float, packed, or RTN."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.checkpoint.data_types import from_word
from quantizer.checkpoint.older_transformers import require_newer
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import Source
from quantizer.decoder.architecture import ModuleNames
from quantizer.decoder.layout import DecoderLayout, read_config
from quantizer.decoder.model import DecoderLayer, DecoderModel
from quantizer.evaluation.packed_head import ArtifactReader
from quantizer.formats.interface import HEAD, TensorShapes, WeightFormat
from quantizer.formats.reading import stored_format
from quantizer.passes.interface import LayerPass
from quantizer.passes.quantized import QuantizedLayers


@dataclass(frozen=True)
class RtnBaseline:
    """RTN (round to nearest) with the same numbers of bits everywhere, unrotated: what a pass has to beat."""

    round: Callable[[str, Tensor], QuantizedWeight]
    """(Full name of a linear, its rows [n, K] float32) -> the rows rounded to nearest."""
    format: WeightFormat
    """What the rounded weights are read back from, as the reader of an artifact sees them."""
    converts: Callable[[str], bool]
    """Whether the pass rounds a linear, by its full name."""
    head: bool = False
    """Whether it rounds the head too."""
    rule: tuple[Hashable, ...] = ()
    """What decides its figures beside the model; see LayerPass.rtn_rule."""
    online: dict[str, Any] | None = None
    """How a reader of the pass's artifacts rounds activations, keys and values; None: not at all."""

    @classmethod
    def of(cls, layer_pass: LayerPass) -> "RtnBaseline | None":
        """None for a pass that leaves nothing to be compared: it rounds neither weights nor what they read."""
        if not layer_pass.packs and layer_pass.online is None:
            return None

        def nearest(name: str, rows: Tensor) -> QuantizedWeight:
            return layer_pass.of(name).rtn(rows)

        return cls(
            nearest,
            layer_pass.format,
            layer_pass.converts,
            layer_pass.rounds_head,
            layer_pass.rtn_rule,
            layer_pass.online,
        )

    def as_read(self, name: str, weight: Tensor) -> Tensor:
        """Some rows of a linear's weight, as a reader sees them when they are rounded."""
        return self.format.of(name).as_read(self.round(name, weight.float()))


class RunnableLayer(Protocol):
    """A decoder layer on plain weights."""

    def forward(self, hidden: Tensor) -> Tensor:
        """The whole layer: [batch, tokens, width] to the same."""
        ...


class View(Protocol):
    """A model whose layers can be had one after another."""

    model: DecoderModel

    def names(self, index: int) -> list[str]:
        """The tensors of layer `index` in the checkpoint; ArtifactCorrupt when one is not there."""
        ...

    def layers(self) -> Iterator[RunnableLayer]:
        """Every decoder layer on plain weights, in order; one exists at a time."""
        ...


class FloatView(View):
    """An unquantized checkpoint, whose tensors were checked."""

    def __init__(
        self, layout: DecoderLayout, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.model = DecoderModel(layout, device, dtype)

    @override
    def names(self, index: int) -> list[str]:
        return [
            self.model.layout.layer_prefix(index) + name for name in self.model.layout.layer_shapes(index)
        ]

    @override
    def layers(self) -> Iterator[RunnableLayer]:
        groups = [self.names(index) for index in range(self.model.layout.layers)]
        for index, stored in enumerate(self.model.layout.reader.prefetched(groups)):
            prefix = self.model.layout.layer_prefix(index)
            weights = {name.removeprefix(prefix): value for name, value in stored.items()}
            yield self.layer(index, self.change(index, weights))

    def layer(self, index: int, weights: dict[str, Tensor]) -> RunnableLayer:
        """Layer `index` on these weights, by their names in it."""
        return self.model.layer(index, weights)

    def change(self, index: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002 - see RtnView
        """The weights of layer `index` as the view shows them."""
        return weights


class RtnView(FloatView):
    """An unquantized checkpoint whose linears, and what they read, are rounded to nearest on the way."""

    def __init__(
        self,
        layout: DecoderLayout,
        baseline: RtnBaseline,
        device: torch.device,
    ) -> None:
        super().__init__(layout, device)
        if baseline.head:
            self.model = _RoundedHead(layout, baseline, device)
        self._baseline = baseline
        self._config = copy(layout.config)  # the layout is shared with the model as it is
        self._config.quarot = baseline.online

    @override
    def change(self, index: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        changed = dict(weights)
        prefix = self.model.layout.layer_prefix(index)
        for name in self.model.layout.linears(index):
            if not self._baseline.converts(prefix + name):
                continue
            weight = self.model.layout.transposed(index, f"{name}.weight", weights[f"{name}.weight"])
            seen = self._baseline.as_read(prefix + name, weight)
            changed[f"{name}.weight"] = self.model.layout.transposed(index, f"{name}.weight", seen)
        return changed

    @override
    def layer(self, index: int, weights: dict[str, Tensor]) -> RunnableLayer:
        if self._baseline.online is None:
            return super().layer(index, weights)
        from quantizer.evaluation.quarot_view import online_layer

        return online_layer(self.model, index, self._config, weights)


class _RoundedHead(DecoderModel):
    """A model whose head is rounded to nearest as it is read."""

    def __init__(self, layout: DecoderLayout, baseline: RtnBaseline, device: torch.device) -> None:
        super().__init__(layout, device)
        self._baseline = baseline

    @override
    def table_slices(self, name: str, step: int | None = None) -> Iterator[tuple[int, Tensor]]:
        for first, rows in super().table_slices(name, step):
            is_head = name == self.layout.head_name()
            yield first, self._baseline.as_read(HEAD, rows).to(rows.dtype) if is_head else rows


def own_dtype(source: Source) -> torch.dtype:
    """The data type in which a reader that is told nothing else computes: config.json's, else that of the tensors."""
    config = read_config(source)
    said = from_word(config.get("dtype") or config.get("torch_dtype"))
    return said or SafetensorsReader(source, broken=Category.ARTIFACT_CORRUPT).dtype


def open_view(
    source: Source,
    device: torch.device,
    modules: ModuleNames | None = None,
    dtype: torch.dtype = torch.float32,
) -> View:
    """An artifact's model: packed, with code of its own, or in float where a pass rounded no weight.

    dtype: what it is computed in.

    Raises:
        QuantizationError: ArtifactCorrupt when it is none of them; ModelUnsupported for code of its own, which
            this image cannot run.
    """
    config = read_config(source)
    if "quarot" in config:
        require_newer("an artifact of QuaRot with code of its own")
        from quantizer.evaluation.quarot_view import QuarotView

        return _complete(QuarotView(source, device, dtype))
    if "quantization_config" in config:
        return _complete(PackedView(source, device, modules, dtype))
    try:
        return FloatView(DecoderLayout.open(source, modules), device, dtype)
    except QuantizationError as error:
        if error.category is not Category.MODEL_UNSUPPORTED:
            raise
        raise QuantizationError(
            Category.ARTIFACT_CORRUPT,
            f"config.json does not say quant_method, and a float model it is not either: {error.message}",
        ) from error


def _complete(view: View) -> View:
    """The view of an artifact that has what is needed beside the layers: embedding, norms, and a head not tied."""
    for name, shape in view.model.layout.needed_outside().items():
        found = view.model.layout.reader.tensors.get(name)
        if found is None:
            raise QuantizationError(Category.ARTIFACT_CORRUPT, f"the artifact lacks the tensor {name}")
        if found.shape != shape:
            raise QuantizationError(
                Category.ARTIFACT_CORRUPT,
                f"{name} has shape {list(found.shape)}, config.json makes it {list(shape)}",
            )
    return view


class PackedView(View):
    """A quantized checkpoint, read back from what was written.

    Raises:
        QuantizationError: ArtifactCorrupt when something is missing, damaged or not as config.json says.
    """

    def __init__(
        self,
        source: Source,
        device: torch.device,
        modules: ModuleNames | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        config = read_config(source)
        stored = stored_format(config)
        del config["quantization_config"]
        reader = ArtifactReader(source)
        layout = DecoderLayout(reader, config, modules)
        self.model = DecoderModel(layout, device, dtype)
        self._quantized = QuantizedLayers(
            layout, stored.format, stored.grid, stored.converts, head=stored.head
        )
        if stored.head:
            packed = self._quantized.planned_head()
            self._check_stored(packed)
            head = self._quantized.head({name: reader.tensor(name) for name in packed})
            reader.show_head(f"{HEAD}.weight", head)

    @override
    def names(self, index: int) -> list[str]:
        packed, kept = self._quantized.planned(index)
        self._check_stored(packed, kept)
        return [*packed, *kept]

    def _check_stored(self, packed: TensorShapes, kept: Sequence[str] = ()) -> None:
        """Whether the files hold these tensors, the packed ones as config.json says."""
        found = self.model.layout.reader.tensors
        missing = [name for name in (*packed, *kept) if name not in found]
        if missing:
            raise QuantizationError(Category.ARTIFACT_CORRUPT, f"the artifact lacks the tensor {missing[0]}")
        for name, (dtype, shape) in packed.items():
            one = found[name]
            if (one.dtype, one.shape) != (dtype, shape):
                raise QuantizationError(
                    Category.ARTIFACT_CORRUPT,
                    f"{name} is {one.dtype} {list(one.shape)}, config.json makes it {dtype} {list(shape)}",
                )

    @override
    def layers(self) -> Iterator[DecoderLayer]:
        groups = [self.names(index) for index in range(self.model.layout.layers)]
        for index, stored in enumerate(self.model.layout.reader.prefetched(groups)):
            yield self.model.layer(index, self._quantized.weights_as_read(index, stored))
