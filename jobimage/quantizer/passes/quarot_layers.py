"""QuaRot over a model (algorithms.quarot): rotations before, rounding in, and online operations after each layer.

Layers are calibrated as ordinary layers of their architecture: where a linear's input is rotated online, its
Hessian is rotated instead, and the rounded weight is rotated back for the next stage.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from quantization_api.failures import QuantizationError
from quantization_api.manifest import LinearReport
from quantization_api.passes import FewTokens
from quantizer.algorithms.grid import GroupedGrid
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.algorithms.quarot.parameters import FULL, QuarotParameters, check_model, group, needs_own_code
from quantizer.algorithms.quarot.stages import QuarotPass, StageResult
from quantizer.algorithms.quarot.weights import nearest
from quantizer.decoder.architecture import SharedInput, Stage
from quantizer.decoder.layout import DecoderLayout
from quantizer.formats.compressed_tensors import NAME as COMPRESSED_TENSORS
from quantizer.formats.compressed_tensors import CompressedTensorsFormat
from quantizer.formats.gptq import GptqFormat
from quantizer.formats.interface import WeightFormat
from quantizer.formats.quarot.artifact import CODE_FILE, artifact_config, modeling_code, rounding_settings
from quantizer.formats.quarot.weights import QuarotFormat
from quantizer.machine import threads_for
from quantizer.passes.data_type import ASK_FOR_ANOTHER, dtype_of_model
from quantizer.passes.experts import check_experts, is_nearest
from quantizer.passes.interface import FinishedLayer, GroupSizes, LayerContext
from quantizer.passes.plain import UniformPass
from quantizer.passes.ranges import LayerWatch
from quantizer.passes.rotation_layouts import Layouts
from quantizer.passes.rounding import check_quality, pack_linear
from quantizer.passes.statistics import InputStatistics, gather
from quantizer.passes.transform import Transform, Unchanged


@dataclass(frozen=True)
class QuarotLayerPass(UniformPass):
    """QuaRot as a LayerPass."""

    parameters: QuarotParameters
    dtype: torch.dtype | None = None
    """None until `bind`, where the manifest leaves it to the model."""
    bound: "RotatedModel | None" = None
    """The rotations of the model that the pass is bound to; None before `bind`."""
    replays_unrounded: bool = False
    few_tokens: FewTokens = "fail"
    """What is done about experts with few tokens (passes.experts)."""

    @property
    def packs(self) -> bool:
        return self.parameters.w_bits < FULL

    @property
    def grid(self) -> GroupedGrid:
        """Of the weights; without meaning where they are not rounded."""
        rule = self.parameters.weight_rule
        return GroupedGrid(rule.grid, rule.group_size)

    @property
    def group_sizes(self) -> GroupSizes:
        return GroupSizes("w_groupsize")

    @property
    def wider_dtype(self) -> str:
        return ASK_FOR_ANOTHER

    @property
    def format(self) -> WeightFormat:
        """The artifact's own where it carries its code, else the one that is asked for."""
        p, size = self.parameters, group(self.parameters.w_groupsize) or -1
        if needs_own_code(p):
            return QuarotFormat(min(p.w_bits, 8), size, p.w_asym, p.s_bits)
        if p.checkpoint_format == COMPRESSED_TENSORS:
            return CompressedTensorsFormat(min(p.w_bits, 8), size, sym=not p.w_asym)
        return GptqFormat(min(p.w_bits, 8), size, sym=not p.w_asym, damp_percent=p.gptq_damping)

    @property
    def calibration_dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def transform(self) -> Transform:
        return self.bound or Unchanged()

    def bind(self, model: DecoderLayout) -> "QuarotLayerPass":
        check_experts(self.few_tokens, model)
        layouts = Layouts(model)
        widths = {name: shape[1] for name, shape in model.linear_shapes(0).items()}
        check_model(self.parameters, layouts.model, model.architecture.model_type, widths)
        dtype = dtype_of_model(self.dtype, model)
        return replace(self, dtype=dtype, bound=RotatedModel(self.parameters, model, layouts, dtype))

    @property
    def rtn_rule(self) -> tuple[Hashable, ...]:
        return "quarot", self.parameters

    def rtn(self, weight: Tensor) -> QuantizedWeight:
        """Without the rotation."""
        return nearest(weight, self.parameters.weight_rule)

    @property
    def online(self) -> dict[str, Any] | None:
        return rounding_settings(self.parameters)

    def converts(self, name: str) -> bool:  # noqa: ARG002 - every linear of the decoder layers
        return self.packs

    def divisors(self, model: DecoderLayout, index: int) -> dict[str, int]:  # noqa: ARG002 - none
        return {}

    def replayed(self, name: str, weight: Tensor) -> Tensor:
        assert self.bound is not None
        return self.bound.quarot.restored(name, weight)

    def run(self, layer: LayerContext) -> FinishedLayer:
        """Statistics of a stage come from the rounded stages before it."""
        finished = FinishedLayer()
        for stage in layer.walk.stages:
            with layer.timed("calibrate"):
                statistics = self._statistics(layer, stage) if self.parameters.w_gptq else {}
            with layer.timed("solve"):
                for shared in stage.shared_inputs:
                    with threads_for(layer.numbers(shared)):
                        self._round_linears(layer, shared, statistics.get(shared), finished)
            with layer.timed("calibrate"):
                layer.walk.finish([stage])
        return finished

    def _statistics(self, layer: LayerContext, stage: Stage) -> dict[SharedInput, InputStatistics]:
        return gather(layer.walk, [stage], layer.device, every_expert=self.few_tokens == "all")

    def _round_linears(
        self,
        layer: LayerContext,
        shared: SharedInput,
        statistics: InputStatistics | None,
        finished: FinishedLayer,
    ) -> None:
        assert self.bound is not None
        nearest = statistics is not None and is_nearest(
            self.few_tokens, shared, statistics.tokens, statistics.inputs
        )
        wanted = statistics is not None and not nearest
        hessian = statistics.hessian(layer.prefix + shared.names[0]) if statistics and wanted else None
        weights = {f"{name}.weight": layer.walk.linear(name).weight for name in shared.names}
        try:
            results = self.bound.quarot.round_stage(shared.names, weights, hessian)
        except QuantizationError as failure:
            message = f"{layer.prefix}{shared.names[0]}: {failure.message}"
            raise QuantizationError(failure.category, message, failure.hint) from failure
        reports: list[LinearReport] = []
        for name, result in results.items():
            full, linear = layer.prefix + name, layer.walk.linear(name)
            if result.quantized is None:
                assert result.stored is not None
                finished.tensors[f"{full}.weight"] = layer.stored(f"{name}.weight", result.stored)
                continue
            report = self._report(full, linear.weight, result)
            if statistics is not None:
                read = {"tokens": statistics.tokens, "routed": statistics.routed, "nearest": nearest}
                report = report.model_copy(update=read)
            reports.append(report)
            finished.tensors |= pack_linear(full, result.quantized, self.format)
            seen = self.format.as_read(result.quantized)
            linear.weight.copy_(self.bound.quarot.restored(name, seen))
        if reports:
            check_quality(reports, "Raise gptq_damping, or calibrate with more text.")
        finished.linears += reports

    def _report(self, name: str, weight: Tensor, result: StageResult) -> LinearReport:
        """Without a Hessian errors are relative squares of the weight itself; it was rounded to nearest then."""
        error, error_rtn = result.error, result.error_rtn
        if error is None or error_rtn is None:
            whole = float(weight.double().square().sum())
            change = float((result.propagated.double() - weight.double()).square().sum())
            error = error_rtn = change / whole if whole > 0 else 0.0
        return LinearReport(
            name=name,
            shape=(weight.shape[0], weight.shape[1]),
            error=error,
            error_rtn=error_rtn,
            damping=result.damp_percent,
        )


