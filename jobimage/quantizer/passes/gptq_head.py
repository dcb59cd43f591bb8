"""GPTQ of the head, the linear behind the last layer: slice by slice of the vocabulary, since rows are independent."""

import torch
from torch import Tensor, nn

from quantization_api.failures import QuantizationError
from quantization_api.manifest import LinearReport
from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.solver import Factored, factor, gptq
from quantizer.algorithms.grid import Scheme
from quantizer.algorithms.quantized_weight import QuantizedWeight, round_to_nearest
from quantizer.formats.interface import HEAD, WeightFormat
from quantizer.machine import threads_for
from quantizer.passes.interface import FinishedLayer, HeadContext
from quantizer.passes.rounding import (
    ErrorBaseline,
    check_quality,
    check_stored_scales,
    error_baseline,
    pack_linear,
    put_quantized,
)
from quantizer.passes.statistics import InputStatistics

LEAVE_OUT = "Leave lm_head out, so that the head stays as it is."


def read_by_head(head: HeadContext) -> tuple[Tensor, int]:
    """The Hessian [K, K] of what the head reads, and the number of tokens; raises as InputStatistics.hessian."""
    statistics = InputStatistics(head.device)
    for read in head.inputs():
        statistics.add(read)
    return statistics.hessian(HEAD), statistics.tokens


def factor_head(hessian: Tensor, config: GptqConfig) -> Factored:
    """Factors that Hessian; NumericalFailure names the head."""
    try:
        return factor(hessian, config)
    except QuantizationError as failure:
        raise QuantizationError(failure.category, f"{HEAD}: {failure.message}", failure.hint) from failure


def round_head(
    head: HeadContext, config: GptqConfig, layout: WeightFormat, scheme: Scheme | None
) -> FinishedLayer:
    """The head, rounded and packed.

    scheme: bits and groups that were chosen for it; None where nothing was chosen.

    Raises:
        QuantizationError: NumericalFailure, DataInsufficient, naming the head.
    """

    def rtn(rows: Tensor) -> QuantizedWeight:
        return round_to_nearest(rows, config.group_size, config.rule)

    with head.timed("calibrate"):
        hessian, tokens = read_by_head(head)
    with head.timed("solve"):
        factored = factor_head(hessian, config)
        parts, baselines, changes = list[QuantizedWeight](), list[ErrorBaseline](), list[Tensor]()
        for rows in head.slices():
            weight = rows.float()
            with threads_for(weight.numel()):
                part, _ = gptq(weight, hessian, config, factored)
                check_stored_scales(HEAD, weight, part, rtn, layout, LEAVE_OUT)
                baselines.append(error_baseline(weight, hessian, rtn, layout))
                changes.append(put_quantized(HEAD, _linear(weight), weight, part, hessian, layout))
            parts.append(part)
        quantized = stacked(parts)
        error, error_rtn = together(baselines).relative(torch.cat(changes))
    report = LinearReport(
        name=HEAD,
        shape=(quantized.integers.shape[0], quantized.integers.shape[1]),
        error=error,
        error_rtn=error_rtn,
        damping=factored.damp_percent,
        tokens=tokens,
        bits=None if scheme is None else scheme.bits,
        group_size=None if scheme is None else scheme.group_size,
    )
    check_quality([report], "Raise damp_percent, calibrate with more text, or leave lm_head out.")
    return FinishedLayer(pack_linear(HEAD, quantized, layout), [report])


def stacked(parts: list[QuantizedWeight]) -> QuantizedWeight:
    """Slices of rows, rounded for the same inputs, as one weight; the list is emptied."""
    whole = QuantizedWeight(
        torch.cat([part.integers for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat([part.zeros for part in parts]),
        parts[0].g_idx,
    )
    parts.clear()
    return whole


def together(baselines: list[ErrorBaseline]) -> ErrorBaseline:
    """The measured rows of all slices."""
    return ErrorBaseline(
        torch.cat([one.rows for one in baselines]),
        torch.cat([one.whole for one in baselines]),
        torch.cat([one.rtn for one in baselines]),
    )


def _linear(weight: Tensor) -> nn.Linear:
    """A linear that holds a copy of some rows."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return linear
