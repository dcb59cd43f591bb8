"""A whole decoder layer, fitted to what it computed before anything of the model was rounded.

Rounding linear by linear minds each linear's own output. Here the rounded layer, on what the rounded layers before it
make, is to make what the float layer makes of what the float layers before it made. So that no layer drifts further,
its integers and scales are learned together (algorithms.reconstruction), from where the solver left them: a few dozen
steps on a few sequences each, in an order that depends on nothing but the layer. A token's error is taken relative to
its size; else the few tokens with massive activations would be all that counts.

Memory holds the layer's gradients and the Hessians of its inputs beside its weights, and what autograd keeps of the
sequences of a step.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantization_api.manifest import LinearReport
from quantizer.algorithms.gptq.drift import DriftSum
from quantizer.algorithms.grid import GridRule
from quantizer.algorithms.half_products import HalfProducts
from quantizer.algorithms.hessian import weighted_square
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.algorithms.reconstruction import LearnedRounding
from quantizer.decoder.architecture import SharedInput, Stage
from quantizer.formats.interface import WeightFormat
from quantizer.passes.interface import LayerContext, Reference
from quantizer.passes.rounding import ErrorBaseline
from quantizer.passes.statistics import InputStatistics, gather

logger = logging.getLogger(__name__)

STEPS = 60
STEP_TOKENS = 2048
"""Of the batches that a step takes; at least one."""
RATE = 0.0007
"""Of the first step, in steps of a scale; it falls evenly to nothing."""
SCALE_RATE = 0.0005
"""Of the first step, as a share of a scale."""
SMALLEST = 1e-8
"""Mean square that a token's output counts with at least."""


@dataclass(frozen=True)
class Rounded:
    """A linear that was rounded."""

    name: str
    """In the layer."""
    weight: Tensor
    """[N, K] what was to be rounded, float32."""
    quantized: QuantizedWeight
    rule: GridRule
    format: WeightFormat
    """Of this linear."""
    hessian: Tensor
    """H [K, K] of what it reads; linears that share an input share it."""
    baseline: ErrorBaseline
    report: LinearReport

    def fitted(self, quantized: QuantizedWeight) -> "Rounded":
        """The same linear with other integers and scales, and their error; that of RTN stays."""
        seen = self.format.as_read(quantized.rows(self.baseline.rows)).float()
        changed = weighted_square(self.weight[self.baseline.rows] - seen, self.hessian)
        error, _ = self.baseline.relative(changed)
        return replace(self, quantized=quantized, report=self.report.model_copy(update={"error": error}))


def gather_with_drift(
    layer: LayerContext, reference: Reference, stage: Stage, every_expert: bool
) -> tuple[dict[SharedInput, InputStatistics], Tensor | None]:
    """Statistics of the next stage, and the drift [K, K] of what it reads from what the float layer reads there.

    No drift of experts, since a token may be sent to others than before, nor of a linear that reads other rows than one
    for each token. The float layer is then finished with the stage.
    every_expert: whether each reads every token (see LayerWalk.visit).
    """
    if len(stage.shared_inputs) > 1:
        reference.walk.finish([stage])
        return gather(layer.walk, [stage], layer.device, every_expert=every_expert), None
    (shared,) = stage.shared_inputs
    width = layer.walk.linear(shared.names[0]).in_features
    parts = [DriftSum(width, layer.device) for _ in range(layer.walk.side_by_side)]
    shapes, others_rows = layer.walk.shapes, set[int]()
    with reference.store("read", shapes, width) as read_before:

        def keep(number: int, _: SharedInput, read: Tensor) -> None:
            if read.numel() == math.prod(shapes[number]) * width:
                read_before.write(number, read.reshape(*shapes[number], width))
            else:
                others_rows.add(number)

        def compare(number: int, read: Tensor) -> None:
            if not others_rows:
                parts[number % len(parts)].add(read_before.read(number), read)

        reference.walk.visit([stage], keep)
        reference.walk.finish([stage])
        found = gather(layer.walk, [stage], layer.device, also=compare)
    if others_rows:
        return found, None
    first, *others = parts
    for part in others:
        first.merge(part)
    return found, first.mean()


def reconstruct(
    layer: LayerContext, reference: Reference, rounded: Sequence[Rounded], products: torch.dtype
) -> list[Rounded]:
    """The linears of a layer, rounded so that its output is nearest to the float layer's.

    Both walks are at their ends, and `rounded` is what the layer's linears hold. Afterwards they hold what is
    returned, the better of what was learned and what was there, and the layer is finished with it.
    products: the type in which what is learned multiplies.
    """
    before = _error(reference)
    learned = [LearnedRounding(one.weight, one.quantized, one.rule) for one in rounded]
    with HalfProducts(products):
        _learn(layer, reference, rounded, learned)
    result = [one.fitted(own.quantized()) for one, own in zip(rounded, learned, strict=True)]
    _put(layer, reference, result)
    after = _error(reference)
    logger.info("%s: relative error of the layer's output %.3e, fitted %.3e", layer.prefix, before, after)
    if after < before:
        return result
    _put(layer, reference, rounded)
    return list(rounded)


def _learn(
    layer: LayerContext, reference: Reference, rounded: Sequence[Rounded], learned: Sequence[LearnedRounding]
) -> None:
    linears = [layer.walk.linear(one.name) for one in rounded]
    for linear in linears:
        linear.weight.requires_grad_(True)
    order = _batches(layer)
    for step in range(STEPS):
        with torch.enable_grad():
            for number in next(order):
                loss = _relative(
                    layer.walk.forward(reference.inputs.read(number)), reference.outputs.read(number)
                )
                torch.autograd.backward(loss)
        share = 1 - step / STEPS
        for linear, own in zip(linears, learned, strict=True):
            if linear.weight.grad is not None:  # an expert that no token of these reached
                own.step(linear.weight.grad, RATE * share, SCALE_RATE * share)
                linear.weight.grad = None
                linear.weight.copy_(own.weight())
    for linear in linears:
        linear.weight.requires_grad_(False)


def _batches(layer: LayerContext) -> Iterator[list[int]]:
    """The numbers of each step's batches, all of them in a new order again and again."""
    shapes = layer.walk.shapes
    at_once = max(1, min(len(shapes), STEP_TOKENS // math.prod(shapes[0])))
    generator = torch.Generator().manual_seed(sum(layer.prefix.encode()))
    left: list[int] = []
    while True:
        if len(left) < at_once:
            left = torch.randperm(len(shapes), generator=generator).tolist()
        yield left[:at_once]
        left = left[at_once:]


def _put(layer: LayerContext, reference: Reference, rounded: Sequence[Rounded]) -> None:
    """Puts what a reader sees of the weights into their linears, and finishes the layer with them."""
    for one in rounded:
        linear = layer.walk.linear(one.name)
        linear.weight.copy_(one.format.as_read(one.quantized))
    layer.walk.finish_from(reference.inputs)


def _error(reference: Reference) -> float:
    """The mean over all tokens of the relative squared error of the layer's output."""
    outputs = reference.outputs_now
    found = [
        float(_relative(outputs.read(number), reference.outputs.read(number)))
        for number in range(len(outputs))
    ]
    return math.fsum(found) / sum(math.prod(shape) for shape in outputs.shapes)


def _relative(output: Tensor, wanted: Tensor) -> Tensor:
    """The sum over the tokens [batch, tokens, width] of the squared error, each as a share of its token's square."""
    wanted = wanted.float()
    size = wanted.square().mean(-1).clamp_(min=SMALLEST)
    return ((output.float() - wanted).square().mean(-1) / size).sum()
