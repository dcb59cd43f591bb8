"""Whether a pass and its format take the linears of a model, asked before anything is computed."""

import math

from quantization_api.failures import Category, QuantizationError
from quantizer.decoder.layout import DecoderLayout
from quantizer.formats.interface import HEAD
from quantizer.passes.interface import GroupSizes, LayerPass

OFFERED = (-1, *(2**power for power in range(4, 15)))
"""The sizes that a message names where a pass takes any."""


def check_sizes(model: DecoderLayout, layer_pass: LayerPass) -> None:
    """Raises InvalidWorkflow when the group size does not divide a linear, ModelUnsupported when it cannot be packed.

    The message names the layer, and the sizes that the pass takes and that fit every linear of the model.
    """
    if layer_pass.rounds_head:
        _check_head(model)
    for candidate in layer_pass.candidates(model):
        _check(model, candidate)


def _check_head(model: DecoderLayout) -> None:
    """Refuses a head that readers do not take quantized."""
    if model.tied:
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            "lm_head: true, but the head of this model is its embedding, which readers take in float only",
            "Leave lm_head out.",
        )
    if model.own_head_name() != f"{HEAD}.weight":
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"the head of this model is {model.own_head_name().removesuffix('.weight')}; readers take a quantized "
            f"head by the name {HEAD} only",
            "Leave lm_head out.",
        )


def _check(model: DecoderLayout, layer_pass: LayerPass) -> None:
    shapes = {
        model.layer_prefix(index) + name: shape
        for index in range(model.layers)
        for name, shape in model.linear_shapes(index).items()
        if layer_pass.converts(model.layer_prefix(index) + name)
    }
    if layer_pass.rounds_head:
        shapes[HEAD] = model.head_shape
    if not shapes and layer_pass.packs:
        raise QuantizationError(Category.INVALID_WORKFLOW, "no linear of the model is left to quantize")
    common = math.gcd(*(columns for _, columns in shapes.values()))
    size = layer_pass.grid.group_size
    for name, (rows, columns) in shapes.items():
        if size != -1 and columns % size:
            raise _does_not_divide(layer_pass.group_sizes, size, name, columns, common)
        layer_pass.format.check_shape(name, rows, columns)


def _does_not_divide(takes: GroupSizes, size: int, name: str, columns: int, common: int) -> QuantizationError:
    fitting = [fit for fit in takes.sizes or OFFERED if fit == -1 or common % fit == 0]
    found = f"{takes.parameter} {size} does not divide the {columns} inputs of {name}; "
    if not fitting:
        found += f"no {takes.parameter} that this pass takes fits every layer of this model"
        return QuantizationError(Category.INVALID_WORKFLOW, found, takes.instead)
    sizes = ", ".join(map(str, fitting))
    return QuantizationError(
        Category.INVALID_WORKFLOW,
        f"{found}sizes that fit every layer of this model: {sizes}",
        f"Set {takes.parameter} to {'one of these' if len(fitting) > 1 else 'this one'}.",
    )
