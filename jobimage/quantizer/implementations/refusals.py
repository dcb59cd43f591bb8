"""What the packages cannot do, each with the sentence that refuses it; pure, and known without the packages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quantization_api.failures import Category, QuantizationError
from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer


@dataclass(frozen=True)
class Refusal:
    """A combination of parameters, and what to write instead."""

    field: str
    refused: Callable[[Any], bool]
    sentence: str


AUTO_GPTQ: tuple[Refusal, ...] = (
    Refusal(
        "checkpoint_format",
        lambda p: p.checkpoint_format != "gptq",
        "implementation auto-gptq writes checkpoint_format gptq only; write gptq, or implementation native",
    ),
    Refusal(
        "inside_layer_modules",
        lambda p: p.inside_layer_modules is not None and not any(p.inside_layer_modules),
        "inside_layer_modules names no linear; name the linears of a layer in execution order, or leave it out",
    ),
)

AUTOAWQ: tuple[Refusal, ...] = (
    Refusal(
        "w_bit",
        lambda p: w_bit(p) != 4,
        "implementation autoawq packs 4 bits only; write w_bit 4, or implementation native",
    ),
    Refusal(
        "bits",
        lambda p: None not in (p.w_bit, p.bits) and p.w_bit != p.bits,
        "w_bit and bits are two names of one number; write one of them",
    ),
    Refusal(
        "q_group_size",
        lambda p: p.q_group_size < 1,
        "implementation autoawq needs a q_group_size above 0 that divides the inputs of every linear: "
        "its scale search has no row-wide group; write for example 128",
    ),
    Refusal(
        "version",
        lambda p: p.version != "gemm",
        "version gemm is the one that is read back and verified before it is published; write gemm, "
        "or leave it out",
    ),
    Refusal(
        "zero_point",
        lambda p: not p.zero_point and p.version != "marlin" and not p.export_compatible,
        "version gemm stores zero points; write zero_point true, or leave it out",
    ),
    Refusal(
        "data_config",
        lambda p: p.data_config is None,
        "implementation autoawq calibrates on the text of data_config; without one the package would fetch "
        "a data set of its own choice from the internet; name a data config",
    ),
    Refusal(
        "pack_model_for_onnx_conversion",
        lambda p: p.pack_model_for_onnx_conversion,
        "pack_model_for_onnx_conversion is not a parameter of autoawq 0.2.9; leave it out",
    ),
    Refusal(
        "input_model_dtype",
        lambda p: p.input_model_dtype == "fp64",
        "implementation autoawq computes in fp16 or fp32; write one of them",
    ),
)


MODEL_TYPES: dict[str, tuple[str, ...]] = {
    "auto-gptq": ("gpt_neox", "llama", "mistral", "opt", "qwen2"),
    "autoawq": ("gpt_neox", "llama", "mistral", "phi3", "qwen2", "qwen3"),
}
"""Model types that each package quantizes, and that can be evaluated, with the libraries of the legacy image (measured:
tests/e2e/test_implementations.py). With others a package stops in its middle, or its transformers cannot load them."""


def w_bit(parameters: AutoAWQQuantizer) -> int:
    """Bits of a weight under either of their names."""
    return parameters.w_bit or parameters.bits or 4


def refusals(parameters: GptqQuantizer | AutoAWQQuantizer) -> list[str]:
    """The sentences that refuse a pass whose implementation is a package; empty when it can be run."""
    expected = "auto-gptq" if isinstance(parameters, GptqQuantizer) else "autoawq"
    if parameters.implementation != expected:
        return [
            f"implementation {parameters.implementation} does not compute {parameters.type}; "
            f"write {expected} or native"
        ]
    table = AUTO_GPTQ if isinstance(parameters, GptqQuantizer) else AUTOAWQ
    return [item.sentence for item in table if item.refused(parameters)]


def check(parameters: GptqQuantizer | AutoAWQQuantizer) -> None:
    """Raises InvalidWorkflow, with every sentence, when the package cannot do what the pass asks for."""
    if sentences := refusals(parameters):
        raise QuantizationError(Category.INVALID_WORKFLOW, "; ".join(sentences))


def check_model(parameters: GptqQuantizer | AutoAWQQuantizer, model_type: str) -> None:
    """Raises ModelUnsupported for a model that the package cannot quantize."""
    known = MODEL_TYPES[parameters.implementation]
    if model_type not in known:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"implementation {parameters.implementation} quantizes models of type {', '.join(known)}; "
            f"this one is of type {model_type}",
            "Use implementation native.",
        )
