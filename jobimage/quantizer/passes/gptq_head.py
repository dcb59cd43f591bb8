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
    put_quantized,
)
from quantizer.passes.statistics import InputStatistics

WHOLE_WORDS = 32
"""Values of any width that fill whole words."""
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
        packed, baselines, changes = PackedRows(layout), list[ErrorBaseline](), list[Tensor]()
        for rows in head.slices():
            weight = rows.float()
            with threads_for(weight.numel()):
                part, _ = gptq(weight, hessian, config, factored)
                check_stored_scales(HEAD, weight, part, rtn, layout, LEAVE_OUT)
                baselines.append(error_baseline(weight, hessian, rtn, layout))
                changes.append(put_quantized(HEAD, _linear(weight), weight, part, hessian, layout))
            packed.add(part)
        error, error_rtn = together(baselines).relative(torch.cat(changes))
    report = LinearReport(
        name=HEAD,
        shape=(packed.rows, hessian.shape[0]),
        error=error,
        error_rtn=error_rtn,
        damping=factored.damp_percent,
        tokens=tokens,
        bits=None if scheme is None else scheme.bits,
        group_size=None if scheme is None else scheme.group_size,
    )
    check_quality([report], "Raise damp_percent, calibrate with more text, or leave lm_head out.")
    return FinishedLayer({f"{HEAD}.{kind}": tensor for kind, tensor in packed.tensors().items()}, [report])


class PackedRows:
    """A weight that comes in slices of rows, packed as they come: a large one never exists unpacked.

    The slices are rounded for the same inputs.
    """

    def __init__(self, layout: WeightFormat) -> None:
        self._layout = layout
        self._packed: list[dict[str, Tensor]] = []
        self._left: QuantizedWeight | None = None
        self.rows = 0

    def add(self, part: QuantizedWeight) -> None:
        """The next rows. What does not fill whole words along the rows waits for more of them."""
        self.rows += part.integers.shape[0]
        waiting = part if self._left is None else _joined(self._left, part)
        count = waiting.integers.shape[0]
        full = count // WHOLE_WORDS * WHOLE_WORDS
        if full:
            self._pack(waiting.rows(slice(full)))
        self._left = waiting.rows(slice(full, None)) if full < count else None

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the whole weight, on the CPU; to be asked for once."""
        if self._left is not None:
            self._pack(self._left)
            self._left = None
        return self._layout.joined(self._packed)

    def _pack(self, part: QuantizedWeight) -> None:
        self._packed.append({kind: tensor.cpu() for kind, tensor in self._layout.pack(part).items()})


def _joined(one: QuantizedWeight, other: QuantizedWeight) -> QuantizedWeight:
    return QuantizedWeight(
        torch.cat([one.integers, other.integers]),
        torch.cat([one.scales, other.scales]),
        torch.cat([one.zeros, other.zeros]),
        one.g_idx,
    )


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
