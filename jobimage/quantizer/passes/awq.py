"""AWQ over one decoder layer (algorithms.awq): scales folded into what makes an input, clipping, rounding.

All statistics come from the unrounded layer, in the one pass that also makes the next layer's input: the
whole network is seen in float, as the published method does it. Measured on a small Llama (4 bits, group 32)
that is as good as propagating rounded activations, and saves a pass.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from quantization_api.failures import QuantizationError
from quantization_api.manifest import LinearReport
from quantization_api.passes import AutoAWQQuantizer, FewTokens
from quantizer.algorithms.awq.clip import search_clip
from quantizer.algorithms.awq.folding import fold_into_norm, fold_into_rows, scale_columns, scaled_gram
from quantizer.algorithms.awq.rounding import AwqConfig, awq_round, clip_weight
from quantizer.algorithms.awq.scales import search_scales
from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.solver import gptq
from quantizer.algorithms.grid import GridRule, GroupedGrid
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.checkpoint.data_types import asked
from quantizer.decoder.architecture import SharedInput
from quantizer.decoder.folding import FoldPlace
from quantizer.decoder.layout import DecoderLayout
from quantizer.formats.awq import GROUP_SIZES, AwqFormat
from quantizer.formats.compressed_tensors import NAME as COMPRESSED_TENSORS
from quantizer.formats.compressed_tensors import CompressedTensorsFormat
from quantizer.machine import threads_for
from quantizer.passes.data_type import ASK_FOR_ANOTHER, dtype_of_model
from quantizer.passes.experts import check_experts, is_nearest, policy
from quantizer.passes.interface import FinishedLayer, GroupSizes, LayerContext
from quantizer.passes.left_out import check_left_out
from quantizer.passes.plain import PlainPass
from quantizer.passes.rounding import (
    ErrorBaseline,
    check_quality,
    check_stored_scales,
    error_baseline,
    pack_linear,
    put_quantized,
)
from quantizer.passes.statistics import InputStatistics, gather
from quantizer.passes.weight_pass import WeightPass
from quantizer.passes.written import Words, Written

UNCLIPPED = ("q_proj", "k_proj", "qkv", "query", "c_attn")
"""Linears whose outputs meet in a product, by parts of their names: clipping them is known to hurt."""
LEAVE_OUT = "Leave the linear out: name it in modules_to_not_convert."


@dataclass
class _Read:
    """Statistics of a shared input."""

    gram: Tensor
    """Divided by the scales that were folded away, as the magnitude is."""
    magnitude: Tensor
    """Mean |x| of each channel."""
    tokens: int
    routed: int | None = None
    """See InputStatistics."""
    nearest: bool = False
    """Whether its linears are rounded to nearest, for want of tokens; the Gram matrix is the unit matrix then."""

    def divide(self, scales: Tensor) -> None:
        self.gram, self.magnitude = scaled_gram(self.gram, scales), self.magnitude / scales


@dataclass(frozen=True)
class AwqLayerPass(PlainPass):
    """AWQ as a LayerPass."""

    config: AwqConfig
    format: AwqFormat | CompressedTensorsFormat
    not_converted: tuple[str, ...] = ()
    """Parts of the names of linears that stay as they are."""
    packs: bool = True
    """Without it scales and clipping limits are applied and nothing is rounded (export_compatible)."""
    dtype: torch.dtype | None = None
    """None until the pass is bound, where the manifest leaves it to the model."""
    calibration_dtype: torch.dtype = torch.float32
    replays_unrounded: bool = True
    refined: GptqConfig | None = None
    """Refined GPTQ of the scaled weights, instead of clipping and rounding to nearest."""
    few_tokens: FewTokens = "fail"
    """What is done about experts with few tokens (passes.experts)."""
    package: str | None = None
    """The stock package that computes instead of this pass; None: this pass."""

    @property
    def grid(self) -> GroupedGrid:
        """Bits, groups and symmetry."""
        return GroupedGrid(GridRule(self.config.bits, not self.config.zero_point), self.config.group_size)

    @property
    @override
    def group_sizes(self) -> GroupSizes:
        if isinstance(self.format, CompressedTensorsFormat):
            return GroupSizes("q_group_size")
        instead = (
            "Use version: gemm, which takes -1 (one group per row) and smaller sizes, or a GptqQuantizer."
        )
        return GroupSizes("q_group_size", GROUP_SIZES[self.format.version], instead)

    @override
    def bind(self, model: DecoderLayout) -> Self:
        check_left_out(self.not_converted, model, self.package)
        check_experts(self.few_tokens, model)
        return replace(self, dtype=dtype_of_model(self.dtype, model))

    @property
    def rtn_rule(self) -> tuple[Hashable, ...]:
        layout = self.format.version if isinstance(self.format, AwqFormat) else COMPRESSED_TENSORS
        return "awq", self.grid, layout, self.not_converted

    def rtn(self, weight: Tensor, limits: Tensor | None = None) -> QuantizedWeight:
        """limits: of clipping, one for each group of a row."""
        return awq_round(weight, self.config, limits)

    @property
    @override
    def wider_dtype(self) -> str:
        return ASK_FOR_ANOTHER

    def converts(self, name: str) -> bool:
        """A name is left out when any of not_converted occurs in it, as in AutoAWQ."""
        return not any(part in name for part in self.not_converted)

    @override
    def divisors(self, model: DecoderLayout, index: int) -> dict[str, int]:
        """The search folds no scale into an activation, but the awq format has a place for one."""
        activation = model.architecture.scaled_activation
        if activation is None or not self.packs or not isinstance(self.format, AwqFormat):
            return {}
        last = model.linears(index)[-1]
        name = f"{model.layer_prefix(index)}{activation}.scales"
        return {name: model.linear_shapes(index)[last][1]}

    def run(self, layer: LayerContext) -> FinishedLayer:
        with layer.timed("calibrate"):
            walk = layer.walk
            statistics = gather(
                walk,
                walk.stages,
                layer.device,
                magnitudes=True,
                propagate_unrounded=True,
                every_expert=self.few_tokens == "all",
            )
        with layer.timed("solve"), threads_for(max(map(layer.numbers, statistics), default=0)):
            return _Solve(self, layer, statistics).run()


class _Solve:
    """One layer's solve: weights are changed in place, what is stored is collected."""

    def __init__(
        self, layer_pass: AwqLayerPass, layer: LayerContext, statistics: dict[SharedInput, InputStatistics]
    ) -> None:
        self.config, self.format = layer_pass.config, layer_pass.format
        self.layer, self.converts, self.packs = layer, layer_pass.converts, layer_pass.packs
        self.rtn, self.refined = layer_pass.rtn, layer_pass.refined
        self.finished = FinishedLayer()
        self.reads: dict[SharedInput, _Read] = {}
        self.baselines: dict[str, ErrorBaseline] = {}
        self.together: list[list[SharedInput]] = []
        for shared, found in statistics.items():
            self.reads[shared] = self._read(layer_pass.few_tokens, shared, found)
            for name in shared.names:
                self.baselines[name] = error_baseline(
                    layer.walk.linear(name).weight, self.reads[shared].gram, layer_pass.rtn, self.format
                )

    def _read(self, few_tokens: FewTokens, shared: SharedInput, found: InputStatistics) -> _Read:
        magnitude, tokens = found.mean_magnitude(), found.tokens
        if is_nearest(few_tokens, shared, tokens, found.inputs):
            unweighted = torch.eye(found.inputs, device=magnitude.device)
            return _Read(unweighted, magnitude, tokens, nearest=True)
        hessian = found.hessian(self.layer.prefix + shared.names[0])
        return _Read(hessian, magnitude, tokens, found.routed)

    def run(self) -> FinishedLayer:
        """Folds, clips and rounds."""
        for place in self.layer.folds():
            if place.obstacle is None:
                self._fold(place)
        reports = {shared: self._round(shared, read) for shared, read in self.reads.items()}
        scaled = {shared for together in self.together for shared in together}
        for together in (*self.together, *([shared] for shared in reports if shared not in scaled)):
            # scales that several experts share are the best for all of them together, not for each
            check_quality(
                [report for shared in together for report in reports[shared] if not report.nearest],
                "Calibrate with more text.",
            )
        self.finished.linears = [report for found in reports.values() for report in found]
        return self.finished

    def _fold(self, place: FoldPlace) -> None:
        together = [shared for shared in self.reads if set(shared.names) <= set(place.readers)]
        chosen = [name for shared in together for name in shared.names if self._converted(name)]
        if not chosen or all(self.reads[shared].nearest for shared in together):
            return
        weight = torch.cat([self._linear(name).weight for name in chosen])
        read = self._pooled(together)
        rows = None if place.rows is None else place.rows.to(weight.device)
        try:
            scales = search_scales(weight, read.gram, read.magnitude, self.config, rows).scales
        except QuantizationError as failure:
            message = f"{self.layer.prefix}{chosen[0]}: {failure.message}"
            raise QuantizationError(failure.category, message, failure.hint) from failure
        if place.kind == "norm":
            scales = self._divide_norm(place, scales)
        else:
            assert rows is not None
            self._divide_rows(place.source, scales, rows)
        for name in place.readers:
            module = self.layer.walk.module(name)
            self._put(f"{name}.weight", module, "weight", scale_columns(_tensor(module, "weight"), scales))
        for shared in together:
            self.reads[shared].divide(scales)
        self.together.append(together)

    def _pooled(self, together: list[SharedInput]) -> _Read:
        """The statistics of experts that read the same input, by the tokens each of them saw; few are left out."""
        reads = [self.reads[shared] for shared in together if not self.reads[shared].nearest]
        if len(reads) == 1:
            return reads[0]
        total = sum(read.tokens for read in reads)
        gram = sum((read.gram * (read.tokens / total) for read in reads), torch.zeros(()))
        magnitude = sum((read.magnitude * (read.tokens / total) for read in reads), torch.zeros(()))
        return _Read(gram, magnitude, total)

    def _divide_norm(self, place: FoldPlace, scales: Tensor) -> Tensor:
        """Divides a norm as far as its stored dtype can hold it; returns the scales that it stands for."""
        norm = self.layer.walk.module(place.source)
        bias = _tensor(norm, "bias") if getattr(norm, "bias", None) is not None else None
        stored = self.layer.stored(f"{place.source}.weight", _tensor(norm, "weight"))
        folded = fold_into_norm(stored.to(scales.device), scales, bias, unit_offset=place.unit_offset)
        self._put(f"{place.source}.weight", norm, "weight", folded.weight.float())
        if folded.bias is not None:
            self._put(f"{place.source}.bias", norm, "bias", folded.bias)
        return folded.scales

    def _divide_rows(self, source: str, scales: Tensor, rows: Tensor) -> None:
        linear = self._linear(source)
        bias = linear.bias if linear.bias is not None else None
        weight, new_bias = fold_into_rows(linear.weight, scales, rows, bias)
        divisor = torch.ones(linear.out_features, device=scales.device)
        divisor[rows] = scales
        self.baselines[source].divide_rows(divisor)
        self._put(f"{source}.weight", linear, "weight", weight)
        if new_bias is not None:
            self._put(f"{source}.bias", linear, "bias", new_bias)

    def _round(self, shared: SharedInput, read: _Read) -> list[LinearReport]:
        reports: list[LinearReport] = []
        for name in shared.names:
            if not self._converted(name):
                continue
            linear, full = self._linear(name), self.layer.prefix + name
            limits, damping = None, 0.0
            if self.refined is not None and not read.nearest:
                quantized, damping = gptq(linear.weight, read.gram, self.refined)
            else:
                if self._clips(name, read):
                    limits = search_clip(linear.weight, read.gram, self.config).limits
                quantized = self.rtn(linear.weight, limits)
            if self.packs:
                check_stored_scales(full, linear.weight, quantized, self.rtn, self.format, LEAVE_OUT)
                self.finished.tensors |= pack_linear(full, quantized, self.format)
            else:
                weight = linear.weight if limits is None else clip_weight(linear.weight, limits)
                self.finished.tensors[f"{full}.weight"] = self.layer.stored(f"{name}.weight", weight)
            changed = put_quantized(full, linear, linear.weight, quantized, read.gram, self.format)
            error, error_rtn = self.baselines[name].relative(changed)
            shape = (linear.out_features, linear.in_features)
            reports.append(
                LinearReport(
                    name=full,
                    shape=shape,
                    error=error,
                    error_rtn=error_rtn,
                    damping=damping,
                    tokens=read.tokens,
                    routed=read.routed,
                    nearest=read.nearest,
                )
            )
        return reports

    def _clips(self, name: str, read: _Read) -> bool:
        return self.config.clip != "none" and not read.nearest and not any(part in name for part in UNCLIPPED)

    def _put(self, name: str, module: nn.Module, leaf: str, value: Tensor) -> None:
        """Puts a changed parameter into the layer, and into what is stored unless it is packed later."""
        _tensor(module, leaf).copy_(value)
        linear = name.removesuffix(f".{leaf}")
        if leaf != "weight" or linear not in self.baselines or not self._converted(linear):
            self.finished.tensors[self.layer.prefix + name] = self.layer.stored(name, _tensor(module, leaf))

    def _converted(self, name: str) -> bool:
        return self.converts(self.layer.prefix + name)

    def _linear(self, name: str) -> nn.Linear:
        return self.layer.walk.linear(name)


