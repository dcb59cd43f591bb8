"""The passes: Olive's parameter names, types and defaults (v0.7), one typed model for each pass type.

In the CRD all types share one flat object (`flat_pass_schema` in crd.py); rules generated from these models
refuse a parameter that belongs to another type. Defaults live here and in the descriptions, never as
`default:` in the CRD: a server-side default of a flat object would be drift for GitOps tools.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from quantization_api.awq_refusals import AUTOAWQ, AWQ
from quantization_api.bounded import ModulePath, Name, Quantity
from quantization_api.gptq_refusals import AUTO_GPTQ, GPTQ
from quantization_api.model_builder_refusals import MODEL_BUILDER
from quantization_api.quarot_refusals import QUAROT
from quantization_api.refusals import Refusal, equals
from quantization_api.rules import ContractModel, Rule

Dtype = Literal["fp16", "bf16", "fp32", "fp64"]
INPUT_MODEL_DTYPE = (
    "Data type in which the model is loaded, and in which unquantized tensors are stored. If unset: bf16 for a model "
    "in bf16, and fp16, Olive's default, for one in fp16 or fp32."
)
CheckpointFormat = Literal["gptq", "gptq_v2", "awq", "compressed-tensors"]
Refinement = Literal["none", "standard", "best"]
Bits = Annotated[int, Field(ge=1, le=32)]
GroupSize = Annotated[int, Field(ge=-1, le=65536)]
ClipRatio = Annotated[float, Field(gt=0, le=1)]
CandidateBits = Annotated[list[Bits], Field(min_length=1, max_length=4)]
CandidateGroups = Annotated[list[GroupSize], Field(min_length=1, max_length=8)]
Modules = Annotated[list[ModulePath], Field(max_length=32)]

FewTokens = Literal["fail", "rtn", "all"]
EXPERTS = "For a mixture of experts: what is done about experts that see few tokens of the calibration text."

NO_CODE = "code from a manifest is never run; leave it out"

SYNONYMS: dict[str, dict[str, str]] = {
    "GptqQuantizer": {
        "w_bit": "bits",
        "w_bits": "bits",
        "q_group_size": "group_size",
        "w_groupsize": "group_size",
        "gptq_damping": "damp_percent",
        "w_asym": "sym",
        "calibration_data_config": "data_config",
    },
    "AutoAWQQuantizer": {
        "w_bits": "w_bit",
        "group_size": "q_group_size",
        "w_groupsize": "q_group_size",
        "w_asym": "zero_point",
        "calibration_data_config": "data_config",
    },
    "QuaRot": {
        "bits": "w_bits",
        "w_bit": "w_bits",
        "group_size": "w_groupsize",
        "q_group_size": "w_groupsize",
        "damp_percent": "gptq_damping",
        "data_config": "calibration_data_config",
    },
    "ModelBuilder": {"bits": "precision", "w_bit": "precision", "group_size": "int4_block_size"},
}
"""What to write instead when a parameter of one type is given to another."""


class PassBase(ContractModel):
    """What every pass has. Parameters of other pass types are refused with what to write instead."""

    name: Name | None = Field(None, description="Name of the pass within the workflow; optional.")
    REFUSED: ClassVar[dict[str, str]] = {
        "user_script": NO_CODE,
        "script_dir": NO_CODE,
        "host": "spec.template says where a job runs; leave it out",
        "evaluator": "a workflow has one evaluator, spec.workflow.evaluator; leave it out here",
        "embeds": "embeddings keep their data type, since most readers take no other; leave it out, or write lm_head: "
        "true in a GptqQuantizer for the head",
    }

    REFUSALS: ClassVar[tuple[Refusal, ...]] = ()
    PACKAGES: ClassVar[dict[str, tuple[Refusal, ...]]] = {}
    """Implementations beside native, each with what it cannot do."""

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """The rules of the type, the packages' included."""
        return _rules(cls)

    @model_validator(mode="before")
    @classmethod
    def _refuse_foreign_parameters(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields and key not in cls.REFUSED and owners(key):
                    sentence = foreign_parameter(key, cls.__name__)
                    raise PydanticCustomError("foreign", "{sentence}", {"sentence": sentence})
        return data


class Experts(ContractModel):
    """How the experts of a mixture are calibrated."""

    few_tokens: FewTokens = Field(
        "fail",
        description="fail: an expert that sees no token ends the run. rtn: an expert that sees fewer than two tokens "
        "for each of its inputs is rounded to nearest, and the report says so. all: every expert sees every token "
        "while statistics are gathered, whatever its router says.",
    )


class GptqQuantizer(PassBase):
    """GPTQ: weights rounded column by column, each rounding error compensated in the columns left."""

    type: Literal["GptqQuantizer"]
    data_config: Name = Field(description="Name of the data config to calibrate with.")
    bits: Bits = Field(4, description="Bits per weight: 2, 3, 4 or 8.")
    group_size: GroupSize = Field(
        128, description="Input channels that share a scale; -1: one group per row."
    )
    target_bits: Annotated[float, Field(ge=2, le=8)] | None = Field(
        None,
        description="Bits that a quantized weight may take on average, scales and zero points included. Bits and group "
        "size of each linear are then chosen by what its error does to the model's output.",
    )
    target_size: Quantity | None = Field(
        None,
        description="Bytes that the safetensors of the result may take, such as 4Gi; instead of target_bits.",
    )
    candidate_bits: CandidateBits | None = Field(
        None, description="With a target: the bits to choose from. If unset: 2, 3, 4 and 8."
    )
    candidate_group_sizes: CandidateGroups | None = Field(
        None, description="With a target: the group sizes to choose from. If unset: group_size."
    )
    lm_head: bool = Field(
        False,
        description="Quantize the head too; with a target its bits are chosen as well. It must have weights of its "
        "own. The embedding always stays as it is.",
    )
    damp_percent: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Dampening: fraction of the mean Hessian diagonal that is added to the diagonal.",
    )
    static_groups: bool = Field(
        False, description="Compute the grids of all groups before the first column is rounded."
    )
    true_sequential: bool = Field(
        False,
        description="Quantize the linears of a layer stage by stage, each on inputs from the quantized stages.",
    )
    desc_act: bool = Field(
        False, description="Quantize columns in order of decreasing activation (act-order)."
    )
    sym: bool = Field(False, description="Symmetric grid, without zero points.")
    refine: Refinement = Field(
        "standard",
        description="What is done beyond GPTQ for a smaller error at the same size. none: nothing, the integers are "
        "auto-gptq's. standard: grids are searched, and integers and scales improved when all are known, up to 4 bits. "
        "best: in addition each layer is fitted to the output of the unquantized one, stage by stage; about ten times "
        "the time.",
    )
    layers_block_name: ModulePath | None = Field(
        None,
        description="Dotted path to the list of decoder layers. If unset: found by looking at the model.",
    )
    outside_layer_modules: Modules | None = Field(
        None, description="Modules outside the decoder layers that calibration needs."
    )
    inside_layer_modules: Annotated[list[Modules], Field(max_length=16)] | None = Field(
        None,
        description="Linears of a decoder layer, grouped in execution order. If unset: all of them, found by looking "
        "at the model.",
    )
    checkpoint_format: CheckpointFormat = Field(
        "gptq",
        description="Format of the quantized tensors on disk: gptq, gptq_v2 or compressed-tensors.",
    )
    calibration_dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Data type in which the model runs during calibration; the weights are rounded as they are either "
        "way. auto: bf16 on a processor that multiplies it faster, else fp32. With refine: best, auto runs the model "
        "in fp32 and takes the faster type only for the products that fit a layer.",
    )
    experts: Experts | None = Field(None, description=EXPERTS)
    implementation: Literal["native", "auto-gptq", "autoawq"] = Field(
        "native", description="What computes the pass: native, or the stock package in its own image."
    )
    REFUSALS: ClassVar[tuple[Refusal, ...]] = GPTQ
    PACKAGES: ClassVar[dict[str, tuple[Refusal, ...]]] = {"auto-gptq": AUTO_GPTQ}

    @property
    def has_target(self) -> bool:
        """Whether bits and group size are chosen for each linear."""
        return self.target_bits is not None or self.target_size is not None


