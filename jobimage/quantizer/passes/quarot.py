"""QuaRot as a run sees it. The layer pass is imported only when it is made: it needs a newer transformers."""

from dataclasses import dataclass, fields

from typing_extensions import override

from quantization_api.failures import Category, QuantizationError
from quantization_api.passes import QuaRot
from quantizer.algorithms.quarot.parameters import FULL, QuarotParameters, needs_own_code
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.data_types import asked
from quantizer.checkpoint.older_transformers import require_newer
from quantizer.passes.experts import policy
from quantizer.passes.interface import LayerPass
from quantizer.passes.weight_pass import WeightPass
from quantizer.passes.written import Words, Written

WORDS = Words("w_bits", "w_groupsize", "w_asym: false", "w_asym: true", "")


@dataclass(frozen=True)
class Quarot(WeightPass[QuaRot]):
    """QuaRot."""

    @property
    @override
    def methods(self) -> tuple[str, ...]:
        p = self.parameters
        if p.rotate or needs_own_code(self._parameters):
            return ("QuaRot",)
        return ("GPTQ",) if p.w_gptq else ("RTN",)

    @override
    def _make(self) -> LayerPass:
        require_newer("QuaRot")
        from quantizer.passes.quarot_layers import QuarotLayerPass

        p = self.parameters
        return QuarotLayerPass(self._parameters, asked(p.input_model_dtype), few_tokens=policy(p.experts))

    @property
    @override
    def written(self) -> Written:
        p = self.parameters
        layout: str = p.checkpoint_format if p.w_bits < FULL else "float"
        if needs_own_code(self._parameters):
            layout = "quarot"
        return Written(layout, p.w_bits, p.w_groupsize or -1, not p.w_asym, words=WORDS)

    @property
    @override
    def data_config(self) -> str | None:
        return self.parameters.calibration_data_config

    @property
    @override
    def needs_text(self) -> bool:
        return self.parameters.w_gptq

    @property
    @override
    def rtn_in_words(self) -> str:
        if needs_own_code(self._parameters):
            return "with the same bits for weights, activations and cache, without rotation"
        return "on the same grid, without rotation"

    @property
    @override
    def rtn_of_linears_in_words(self) -> str:
        return "on the same grid, after the same rotation" if self.parameters.rotate else "on the same grid"

    @override
    def calibration(self, tokens: TokenBatches) -> TokenBatches:
        p, found = self.parameters, len(tokens.sequences)
        if found < p.calibration_nsamples:
            raise QuantizationError(
                Category.DATA_INSUFFICIENT,
                f"data config {p.calibration_data_config} yields {found} sequences, but calibration_nsamples is "
                f"{p.calibration_nsamples}",
                f"Lower calibration_nsamples to {found}, or have the data config yield more sequences.",
            )
        return tokens.sample(p.calibration_nsamples, p.seed, p.calibration_batch_size)

    @property
    def _parameters(self) -> QuarotParameters:
        """The parameters that decide what is computed; the others say how the calibration text is cut."""
        names = [field.name for field in fields(QuarotParameters)]
        return QuarotParameters(**{name: getattr(self.parameters, name) for name in names})
