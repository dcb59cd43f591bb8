"""autoawq 0.2.9 on our calibration sequences. Importable only where the package is installed."""

import functools
from typing import Any

import torch
from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
from awq.utils.module import get_named_linears
from torch import Tensor, nn

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import LinearReport
from quantization_api.passes import AutoAWQQuantizer
from quantizer.algorithms.grid import GridRule
from quantizer.algorithms.hessian import GramMatrix
from quantizer.algorithms.quantized_weight import round_to_nearest
from quantizer.algorithms.stored_scales import check_scales
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.data_types import asked
from quantizer.implementations import repairs
from quantizer.implementations.interface import OnProgress, QuantizedModel
from quantizer.implementations.local_model import check_attention, check_sizes
from quantizer.implementations.module_error import relative_error, rtn_weight

PACKED = ("qweight", "qzeros", "scales")
LEAVE_OUT = "Leave the linear out: name it in modules_to_not_convert."
WORD = 8  # values of four bits in a packed word
FORWARD_TOKENS = 8192
"""Tokens of a forward pass; left to itself the package runs the whole calibration set at once."""


def dtype(parameters: AutoAWQQuantizer, _device: torch.device, stored: torch.dtype) -> torch.dtype:
    """What the package computes in: what the manifest says, else float16 unless the model is in bfloat16.

    float16 may not hold the activations of such a model, and the package does not know bfloat16.
    """
    default = torch.float32 if stored is torch.bfloat16 else torch.float16
    return asked(parameters.input_model_dtype) or default


def quantize(
    model: Any,
    tokens: TokenBatches,
    parameters: AutoAWQQuantizer,
    on_progress: OnProgress,
    device: torch.device,
) -> QuantizedModel:
    """Runs the package on a model in memory, which is used up. Raises what the package raises."""
    length = one_length(tokens)
    kind = AWQ_CAUSAL_LM_MODEL_MAP[model.config.model_type]
    wrapper = kind(model, model.config.model_type, False, model.config, None, None)
    layers = kind.get_model_layers(model)
    check_attention(layers)
    converted = {
        name: linear
        for name, linear in get_named_linears(layers[0]).items()
        if not any(part in name for part in parameters.modules_to_not_convert)
    }
    check_sizes(converted, parameters.q_group_size, WORD)
    reports: list[LinearReport] = []
    with repairs.autoawq(device, layers) as repaired:
        wrapper.quantize(
            tokenizer=None,
            quant_config={
                "w_bit": parameters.weight_bits,
                "q_group_size": parameters.q_group_size,
                "zero_point": parameters.zero_point,
                "version": parameters.version,
                "modules_to_not_convert": parameters.modules_to_not_convert or None,
            },
            calib_data=[sequence.tolist() for sequence in tokens.sequences],
            max_calib_samples=len(tokens.sequences),
            max_calib_seq_len=length,
            n_parallel_calib_samples=max(1, FORWARD_TOKENS // length),
            duo_scaling=parameters.duo_scaling,
            export_compatible=parameters.export_compatible,
            quantizer_cls=observed(repaired, on_progress, reports),
        )
    on_progress("quantize", len(layers), len(layers))
    quantization = None if parameters.export_compatible else wrapper.quant_config.to_transformers_dict()
    return QuantizedModel(model.state_dict(), PACKED, quantization, reports)


def one_length(tokens: TokenBatches) -> int:
    """The length that all sequences have.

    The package strings all samples together and cuts them anew, which gives our sequences back only then.

    Raises:
        QuantizationError: InvalidWorkflow when there are several lengths.
    """
    lengths = {len(sequence) for sequence in tokens.sequences}
    if len(lengths) != 1:
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"implementation autoawq takes sequences of equal length; these have {min(lengths)} to "
            f"{max(lengths)} tokens",
            "Use strategy join in pre_process_data_config, or implementation native.",
        )
    return lengths.pop()


def observed(base: type[Any], on_progress: OnProgress, reports: list[LinearReport]) -> type[Any]:
    """The quantizer `base`, with progress for each layer and an error for each linear."""

    class Observed(base):  # type: ignore[misc]
        _done = 0

        def _get_input_feat(self, layer: nn.Module, named_linears: dict[str, nn.Module]) -> dict[str, Tensor]:
            on_progress("quantize", self._done, len(self.modules))
            self._done += 1
            features: dict[str, Tensor] = super()._get_input_feat(layer, named_linears)
            rule = GridRule(self.w_bit, sym=not self.zero_point)
            self._plain = {
                name: relative_error(
                    weight, rtn_weight(weight, self.group_size, rule), _hessian(features[name])
                )
                for name, weight in _weights(named_linears).items()
            }
            return features

        def _search_best_clip(
            self, layer: nn.Module, named_linears: dict[str, nn.Module], input_feat: dict[str, Tensor]
        ) -> Any:
            """Between scaling and clipping: the last moment at which weights and inputs are exact."""
            self._exact = _weights(named_linears)
            self._hessians = {name: _hessian(input_feat[name]) for name in named_linears}
            return super()._search_best_clip(layer, named_linears, input_feat)

        def _apply_quant(self, module: nn.Module, named_linears: dict[str, nn.Module]) -> None:
            super()._apply_quant(module, named_linears)
            rule = GridRule(self.w_bit, sym=not self.zero_point)
            nearest = functools.partial(rtn_weight, group_size=self.group_size, rule=rule)
            prefix = next(name for name, found in self.model.named_modules() if found is module)
            for name, seen in _weights(named_linears).items():
                weight, hessian = self._exact.pop(name), self._hessians.pop(name)
                scales = round_to_nearest(weight, self.group_size, rule).scales
                check_scales(f"{prefix}.{name}", weight, scales, nearest, LEAVE_OUT)
                error = relative_error(weight, seen, hessian)
                shape = (weight.shape[0], weight.shape[1])
                reports.append(
                    LinearReport(
                        name=f"{prefix}.{name}", shape=shape, error=error, error_rtn=self._plain.pop(name)
                    )
                )

    return Observed


def _weights(linears: dict[str, Any]) -> dict[str, Tensor]:
    return {name: linear.weight.detach().cpu().float().clone() for name, linear in linears.items()}


def _hessian(inputs: Tensor) -> Tensor:
    gram = GramMatrix(inputs.shape[-1], torch.device("cpu"))
    for part in inputs.split(16):
        gram.add(part.cpu())
    return gram.hessian()
