"""QuaRot and the GptqQuantizer after it as one pass: a layer is rotated as it is read, then calibrated and rounded.

So the rotated model is never stored, and what holds for GPTQ alone holds here: one layer in memory, a restart after
any layer. Rotations fold into the weights and nothing is rotated online, so the result is an ordinary checkpoint.
"""

from dataclasses import dataclass, replace
from typing import Self

from typing_extensions import override

from quantizer.decoder.layout import DecoderLayout
from quantizer.passes.gptq import Gptq
from quantizer.passes.gptq_layers import GptqLayerPass
from quantizer.passes.interface import LayerPass
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
        rotation, rounding = self.rotation.layer_pass, super()._make()
        return RotatedGptqLayerPass(
            config=rounding.config,
            format=rounding.format,
            calibration_dtype=rounding.calibration_dtype,
            reconstructs=rounding.reconstructs,
            few_tokens=rounding.few_tokens,
            rotation=rotation,
        )
