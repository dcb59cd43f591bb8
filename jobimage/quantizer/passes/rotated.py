"""QuaRot and the GptqQuantizer after it as one pass: a layer is rotated as it is read, then calibrated and rounded.

So the rotated model is never stored, and what holds for GPTQ alone holds here: one layer in memory, a restart after
any layer. Rotations fold into the weights and nothing is rotated online, so the result is an ordinary checkpoint.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

from typing_extensions import override

from quantizer.decoder.layout import DecoderLayout
from quantizer.passes.gptq import Gptq
from quantizer.passes.gptq_layers import GptqLayerPass
from quantizer.passes.interface import LayerPass
from quantizer.passes.mixed_gptq import MixedGptqLayerPass
from quantizer.passes.quarot import Quarot
from quantizer.passes.transform import Transform


@dataclass(frozen=True, kw_only=True)
class RotatedGptqLayerPass(GptqLayerPass):
    """GPTQ as a LayerPass, on a model that is rotated on the way."""

    rotation: LayerPass
    """QuaRot that rounds nothing."""

    @property
    @override
    def transform(self) -> Transform:
        return self.rotation.transform

    @override
    def bind(self, model: DecoderLayout) -> Self:
        # a rotation is of every linear, whichever ones GPTQ is to round
        rotation = self.rotation.bind(model.with_every_linear())
        return replace(super().bind(model), rotation=rotation, dtype=rotation.dtype)

    @property
    @override
    def wider_dtype(self) -> str:
        return self.rotation.wider_dtype


@dataclass(frozen=True, kw_only=True)
class RotatedMixedGptqLayerPass(RotatedGptqLayerPass, MixedGptqLayerPass):
    """The same with bits that are chosen: for the rotated linears, by what they do to the output."""


@dataclass(frozen=True, kw_only=True)
class RotatedGptq(Gptq):
    """QuaRot and the GptqQuantizer after it."""

    rotation: Quarot

    @property
    @override
    def methods(self) -> tuple[str, ...]:
        return (*self.rotation.methods, *super().methods)

    @property
    @override
    def rtn_in_words(self) -> str:
        return self.rotation.rtn_in_words

    @property
    @override
    def rtn_of_linears_in_words(self) -> str:
        return self.rotation.rtn_of_linears_in_words

    @override
    def _make(self) -> RotatedGptqLayerPass:
        rounding = super()._make()
        as_rotated = (
            RotatedMixedGptqLayerPass if isinstance(rounding, MixedGptqLayerPass) else RotatedGptqLayerPass
        )
        values: dict[str, Any] = {one.name: getattr(rounding, one.name) for one in fields(rounding)}
        return as_rotated(**values, rotation=self.rotation.layer_pass)
