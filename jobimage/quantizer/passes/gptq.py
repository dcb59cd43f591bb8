"""GptqQuantizer: GPTQ as a pass of a workflow."""

from dataclasses import dataclass

import torch
from typing_extensions import override

from quantization_api.bounded import bytes_of
from quantization_api.passes import GptqQuantizer
from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.grid import Scheme
from quantizer.checkpoint.data_types import asked
from quantizer.decoder.architecture import ModuleNames
from quantizer.formats.compressed_tensors import CompressedTensorsFormat
from quantizer.formats.gptq import WIDTHS, GptqFormat
from quantizer.passes.experts import policy
from quantizer.passes.gptq_layers import GptqLayerPass
from quantizer.passes.mixed_gptq import Budget, MixedGptqLayerPass
from quantizer.passes.weight_pass import WeightPass
from quantizer.passes.written import GPTQ_WORDS, MIXED_WORDS, Written


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
        config = GptqConfig(
            bits=p.bits,
            group_size=p.group_size,
            damp_percent=p.damp_percent,
            desc_act=p.desc_act,
            static_groups=p.static_groups,
            true_sequential=p.true_sequential,
            sym=p.sym,
            refine=p.refine != "none",
        )
        best = p.refine == "best"
        # what is learned has steps that bfloat16 does not see
        dtype = asked(p.calibration_dtype) or (torch.float32 if best else None)
        if not p.has_target:
            return GptqLayerPass(
                config,
                self._format(),
                calibration_dtype=dtype,
                reconstructs=best,
                learns_in=asked(p.calibration_dtype),
                few_tokens=policy(p.experts),
                head=p.lm_head,
            )
        return MixedGptqLayerPass(
            config=config,
            format=self._format(),
            calibration_dtype=dtype,
            reconstructs=best,
            learns_in=asked(p.calibration_dtype),
            few_tokens=policy(p.experts),
            head=p.lm_head,
            budget=Budget(p.target_bits, None if p.target_size is None else bytes_of(p.target_size)),
            schemes=self._schemes,
            by_default=p.candidate_bits is None,
            parameter="group_size" if p.candidate_group_sizes is None else "candidate_group_sizes",
        )

    @property
    def _schemes(self) -> tuple[Scheme, ...]:
        """What may be chosen, the fewest bits first; the one scheme where nothing is chosen."""
        p = self.parameters
        if not p.has_target:
            return (Scheme(p.bits, p.group_size),)
        sizes = p.candidate_group_sizes or [p.group_size]
        return tuple(Scheme(bits, size) for bits in sorted(set(p.candidate_bits or WIDTHS)) for size in sizes)

    def _format(self) -> GptqFormat | CompressedTensorsFormat:
        p = self.parameters
        if p.checkpoint_format == "compressed-tensors":
            return CompressedTensorsFormat(p.bits, p.group_size, p.sym, p.desc_act, head=p.lm_head)
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
            head=p.lm_head,
            inside_layer_modules=None if inside is None else tuple(tuple(names) for names in inside),
        )

    @property
    def _scatters_groups(self) -> bool:
        """Whether the columns of a group do not lie one after another, which is what desc_act tells a reader."""
        p = self.parameters
        return p.desc_act and not p.static_groups and any(one.group_size != -1 for one in self._schemes)

    @property
    @override
    def written(self) -> Written:
        p = self.parameters
        part = p.inside_layer_modules is not None
        first, schemes = self._schemes[0], self._schemes if p.has_target else ()
        words = MIXED_WORDS if p.has_target else GPTQ_WORDS
        return Written(
            p.checkpoint_format,
            first.bits,
            first.group_size,
            p.sym,
            self._scatters_groups,
            part,
            p.lm_head,
            words=words,
            schemes=schemes,
        )

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
