"""GPTQ over one decoder layer: the linears that share an input are solved together (algorithms.gptq)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from quantization_api.failures import QuantizationError
from quantization_api.manifest import LinearReport
from quantization_api.passes import GptqQuantizer
from quantizer.algorithms.gptq.solver import GptqConfig, gptq
from quantizer.algorithms.grid import GroupedGrid
from quantizer.algorithms.quantized_weight import QuantizedWeight, round_to_nearest
from quantizer.decoder.architecture import ModuleNames, SharedInput, Stage
from quantizer.formats.compressed_tensors import CompressedTensorsFormat
from quantizer.formats.gptq import GptqFormat
from quantizer.formats.interface import WeightFormat
from quantizer.machine import threads_for
from quantizer.passes.data_type import DTYPES
from quantizer.passes.interface import FinishedLayer, LayerContext
from quantizer.passes.plain import PlainPass
from quantizer.passes.rounding import check_quality, error_baseline, pack_linear, put_quantized
from quantizer.passes.statistics import InputStatistics, gather
from quantizer.passes.weight_pass import WeightPass
from quantizer.passes.written import Written

REFIT_BITS = 4
"""Scales are fitted again up to this many bits. At 8 the grid is so fine that only the noise of a short calibration is
left to fit: on a tiny model the logits of other tokens were off by 2.1 % with it and by 1.9 % without."""


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

    @property
    def grid(self) -> GroupedGrid:
        """Bits, groups and symmetry."""
        return GroupedGrid(self.config.rule, self.config.group_size)

    def rtn(self, weight: Tensor) -> QuantizedWeight:
        return round_to_nearest(weight, self.config.group_size, self.config.rule)

    def converts(self, name: str) -> bool:  # noqa: ARG002 - every linear of the decoder layers
        return True

    def run(self, layer: LayerContext) -> FinishedLayer:
        finished = FinishedLayer()
        stages = layer.walk.stages
        parts = [(stage,) for stage in stages] if self.config.true_sequential else [stages]
        for part in parts:
            self._round(layer, part, finished)
        return finished

    def _round(self, layer: LayerContext, stages: Sequence[Stage], finished: FinishedLayer) -> None:
        with layer.timed("calibrate"):
            statistics = gather(layer.walk, stages, layer.device)
        with layer.timed("solve"):
            for shared in list(statistics):
                with threads_for(layer.numbers(shared)):
                    self._round_linears(layer, shared, statistics.pop(shared), finished)
        with layer.timed("calibrate"):
            layer.walk.finish(stages)

    def _round_linears(
        self, layer: LayerContext, shared: SharedInput, statistics: InputStatistics, finished: FinishedLayer
    ) -> None:
        first = layer.prefix + shared.names[0]
        hessian = statistics.hessian(first)
        weights = [layer.weight(name) for name in shared.names]
        try:
            stacked = _stacked(weights)
            config = replace(self.config, refit=self.config.bits <= REFIT_BITS)
            quantized, damp_percent = gptq(stacked, hessian, config)
        except QuantizationError as failure:
            message = f"{first}: {failure.message}"
            raise QuantizationError(failure.category, message, failure.hint) from failure
        start = 0
        for name, weight in zip(shared.names, weights, strict=True):
            rows = slice(start, start := start + weight.shape[0])
            part = quantized.rows(rows)
            full = layer.prefix + name
            baseline = error_baseline(weight, hessian, self.rtn, self.format)
            changed = put_quantized(full, layer.walk.linear(name), weight, part, hessian, self.format)
            error, error_rtn = baseline.relative(changed)
            shape = (weight.shape[0], weight.shape[1])
            report = LinearReport(
                name=full,
                shape=shape,
                error=error,
                error_rtn=error_rtn,
                damping=damp_percent,
                tokens=statistics.tokens,
            )
            check_quality([report], "Raise damp_percent, or calibrate with more text.")
            finished.linears.append(report)
            finished.tensors |= pack_linear(full, part, self.format)


def _stacked(weights: Sequence[Tensor]) -> Tensor:
    """Linears that share an input as one, by rows; no copy of a single one."""
    return weights[0].float() if len(weights) == 1 else torch.cat([weight.float() for weight in weights])


@dataclass(frozen=True)
class Gptq(WeightPass[GptqQuantizer]):
    """GptqQuantizer."""

    @property
    @override
    def methods(self) -> tuple[str, ...]:
        return ("GPTQ",)

    @override
    def _make(self) -> GptqLayerPass:
        p = self.parameters
        dtype = None if p.calibration_dtype == "auto" else DTYPES[p.calibration_dtype]
        config = GptqConfig(
            bits=p.bits,
            group_size=p.group_size,
            damp_percent=p.damp_percent,
            desc_act=p.desc_act,
            static_groups=p.static_groups,
            true_sequential=p.true_sequential,
            sym=p.sym,
        )
        return GptqLayerPass(config, self._format(), calibration_dtype=dtype)

    def _format(self) -> WeightFormat:
        p = self.parameters
        if p.checkpoint_format == "compressed-tensors":
            return CompressedTensorsFormat(p.bits, p.group_size, p.sym, p.desc_act)
        inside = p.inside_layer_modules
        return GptqFormat(
            bits=p.bits,
            group_size=p.group_size,
            sym=p.sym,
            desc_act=self._scatters_groups,
            damp_percent=p.damp_percent,
            static_groups=p.static_groups,
            true_sequential=p.true_sequential,
            version=2 if p.checkpoint_format == "gptq_v2" else 1,
            inside_layer_modules=None if inside is None else tuple(tuple(names) for names in inside),
        )

    @property
    def _scatters_groups(self) -> bool:
        """Whether the columns of a group do not lie one after another, which is what desc_act tells a reader."""
        p = self.parameters
        return p.desc_act and not p.static_groups and p.group_size != -1

    @property
    @override
    def written(self) -> Written:
        p = self.parameters
        part = p.inside_layer_modules is not None
        return Written(p.checkpoint_format, p.bits, p.group_size, p.sym, self._scatters_groups, part)

    @override
    def rounds_linear(self, name: str, layer: int) -> bool:
        inside = self.parameters.inside_layer_modules
        return inside is None or any(name in names for names in inside)

    @property
    @override
    def data_config(self) -> str:
        return self.parameters.data_config

    @property
    @override
    def modules(self) -> ModuleNames | None:
        p = self.parameters
        inside, outside = p.inside_layer_modules, p.outside_layer_modules
        if p.layers_block_name is None and inside is None and outside is None:
            return None
        names = tuple(tuple(names) for names in inside or ())
        return ModuleNames(p.layers_block_name, names, tuple(outside or ()))

    @property
    @override
    def package(self) -> str | None:
        return None if self.parameters.implementation == "native" else self.parameters.implementation
