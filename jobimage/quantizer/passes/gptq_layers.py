"""GPTQ over one decoder layer: the linears that share an input are solved together (algorithms.gptq)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from quantization_api.failures import QuantizationError
from quantization_api.manifest import LinearReport
from quantization_api.passes import FewTokens
from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.drift import compensated
from quantizer.algorithms.gptq.solver import factor, gptq
from quantizer.algorithms.grid import GroupedGrid
from quantizer.algorithms.quantized_weight import QuantizedWeight, round_to_nearest
from quantizer.decoder.architecture import SharedInput
from quantizer.decoder.layout import DecoderLayout
from quantizer.formats.interface import HEAD, WeightFormat
from quantizer.machine import calibration_dtype, threads_for
from quantizer.passes.experts import check_experts, is_nearest, round_expert
from quantizer.passes.gptq_head import round_head
from quantizer.passes.interface import FinishedLayer, HeadContext, LayerContext, Reference
from quantizer.passes.plain import PlainPass
from quantizer.passes.reconstruction import Rounded, gather_with_drift, reconstruct
from quantizer.passes.rounding import (
    check_quality,
    check_stored_scales,
    error_baseline,
    pack_linear,
    put_quantized,
)
from quantizer.passes.statistics import InputStatistics, gather

LEAVE_OUT = "Leave the linear out: list only the others in inside_layer_modules."


@dataclass(frozen=True)
class GptqLayerPass(PlainPass):
    """GPTQ as a LayerPass.

    With true_sequential the statistics of a stage come from the rounded stages before it, and every linear
    runs once. Without it all statistics come from the unrounded layer, and a second pass through the rounded
    layer makes the next layer's input.
    """

    config: GptqConfig
    format: WeightFormat
    packs: bool = True
    dtype: torch.dtype | None = None
    calibration_dtype: torch.dtype | None = None
    replays_unrounded: bool = False
    reconstructs: bool = False
    """Whether each layer is fitted to the float model's as a whole (passes.reconstruction); stage by stage then."""
    learns_in: torch.dtype | None = None
    """Type of the products while layers are fitted; None: what suits the device."""
    few_tokens: FewTokens = "fail"
    """What is done about experts with few tokens (passes.experts)."""
    head: bool = False
    """Whether the head is rounded too."""

    @property
    def grid(self) -> GroupedGrid:
        """Bits, groups and symmetry."""
        return GroupedGrid(self.config.rule, self.config.group_size)

    @override
    def bind(self, model: DecoderLayout) -> Self:
        check_experts(self.few_tokens, model)
        return self

    @override
    def of(self, name: str) -> Self:
        scheme = self.format.scheme(name)
        if scheme is None:
            return self
        config = replace(self.config, bits=scheme.bits, group_size=scheme.group_size)
        return replace(self, config=config, format=self.format.of(name))

    @property
    def rtn_rule(self) -> tuple[Hashable, ...]:
        return "gptq", self.config.rule, self.config.group_size, self.head

    def rtn(self, weight: Tensor) -> QuantizedWeight:
        return round_to_nearest(weight, self.config.group_size, self.config.rule)

    def converts(self, name: str) -> bool:  # noqa: ARG002 - every linear of the decoder layers
        return True

    @property
    @override
    def rounds_head(self) -> bool:
        return self.head

    @override
    def run_head(self, head: HeadContext) -> FinishedLayer:
        own = self.of(HEAD)
        return round_head(head, own.config, own.format, self.format.scheme(HEAD))

    @property
    @override
    def follows_float(self) -> bool:
        return self.reconstructs

    def run(self, layer: LayerContext) -> FinishedLayer:
        if layer.reference is not None:
            return self._run_beside(layer, layer.reference)
        finished = FinishedLayer()
        stages = layer.walk.stages
        parts = [(stage,) for stage in stages] if self.config.true_sequential else [stages]
        for part in parts:
            with layer.timed("calibrate"):
                statistics = gather(layer.walk, part, layer.device, every_expert=self._every_expert)
            with layer.timed("solve"):
                for shared in list(statistics):
                    _keep(layer, self._rounded(layer, shared, statistics.pop(shared), finished), finished)
            with layer.timed("calibrate"):
                layer.walk.finish(part)
        return finished

    def _run_beside(self, layer: LayerContext, reference: Reference) -> FinishedLayer:
        """Stage by stage, and then the layer as a whole."""
        finished, rounded = FinishedLayer(), list[Rounded]()
        stages = layer.walk.stages
        for stage in stages:
            with layer.timed("calibrate"):
                statistics, drift = gather_with_drift(layer, reference, stage, self._every_expert)
            with layer.timed("solve"):
                for shared in list(statistics):
                    rounded += self._rounded(layer, shared, statistics.pop(shared), finished, drift)
            with layer.timed("calibrate"):
                layer.walk.finish([stage])
        with layer.timed("solve"):
            products = self.learns_in or calibration_dtype(layer.device)
            _keep(layer, reconstruct(layer, reference, rounded, products), finished)
        return finished

    @property
    def _every_expert(self) -> bool:
        return self.few_tokens == "all"

    def _rounded(
        self,
        layer: LayerContext,
        shared: SharedInput,
        statistics: InputStatistics,
        finished: FinishedLayer,
        drift: Tensor | None = None,
    ) -> list[Rounded]:
        """As _round_linears; those of an expert with few tokens, if they are rounded to nearest, are kept at once."""
        if not is_nearest(self.few_tokens, shared, statistics.tokens, statistics.inputs):
            with threads_for(layer.numbers(shared)):
                return self._round_linears(layer, shared, statistics, drift)
        round_expert(self, layer, shared, statistics.tokens, finished, LEAVE_OUT)
        return []

    def _round_linears(
        self,
        layer: LayerContext,
        shared: SharedInput,
        statistics: InputStatistics,
        drift: Tensor | None = None,
    ) -> list[Rounded]:
        """The linears of an input, rounded; they hold it. drift: of what they read."""
        first = layer.prefix + shared.names[0]
        own, scheme = self.of(first), self.format.scheme(first)
        hessian = statistics.hessian(first)
        stacked = stacked_rows([layer.weight(name) for name in shared.names])
        try:
            factored = factor(hessian, own.config)
            if drift is not None:
                stacked = compensated(stacked, hessian, drift, factored.damp_percent)
            quantized, damp_percent = gptq(stacked, hessian, own.config, factored)
        except QuantizationError as failure:
            message = f"{first}: {failure.message}"
            raise QuantizationError(failure.category, message, failure.hint) from failure
        start, found = 0, list[Rounded]()
        for name in shared.names:
            linear, full = layer.walk.linear(name), layer.prefix + name
            rows = slice(start, start := start + linear.out_features)
            weight, part = stacked[rows], quantized.rows(rows)
            check_stored_scales(full, weight, part, own.rtn, own.format, LEAVE_OUT)
            baseline = error_baseline(weight, hessian, own.rtn, own.format)
            error, error_rtn = baseline.relative(
                put_quantized(full, linear, weight, part, hessian, own.format)
            )
            report = LinearReport(
                name=full,
                shape=(weight.shape[0], weight.shape[1]),
                error=error,
                error_rtn=error_rtn,
                damping=damp_percent,
                tokens=statistics.tokens,
                routed=statistics.routed,
                bits=None if scheme is None else scheme.bits,
                group_size=None if scheme is None else scheme.group_size,
            )
            check_quality([report], "Raise damp_percent, or calibrate with more text.")
            found.append(Rounded(name, weight, part, own.config.rule, own.format, hessian, baseline, report))
        return found


def _keep(layer: LayerContext, rounded: Sequence[Rounded], finished: FinishedLayer) -> None:
    for one in rounded:
        finished.tensors |= pack_linear(layer.prefix + one.name, one.quantized, one.format)
        finished.linears.append(one.report)


def stacked_rows(weights: Sequence[Tensor]) -> Tensor:
    """Linears that share an input as one, by rows; no copy of a single one."""
    return weights[0].float() if len(weights) == 1 else torch.cat([weight.float() for weight in weights])
