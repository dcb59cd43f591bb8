"""What the model builder of onnxruntime-genai is asked to do, decided before anything is loaded.

The builder keeps the integers of a quantized checkpoint as they are; `precision` only says what kind of
graph they go into. What it would drop in silence, compute wrongly or leave to the runtime is refused
here with what to write instead. Facts of onnxruntime-genai 0.18 and onnxruntime 1.32 on a CPU:

    MatMulNBits takes blocks of a power of two from 16 on; 3 bits do not exist.
    With a group index (act-order) it is wrong as soon as there are zero points, or 2 bits, and it does not
    run with 8 bits; so only groups that lie one after another are taken (static_groups, or no desc_act).
    The builder's defaults round the head, and a tied embedding, to 4 bits once more and compute with int8
    activations: KL to the checkpoint .055 and 89 % of top-1 tokens on the example model. Here the tables
    stay as they are and activations are fp32: 5e-7 and 99.9 %.
    Of the architectures of decoder.families it does not know OPT, GPT-2, GPT-NeoX, Bloom and the two with
    experts, and breaks off at Gemma 3 with transformers 5. A sliding window is left out of Mistral's and Phi-3's
    graphs; Gemma 2's, and Qwen2's with one, have caches that only onnxruntime-genai fills, so that the graph
    cannot be checked. Phi-3 with stretched positions ends in an error.
    Of the ways to stretch positions it knows few (ROPES): it breaks off at the others, and of Llama it computes
    linear, yarn and longrope as if they were not there.
    It breaks off at a tensor whose name it does not know.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from quantization_api.failures import Category, QuantizationError
from quantization_api.passes import ModelBuilder
from quantization_api.sequence_refusals import BLOCK_SIZES

MODEL_TYPES = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen3"})
"""The architectures of which there is a graph, and one that can be checked."""
ROPES = {"llama": ("default", "llama3", "dynamic"), "phi3": ("default",)}
"""Values of rope_type that the builder computes, by architecture. Within a model's positions dynamic is default."""
OTHER_ROPES = ("default", "linear")
BITS_OF = {"int4": (2, 4), "int8": (8,)}
"""Bits of the checkpoint that a precision stands for; there is no word for 2 bits, they come with int4."""
BITS = tuple(sorted(bits for stood_for in BITS_OF.values() for bits in stood_for))
"""What MatMulNBits holds of a checkpoint; symmetric or not (report.readers lists the builder by these, too)."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
TABLES = ("/lm_head/MatMul", "/model/embed_tokens/Gather")  # stay as the checkpoint has them


@dataclass(frozen=True)
class Bound:
    """How far the graph may be from the checkpoint."""

    kl_divergence: float
    """Mean, in nats."""
    top1_agreement: float
    """Share of tokens with the same top-1."""


BOUNDS = {1: Bound(1e-3, 0.99), 4: Bound(1e-2, 0.95)}
"""By accuracy level. Level 4 rounds activations to int8: .0008 and 98.2 % on the example model."""


@dataclass(frozen=True)
class BuildPlan:
    """One run of the builder on one checkpoint."""

    method: str
    """Of the checkpoint, and so of the graph; likewise the two below."""
    bits: int
    group_size: int
    precision: str
    execution_provider: str
    accuracy_level: int
    """What MatMulNBits computes with: 1 (fp32) or 4 (int8 activations)."""

    @property
    def bound(self) -> Bound:
        """How far the graph may be from the checkpoint with this accuracy level."""
        return BOUNDS[self.accuracy_level]

    def options(self) -> dict[str, Any]:
        """The builder's extra options."""
        return {
            "accuracy_level": str(self.accuracy_level),
            "block_size": str(self.group_size),
            "nodes_to_exclude": list(TABLES),
            "hf_token": "false",
        }


@dataclass(frozen=True)
class _Request:
    quantization: Mapping[str, Any]
    parameters: ModelBuilder
    available: Sequence[str]

    @property
    def method(self) -> str:
        return str(self.quantization.get("quant_method", "none"))

    @property
    def bits(self) -> int:
        return int(self.quantization.get("bits", 0))

    @property
    def group_size(self) -> int:
        return int(self.quantization.get("group_size", 0))

    @property
    def level(self) -> int | None:
        return self.parameters.int4_accuracy_level


Refusal = tuple[Callable[[_Request], bool], Callable[[_Request], str]]

