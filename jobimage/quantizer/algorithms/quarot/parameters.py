"""QuaRot's parameters in Olive's words, what they need, and which do not fit a model.

Online operations exist only where something is rounded online: keys are rotated when k_bits is below 16,
the inputs of the output and down linears when a_bits is. Everything else is folded into the weights, and
a model without online operations is an ordinary checkpoint of its architecture.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quarot.rotation_layout import ModelLayout, residual_obstacle
from quantizer.algorithms.quarot.weights import WeightRule

FULL = 16
OWN_CODE_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types for which there is modelling code (formats.quarot.modeling_quarot)."""


@dataclass(frozen=True)
class QuarotParameters:
    """Parameters of QuaRot that decide what is computed, with Olive's names and defaults, as the contract has them.

    Keys and values are always asymmetric, as in the paper.
    """

    rotate: bool = True
    rotation_seed: int = 0
    w_rtn: bool = False
    w_gptq: bool = False
    gptq_damping: float = 0.01
    gptq_opt_scales: bool = False
    refine: str = "standard"
    """Of w_gptq: none or standard, as for GptqQuantizer."""
    w_bits: int = 16
    w_asym: bool = False
    w_groupsize: int | None = None
    """None or -1: one group per row."""
    a_bits: int = 16
    a_asym: bool = False
    a_clip_ratio: float = 1.0
    """Shrinks the range of a group before it is rounded, as the other clip ratios do."""
    a_groupsize: int | None = None
    """None or -1: one group per token."""
    k_bits: int = 16
    k_clip_ratio: float = 1.0
    k_groupsize: int | None = None
    """None or -1: one group for each head of a token."""
    v_bits: int = 16
    v_clip_ratio: float = 1.0
    v_groupsize: int | None = None
    """None or -1: one group for each head of a token."""
    s_bits: int = 16
    checkpoint_format: str = "gptq"
    """Of the weights, where nothing needs code of its own."""

    @property
    def weight_rule(self) -> WeightRule:
        """How weights are rounded; only meaningful with w_bits below 16."""
        return WeightRule(
            "gptq" if self.w_gptq else "rtn",
            self.w_bits,
            self.w_asym,
            group(self.w_groupsize) or -1,
            self.gptq_damping,
            self.refine == "standard",
            self.gptq_opt_scales,
            self.s_bits,
        )


def group(size: int | None) -> int | None:
    """A group size with one word, None, for "all of it"."""
    return None if size == -1 else size


def needs_own_code(parameters: QuarotParameters) -> bool:
    """Whether the result computes something online (or stores scales of few bits), which no stock reader does."""
    return min(parameters.a_bits, parameters.k_bits, parameters.v_bits, parameters.s_bits) < FULL


def online_sites(parameters: QuarotParameters) -> tuple[str, ...]:
    """The sites that are rotated online: of keys, heads, down."""
    if not parameters.rotate:
        return ()
    keys = ("keys",) if parameters.k_bits < FULL else ()
    return keys + (("heads", "down") if parameters.a_bits < FULL else ())


def check_model(
    parameters: QuarotParameters, layout: ModelLayout, model_type: str, widths: Mapping[str, int]
) -> None:
    """Compares the parameters with a model.

    Args:
        parameters, layout: the pass and the architecture.
        model_type: of config.json.
        widths: inputs K of each linear of a layer, by name.

    Raises:
        QuantizationError: InvalidWorkflow naming the linear that a group size does not divide, or saying
            that this model type has no modelling code; ModelUnsupported for a residual stream that cannot
            be rotated.
    """
    obstacle = residual_obstacle(layout)
    if parameters.rotate and obstacle:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"rotate is true, but {obstacle} (model_type {model_type})",
            "Use a GptqQuantizer or an AutoAWQQuantizer without QuaRot; or QuaRot alone, with rotate: false, w_bits "
            "and w_rtn or w_gptq.",
        )
    if needs_own_code(parameters) and model_type not in OWN_CODE_TYPES:
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            "a_bits, k_bits, v_bits or s_bits below 16 need modelling code in the artifact, which exists only for "
            f"{', '.join(OWN_CODE_TYPES)}; this model is {model_type}",
            "Leave out a_bits, k_bits, v_bits and s_bits, or set them to 16.",
        )
    for name, size in (("w_groupsize", parameters.w_groupsize), ("a_groupsize", parameters.a_groupsize)):
        for linear, columns in widths.items():
            if (width := group(size)) is not None and columns % width:
                raise QuantizationError(
                    Category.INVALID_WORKFLOW,
                    f"{name} {size} does not divide the {columns} inputs of {linear}",
                )
    heads = layout.layer.attention
    for name, size in (("k_groupsize", parameters.k_groupsize), ("v_groupsize", parameters.v_groupsize)):
        if (width := group(size)) is not None and heads is not None and heads.head_dim % width:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"{name} {size} does not divide the head size {heads.head_dim} of this model",
            )