class AutoAWQQuantizer(PassBase):
    """AWQ: activation-aware scaling of salient channels, then rounding."""

    type: Literal["AutoAWQQuantizer"]
    data_config: Name | None = Field(
        None,
        description="Name of the data config to calibrate with. If unset: the text that the operator's setting "
        "default_calibration names.",
    )
    w_bit: Bits | None = Field(
        None,
        description="Bits per weight. 4 is what the awq format holds; compressed-tensors holds 2, 3 and 8 too.",
    )
    bits: Bits | None = Field(None, description="Another name for w_bit, from newer Olive releases.")
    q_group_size: GroupSize = Field(128, description="Input channels that share a scale.")
    zero_point: bool = Field(True, description="Asymmetric grid, with zero points.")
    version: Literal["gemm", "gemv", "gemv_fast", "marlin"] = Field(
        "gemm", description="Layout of the packed weights in the awq format."
    )
    checkpoint_format: CheckpointFormat = Field(
        "awq",
        description="Format of the quantized tensors on disk: awq, in the layout that version names, or "
        "compressed-tensors.",
    )
    duo_scaling: bool = Field(True, description="Scales from weights and activations, not activations alone.")
    refine: Refinement = Field(
        "none",
        description="How the scaled weights are rounded. none: clipped and rounded to nearest, as AWQ does. standard: "
        "with GPTQ, refined as GptqQuantizer does it; the format stays the same.",
    )
    modules_to_not_convert: Modules = Field([], description="Modules that stay unquantized.")
    export_compatible: bool = Field(
        False, description="Only apply scales and clipping; the result is an ordinary float model."
    )
    pack_model_for_onnx_conversion: bool = Field(
        False,
        description="Require a result that can be converted to ONNX; what cannot be converted is refused.",
    )
    input_model_dtype: Dtype | None = Field(None, description=INPUT_MODEL_DTYPE)
    experts: Experts | None = Field(None, description=EXPERTS)
    implementation: Literal["native", "auto-gptq", "autoawq"] = Field(
        "native", description="What computes the pass: native, or the stock package in its own image."
    )
    REFUSALS: ClassVar[tuple[Refusal, ...]] = AWQ
    PACKAGES: ClassVar[dict[str, tuple[Refusal, ...]]] = {"autoawq": AUTOAWQ}

    @property
    def weight_bits(self) -> int:
        """Bits of a weight, whichever of the two names gives them."""
        return self.w_bit or self.bits or 4