class RotatedModel(Transform):
    """The rotations of one model."""

    def __init__(
        self, parameters: QuarotParameters, model: DecoderLayout, layouts: Layouts, dtype: torch.dtype
    ) -> None:
        self._parameters, self._model, self._dtype = parameters, model, dtype
        self._layouts, self._layout = layouts, layouts.model
        self.quarot = QuarotPass(parameters, self._layout)
        self._watch: LayerWatch | None = None

    @property
    @override
    def added(self) -> dict[str, str]:
        """A head of its own, where it was the embedding and is that no longer; and what else of it was tied."""
        model, own = self._model, self._model.own_head_name()
        if not self.quarot.unties or own in model.reader.tensors:
            return {}
        tied = (name for name in model.skeleton.ties if name.startswith(f"{model.skeleton.head_name}."))
        return {own: self._layout.head, **{name: model.stored_name(name) for name in tied}}

    @property
    @override
    def changes_hidden(self) -> bool:
        return True

    @override
    def hidden(self, states: Tensor) -> Tensor:
        return self.quarot.table_rows(states).to(states.dtype)

    @override
    def back(self, states: Tensor) -> Tensor:
        return self.quarot.turned_back(states).to(states.dtype)

    @override
    def layer(self, index: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        model = self._model
        turned = {name: model.transposed(index, name, weights.pop(name)) for name in list(weights)}
        layout = self._layouts.layer(index)
        self._watch = LayerWatch(index, turned, layout.norms, self.quarot.turned_back)
        rotated = self.quarot.rotate_layer(index, turned, layout)
        self._watch.rotated(rotated)
        return {name: model.transposed(index, name, rotated.pop(name)) for name in list(rotated)}

    @override
    def watch(self) -> LayerWatch | None:
        return self._watch if self.quarot.turns_stream else None

    @override
    def outside(self, name: str, rows: Tensor) -> Tensor:
        norm = self._layout.final_norm.name
        if self._reads_final_norm(name):
            has_weight = f"{norm}.weight" in self._model.reader.tensors
            return self.quarot.head_rows(
                rows, self._model.reader.tensor(f"{norm}.weight") if has_weight else None
            )
        if name == f"{norm}.weight":
            return self.quarot.final_norm(rows)[0]
        if name == f"{norm}.bias":
            weight = self._model.reader.tensor(f"{norm}.weight")
            bias = self.quarot.final_norm(weight, rows)[1]
            assert bias is not None
            return bias
        return self.quarot.table_rows(rows) if name in self._layout.tables else rows

    def _reads_final_norm(self, name: str) -> bool:
        """Whether a tensor of the result reads the final norm; a head that was the embedding has a name of its own."""
        head, readers = self._layout.head, self._layout.final_norm.readers
        return head in readers if name == self._model.own_head_name() else name in readers and name != head

    @override
    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        if needs_own_code(self._parameters):
            return artifact_config(
                config, self._parameters, self.quarot.sites, self.quarot.unties, self._dtype
            )
        return {**config, "tie_word_embeddings": False} if self.quarot.unties else config

    @override
    def files(self) -> dict[str, bytes]:
        return {CODE_FILE: modeling_code().encode()} if needs_own_code(self._parameters) else {}