def _tensor(module: nn.Module, leaf: str) -> Tensor:
    value = getattr(module, leaf)
    assert isinstance(value, Tensor)
    return value


WORDS = Words("w_bit", "q_group_size", "zero_point: false", "zero_point: true", "modules_to_not_convert")


@dataclass(frozen=True)
class Awq(WeightPass[AutoAWQQuantizer]):
    """AutoAWQQuantizer."""

    @property
    @override
    def methods(self) -> tuple[str, ...]:
        return ("AWQ",)

    @override
    def _make(self) -> AwqLayerPass:
        p, bits = self.parameters, self.parameters.weight_bits
        return AwqLayerPass(
            AwqConfig(bits, p.q_group_size, p.zero_point, p.duo_scaling),
            self._format,
            tuple(p.modules_to_not_convert),
            packs=not p.export_compatible,
            dtype=asked(p.input_model_dtype),
            refined=self._refined,
            package=self.package,
            few_tokens=policy(p.experts),
        )

    @property
    def _format(self) -> AwqFormat | CompressedTensorsFormat:
        p = self.parameters
        if p.checkpoint_format == COMPRESSED_TENSORS:
            return CompressedTensorsFormat(p.weight_bits, p.q_group_size, not p.zero_point)
        return AwqFormat(p.version, p.weight_bits, p.q_group_size, p.zero_point)

    @property
    def _refined(self) -> GptqConfig | None:
        p = self.parameters
        if p.refine == "none":
            return None
        return GptqConfig(
            p.weight_bits, p.q_group_size, sym=not p.zero_point, refine=True, scale_dtype=torch.float16
        )

    @property
    @override
    def written(self) -> Written:
        p = self.parameters
        if p.export_compatible:
            return Written("float", 16, p.q_group_size, not p.zero_point, words=WORDS)
        part = bool(p.modules_to_not_convert)
        layout = f"awq {p.version}" if p.checkpoint_format == "awq" else p.checkpoint_format
        return Written(layout, p.weight_bits, p.q_group_size, not p.zero_point, part=part, words=WORDS)

    @override
    def rounds_linear(self, name: str, layer: int) -> bool:
        return not any(part in f"layers.{layer}.{name}" for part in self.parameters.modules_to_not_convert)

    @property
    @override
    def data_config(self) -> str | None:
        return self.parameters.data_config

    @property
    @override
    def package(self) -> str | None:
        return None if self.parameters.implementation == "native" else self.parameters.implementation

    @property
    @override
    def is_for_onnx(self) -> bool:
        return self.parameters.pack_model_for_onnx_conversion