class QuaRot(PassBase):
    """QuaRot (arXiv 2404.00456): rotations that remove outliers, then low bits everywhere."""

    type: Literal["QuaRot"]
    input_model_dtype: Dtype | None = Field(None, description=INPUT_MODEL_DTYPE)
    calibration_data_config: Name | None = Field(
        None, description="Name of the data config to calibrate with; required by w_gptq."
    )
    calibration_nsamples: int = Field(128, ge=1, le=65536, description="Number of calibration sequences.")
    calibration_batch_size: int = Field(16, ge=1, le=4096, description="Sequences per batch.")
    seed: int = Field(42, ge=0, le=2147483647, description="Seed for choosing the calibration sequences.")
    rotate: bool = Field(True, description="Rotate the model.")
    rotation_seed: int = Field(0, ge=0, le=2147483647, description="Seed for the rotation.")
    w_rtn: bool = Field(False, description="Round the weights to nearest.")
    w_gptq: bool = Field(False, description="Quantize the weights with GPTQ.")
    experts: Experts | None = Field(None, description=EXPERTS)
    gptq_damping: float = Field(0.01, gt=0, lt=1, description="Same as damp_percent of GptqQuantizer.")
    gptq_opt_scales: bool = Field(
        False, description="Search for the scales before GPTQ and refit them after it."
    )
    refine: Refinement = Field(
        "standard",
        description="What w_gptq does beyond GPTQ, as in GptqQuantizer; with gptq_opt_scales, or with s_bits below 16, "
        "nothing.",
    )
    w_bits: Bits = Field(16, description="Bits of weights.")
    w_asym: bool = Field(False, description="Asymmetric weights.")
    w_groupsize: GroupSize | None = Field(None, description="Group size of weights. If unset: per row.")
    checkpoint_format: CheckpointFormat = Field(
        "gptq",
        description="Format of the quantized weights on disk, where only weights are rounded: gptq or "
        "compressed-tensors. With fewer bits of anything else the artifact has a format of its own.",
    )
    a_bits: Bits = Field(16, description="Bits of activations.")
    a_asym: bool = Field(False, description="Asymmetric activations.")
    a_clip_ratio: ClipRatio = Field(1.0, description="Clip ratio of activations.")
    a_groupsize: GroupSize | None = Field(None, description="Group size of activations. If unset: per token.")
    k_bits: Bits = Field(16, description="Bits of cached keys.")
    k_clip_ratio: ClipRatio = Field(1.0, description="Clip ratio of keys.")
    k_groupsize: GroupSize | None = Field(None, description="Group size of keys. If unset: per head.")
    v_bits: Bits = Field(16, description="Bits of cached values.")
    v_clip_ratio: ClipRatio = Field(1.0, description="Clip ratio of values.")
    v_groupsize: GroupSize | None = Field(None, description="Group size of values. If unset: per head.")
    s_bits: Bits = Field(16, description="Bits of the weights' scales.")
    REFUSALS: ClassVar[tuple[Refusal, ...]] = QUAROT


