"""auto-gptq 0.7.1 on our calibration sequences. Importable only where the package is installed."""

import contextlib
import functools
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any
from unittest.mock import patch

import auto_gptq.modeling._base as gptq_modeling
import torch
from auto_gptq.modeling.auto import GPTQ_CAUSAL_LM_MODEL_MAP
from auto_gptq.quantization.gptq import GPTQ
from torch import nn
from typing_extensions import override

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import LinearReport
from quantization_api.passes import GptqQuantizer
from quantizer.algorithms.grid import GridRule
from quantizer.algorithms.stored_scales import check_scales
from quantizer.calibration.tokens import TokenBatches
from quantizer.implementations import repairs
from quantizer.implementations.interface import OnProgress, QuantizedModel
from quantizer.implementations.local_model import check_attention, check_sizes
from quantizer.implementations.module_error import relative_error, rtn_weight

PACKED = ("qweight", "qzeros", "scales", "g_idx")
LEAVE_OUT = "Leave the linear out: list only the others in inside_layer_modules."
WORD = 32  # its packer drops what does not fill words of 32 values
NOT_WRITTEN = ("model_name_or_path", "model_file_base_name", "is_marlin_format")
LAYER_STARTED = re.compile(r"Start quantizing layer (\d+)/(\d+)")


def dtype(_parameters: GptqQuantizer, device: torch.device, _stored: torch.dtype) -> torch.dtype:
    """What the package computes in: float16, its default, on a GPU; on a CPU, where that is slow, float32."""
    return torch.float32 if device.type == "cpu" else torch.float16


def quantize(
    model: Any,
    tokens: TokenBatches,
    parameters: GptqQuantizer,
    on_progress: OnProgress,
    device: torch.device,
) -> QuantizedModel:
    """Runs the package on a model in memory, which is used up. Raises what the package raises."""
    config = gptq_modeling.BaseQuantizeConfig(
        bits=parameters.bits,
        group_size=parameters.group_size,
        damp_percent=parameters.damp_percent,
        desc_act=parameters.desc_act,
        static_groups=parameters.static_groups,
        sym=parameters.sym,
        true_sequential=parameters.true_sequential,
    )
    kind = GPTQ_CAUSAL_LM_MODEL_MAP[model.config.model_type]
    wrapper = kind(
        model, False, config
    )  # its from_pretrained asks for a GPU and cripples torch.nn.init for good
    _name_modules(wrapper, parameters)
    layers: Any = model.get_submodule(wrapper.layers_block_name)
    check_attention(layers)
    names = [name for group in wrapper.inside_layer_modules for name in group]
    prefix = wrapper.layers_block_name
    linears = {f"{prefix}.0.{name}": _linear(layers[0], f"{prefix}.0.", name) for name in names}
    check_sizes(linears, parameters.group_size, WORD)
    reports: list[LinearReport] = []
    with (
        repairs.auto_gptq(device, layers),
        _measured(model, parameters, reports),
        _progress(on_progress),
    ):
        wrapper.quantize(examples(tokens), batch_size=1, use_triton=False)
    on_progress("quantize", len(layers), len(layers))
    quantization = {key: value for key, value in config.to_dict().items() if key not in NOT_WRITTEN}
    return QuantizedModel(
        model.state_dict(),
        PACKED,
        {**quantization, "lm_head": False, "checkpoint_format": "gptq"},
        reports,
    )


def examples(tokens: TokenBatches) -> list[dict[str, torch.Tensor]]:
    """Our sequences in the form that the package takes; in batches of one nothing is padded."""
    return [
        {"input_ids": sequence.unsqueeze(0), "attention_mask": torch.ones_like(sequence).unsqueeze(0)}
        for sequence in tokens.sequences
    ]


def _name_modules(wrapper: Any, parameters: GptqQuantizer) -> None:
    """The three module names of the contract win over the package's own; a name that is not there is refused.

    As for the native engine they may begin at the model without its head (layers for model.layers); the package wants
    whole names. Of its own the package leaves out what is not there, such as OPT's projections.
    """
    known = dict(wrapper.model.named_modules())
    block = parameters.layers_block_name or wrapper.layers_block_name
    wrapper.layers_block_name = _whole(known, wrapper.model, block)
    if parameters.outside_layer_modules is not None:
        names = parameters.outside_layer_modules
        wrapper.outside_layer_modules = [_whole(known, wrapper.model, name) for name in names]
    if parameters.inside_layer_modules is not None:
        wrapper.inside_layer_modules = [list(names) for names in parameters.inside_layer_modules]
    if not isinstance(known[wrapper.layers_block_name], nn.ModuleList):
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"layers_block_name {wrapper.layers_block_name} is not a list of layers",
        )


def _whole(known: Mapping[str, nn.Module], model: Any, name: str) -> str:
    for whole in (name, f"{model.base_model_prefix}.{name}"):
        if whole in known:
            return whole
    raise QuantizationError(Category.INVALID_WORKFLOW, f"the model has no module {name}")


def _linear(layer: nn.Module, prefix: str, name: str) -> nn.Linear:
    found = dict(layer.named_modules()).get(name)
    if not isinstance(found, nn.Linear):
        raise QuantizationError(Category.INVALID_WORKFLOW, f"the model has no linear {prefix}{name}")
    return found


@contextlib.contextmanager
def _measured(model: nn.Module, parameters: GptqQuantizer, reports: list[LinearReport]) -> Iterator[None]:
    """Has every linear's error reported: the package computes the Hessian and throws it away."""
    names = {module: name for name, module in model.named_modules()}
    nearest = functools.partial(
        rtn_weight, group_size=parameters.group_size, rule=GridRule(parameters.bits, parameters.sym)
    )

    class MeasuredGPTQ(GPTQ):  # type: ignore[misc]
        def fasterquant(self, **options: Any) -> Any:
            hessian, weight = self.H.clone(), self.layer.weight.detach().float().clone()
            result = super().fasterquant(**options)
            seen = self.layer.weight.detach().float()
            check_scales(names[self.layer], weight, result[0], nearest, LEAVE_OUT)
            plain = nearest(weight)
            reports.append(
                LinearReport(
                    name=names[self.layer],
                    shape=(weight.shape[0], weight.shape[1]),
                    error=relative_error(weight, seen, hessian),
                    error_rtn=relative_error(weight, plain, hessian),
                    damping=parameters.damp_percent,
                )
            )
            return result

    with patch.object(gptq_modeling, "GPTQ", MeasuredGPTQ):
        yield


class _LayerStarted(logging.Handler):
    """Turns the package's line about each layer into progress."""

    def __init__(self, on_progress: OnProgress) -> None:
        super().__init__()
        self._on_progress = on_progress

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """What the callback raises ends the run."""
        if found := LAYER_STARTED.search(record.getMessage()):
            self._on_progress("quantize", int(found[1]) - 1, int(found[2]))


@contextlib.contextmanager
def _progress(on_progress: OnProgress) -> Iterator[None]:
    """The package's logger, with our handler in place of its own, which writes beside the log."""
    logger = gptq_modeling.logger
    with patch.object(logger, "handlers", [_LayerStarted(on_progress)]):
        yield