REFUSALS: tuple[Refusal, ...] = (
    (
        lambda r: not r.quantization,
        lambda _: (
            "ModelBuilder is the step after GptqQuantizer or AutoAWQQuantizer, and the model is not "
            "quantized; put one of them before it"
        ),
    ),
    (
        lambda r: r.method not in ("gptq", "awq"),
        lambda r: (
            f"ModelBuilder reads gptq and awq checkpoints, not {r.method}; put GptqQuantizer with "
            "checkpoint_format: gptq, or AutoAWQQuantizer with version: gemm, before it"
        ),
    ),
    (
        lambda r: r.method == "gptq" and r.quantization.get("checkpoint_format", "gptq") != "gptq",
        lambda r: (
            f"ModelBuilder would read the zero points of {r.quantization['checkpoint_format']} wrongly; "
            "write checkpoint_format: gptq in the GptqQuantizer before it"
        ),
    ),
    (
        lambda r: bool(r.quantization.get("lm_head")),
        lambda _: (
            "ModelBuilder takes the head in float only; leave lm_head out of the GptqQuantizer before it"
        ),
    ),
    (
        lambda r: r.method == "awq" and str(r.quantization.get("version", "gemm")).lower() != "gemm",
        lambda r: (
            f"ModelBuilder does not read awq version {r.quantization['version']}; write version: gemm in "
            "the AutoAWQQuantizer before it"
        ),
    ),
    (
        lambda r: r.bits not in BITS,
        lambda r: (
            f"MatMulNBits holds 2, 4 or 8 bits, the checkpoint has {r.bits}; write one of them in the "
            "pass before ModelBuilder"
        ),
    ),
    (
        lambda r: r.bits not in BITS_OF[r.parameters.precision],
        lambda r: (
            f"precision {r.parameters.precision} does not fit the checkpoint's {r.bits} bits, which the "
            f"graph keeps; write precision: {_precision_for(r.bits)}"
        ),
    ),
    (
        lambda r: r.group_size not in BLOCK_SIZES,
        lambda r: (
            f"MatMulNBits holds blocks of 16, 32, 64, 128 or 256 inputs, the checkpoint has "
            f"{'one group a row' if r.group_size == -1 else f'groups of {r.group_size}'}; write one of them as "
            f"{'q_group_size' if r.method == 'awq' else 'group_size'} in the pass before ModelBuilder"
        ),
    ),
    (
        lambda r: r.parameters.int4_block_size not in (None, r.group_size),
        lambda r: (
            f"int4_block_size {r.parameters.int4_block_size} does not fit the checkpoint's groups of "
            f"{r.group_size}, which the graph keeps; leave int4_block_size out"
        ),
    ),
    (
        lambda r: PROVIDERS[r.parameters.execution_provider] not in r.available,
        lambda r: (
            f"the onnxruntime of this image has no {PROVIDERS[r.parameters.execution_provider]}, so the "
            "graph could not be checked; write execution_provider: cpu"
        ),
    ),
)
"""(refused, what to write instead), the first that applies counts: of the checkpoint that the builder is given, and of
this machine. What is refused of the parameters alone stands in the contract (model_builder_refusals)."""


class Model(Protocol):
    """What is asked of a model; see decoder.layout.DecoderLayout."""

    config: Any
    max_positions: int

    @property
    def model_type(self) -> str: ...

    @property
    def windowed(self) -> bool: ...

    def ignored_linears(self, index: int = 0) -> tuple[str, ...]: ...


def check_model(model: Model) -> None:
    """Refuses a model that no graph can be made of, or none that can be checked.

    Raises:
        QuantizationError: ModelUnsupported for the architecture, or a variant of it; InvalidWorkflow when
            inside_layer_modules leaves a linear as it is.
    """
    known = ", ".join(sorted(MODEL_TYPES))
    found = None
    if model.model_type not in MODEL_TYPES:
        found = f"there is none of {model.model_type} models; there is of {known}"
    elif model.windowed:
        found = (
            f"it would lack the sliding window of {model.config.sliding_window} tokens that this model has"
        )
    elif model.model_type == "phi3" and model.config.original_max_position_embeddings != model.max_positions:
        found = "there is none of Phi-3 with stretched positions (original_max_position_embeddings)"
    elif (rope := rope_type(model.config)) not in (known_ropes := ROPES.get(model.model_type, OTHER_ROPES)):
        found = f"its rope_type is {rope}; of {model.model_type} models there is one with {' or '.join(known_ropes)}"
    if found is not None:
        raise _no_graph(found)
    if ignored := model.ignored_linears():
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"ModelBuilder cannot leave single linears in float, and inside_layer_modules lacks {ignored[0]}; "
            "leave inside_layer_modules out, or ModelBuilder",
        )


def check_unused(names: Sequence[str]) -> None:
    """Raises ModelUnsupported for tensors that the model does not use: the builder breaks off at them."""
    if names:
        raise _no_graph(f"it has tensors that it does not use, the first is {names[0]}")


def rope_type(config: Any) -> str:
    """How positions are stretched, in transformers' word."""
    said = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return str(said.get("rope_type", said.get("type", "default")))


def _no_graph(found: str) -> QuantizationError:
    return QuantizationError(
        Category.MODEL_UNSUPPORTED,
        f"the model builder of onnxruntime-genai makes no ONNX graph of this model that could be checked: {found}",
        "Leave ModelBuilder and pack_model_for_onnx_conversion out, or take another model.",
    )


def plan_build(config: Mapping[str, Any], parameters: ModelBuilder, available: Sequence[str]) -> BuildPlan:
    """The run of the builder for a checkpoint.

    Args:
        config: the checkpoint's config.json.
        available: names of onnxruntime's execution providers on this machine.

    Raises:
        QuantizationError: InvalidWorkflow, with what to write instead, for each combination that the
            builder or onnxruntime does not do, or does wrongly.
    """
    request = _Request(config.get("quantization_config") or {}, parameters, available)
    for refused, sentence in REFUSALS:
        if refused(request):
            raise QuantizationError(Category.INVALID_WORKFLOW, sentence(request))
    return BuildPlan(
        method=request.method,
        bits=request.bits,
        group_size=request.group_size,
        precision=parameters.precision,
        execution_provider=parameters.execution_provider,
        accuracy_level=request.level or 1,
    )


def _precision_for(bits: int) -> str:
    return "int8" if bits == 8 else "int4"
