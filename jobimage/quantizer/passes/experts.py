"""Experts that the calibration text reaches with few tokens: what a pass does about them.

What `experts.few_tokens` of a pass says: fail (at none at all), rtn (round such an expert to nearest), or all (send
every token to every expert while statistics are gathered).
"""

import torch

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import LinearReport
from quantization_api.passes import Experts, FewTokens
from quantizer.decoder.architecture import SharedInput
from quantizer.decoder.layout import DecoderLayout
from quantizer.passes.interface import FinishedLayer, LayerContext, LayerPass
from quantizer.passes.rounding import check_stored_scales, error_baseline, pack_linear, put_quantized
from quantizer.passes.statistics import are_few


def policy(said: Experts | None) -> FewTokens:
    """What a pass does about experts with few tokens."""
    return "fail" if said is None else said.few_tokens


def check_experts(few_tokens: FewTokens, model: DecoderLayout) -> None:
    """Raises InvalidWorkflow for a policy about experts that the model does not have."""
    if few_tokens == "fail" or any(
        shared.expert
        for index in range(model.layers)
        for stage in model.stages(index)
        for shared in stage.shared_inputs
    ):
        return
    raise QuantizationError(
        Category.INVALID_WORKFLOW,
        f"experts.few_tokens is {few_tokens}, but this {model.model_type} model has no experts",
        "Leave experts out.",
    )


def is_nearest(few_tokens: FewTokens, shared: SharedInput, tokens: int, inputs: int) -> bool:
    """Whether the linears of a shared input are rounded to nearest for want of tokens."""
    return few_tokens == "rtn" and shared.expert and are_few(tokens, inputs)


def round_expert(
    layer_pass: LayerPass,
    layer: LayerContext,
    shared: SharedInput,
    tokens: int,
    finished: FinishedLayer,
    cure: str,
) -> None:
    """Rounds an expert's linears to nearest; errors are relative squares of the weights' own change.

    tokens: that the expert read. cure: what to do about scales that the format cannot hold.

    Raises:
        QuantizationError: NumericalFailure for a weight that the format does not hold.
    """
    for name in shared.names:
        full, weight = layer.prefix + name, layer.weight(name)
        own, scheme = layer_pass.of(full), layer_pass.format.scheme(full)
        quantized = own.rtn(weight.float())
        check_stored_scales(full, weight, quantized, own.rtn, own.format, cure)
        unweighted = torch.eye(weight.shape[1], device=weight.device)
        baseline = error_baseline(weight, unweighted, own.rtn, own.format)
        changed = put_quantized(full, layer.walk.linear(name), weight, quantized, unweighted, own.format)
        error, error_rtn = baseline.relative(changed)
        finished.linears.append(
            LinearReport(
                name=full,
                shape=(weight.shape[0], weight.shape[1]),
                error=error,
                error_rtn=error_rtn,
                tokens=tokens,
                nearest=True,
                bits=None if scheme is None else scheme.bits,
                group_size=None if scheme is None else scheme.group_size,
            )
        )
        finished.tensors |= pack_linear(full, quantized, own.format)