class ModelBuilder(PassBase):
    """ONNX with MatMulNBits, after GPTQ or AWQ."""

    type: Literal["ModelBuilder"]
    precision: Literal["int4", "int8", "fp16", "fp32"] = Field("int4", description="Precision of the graph.")
    int4_block_size: Literal[16, 32, 64, 128, 256] | None = Field(
        None, description="Block size of MatMulNBits."
    )
    int4_accuracy_level: Annotated[int, Field(ge=1, le=4)] | None = Field(
        None, description="Accuracy level of MatMulNBits."
    )
    execution_provider: Annotated[str, StringConstraints(max_length=32, pattern="^[a-z]+$")] = Field(
        "cpu", description="ONNX Runtime execution provider that the graph is built for."
    )
    REFUSALS: ClassVar[tuple[Refusal, ...]] = MODEL_BUILDER


Pass = Annotated[GptqQuantizer | AutoAWQQuantizer | QuaRot | ModelBuilder, Field(discriminator="type")]
PASS_TYPES: tuple[type[PassBase], ...] = (GptqQuantizer, AutoAWQQuantizer, QuaRot, ModelBuilder)
IMPLEMENTATIONS = ("native", "auto-gptq", "autoawq")


def _rules(cls: type[PassBase]) -> tuple[Rule, ...]:
    if cls not in PASS_TYPES:
        return cls.RULES
    refusals = list(cls.REFUSALS)
    for package, cannot in cls.PACKAGES.items():
        refusals += [
            Refusal(
                "implementation",
                equals("implementation", other),
                f"implementation {other} does not compute {cls.__name__}; write {package} or native",
            )
            for other in IMPLEMENTATIONS
            if other not in ("native", package)
        ]
        refusals += cannot
    return tuple(refusal.rule(cls) for refusal in refusals)


def owners(parameter: str) -> list[str]:
    """The pass types that have the parameter."""
    return [cls.__name__ for cls in PASS_TYPES if parameter in cls.model_fields]


def foreign_parameter(parameter: str, pass_type: str) -> str:
    """The sentence for a parameter given to a pass type that does not have it."""
    sentence = (
        f"{parameter} is not a parameter of {pass_type}; it belongs to {' and '.join(owners(parameter))}"
    )
    instead = SYNONYMS[pass_type].get(parameter)
    return f"{sentence}; did you mean {instead}?" if instead else sentence
