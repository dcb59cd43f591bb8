"""Manifests of QuaRot, ModelBuilder and the stock packages: what is refused, and what is not."""

from typing import Any

from tests.support.invalid import Invalid
from tests.support.manifests import PASS

Changes = tuple[tuple[str, Any], ...]


GPTQ = {"type": "GptqQuantizer", "data_config": "train", "group_size": 32}
AWQ = {"type": "AutoAWQQuantizer", "w_bit": 4}
ROUNDED = {"w_rtn": True, "w_bits": 4}
SOLVED = {"w_gptq": True, "w_bits": 4, "calibration_data_config": "train"}
BUILDER = {"type": "ModelBuilder"}
ROTATION = {"type": "QuaRot"}


def quarot(name: str, server: str, client: str | None = "", **parameters: Any) -> Invalid:
    """A QuaRot that must be refused."""
    return Invalid(name, ((PASS, {"type": "QuaRot", **parameters}),), server, client)


def built(name: str, server: str, *passes: dict[str, Any], client: str | None = "") -> Invalid:
    """Passes that must be refused together."""
    return Invalid(name, (("workflow.passes", list(passes)),), server, client)


def package(name: str, server: str, before: dict[str, Any], **parameters: Any) -> Invalid:
    """A pass that the package it names must refuse."""
    return Invalid(name, ((PASS, {**before, **parameters}),), server)


def without_effect(field: str, needed: str, value: Any, **parameters: Any) -> Invalid:
    """A parameter of QuaRot that nothing reads."""
    return quarot(
        f"{field} for nothing",
        f"{field} has an effect only with {needed}; add that",
        **parameters,
        **{field: value},
    )


def gptq(name: str, server: str, **parameters: Any) -> Invalid:
    """A GptqQuantizer that must be refused."""
    return Invalid(name, ((PASS, {"type": "GptqQuantizer", "data_config": "train", **parameters}),), server)


WHOLE_INVALID: tuple[Invalid, ...] = (
    gptq("two targets", "target_bits and target_size exclude each other", target_bits=3.5, target_size="4Gi"),
    gptq("bits beside a target", "with a target the bits of each linear are chosen", target_bits=3.5, bits=3),
    gptq(
        "a group size beside candidates",
        "candidate_group_sizes takes the place of group_size",
        target_bits=3.5,
        group_size=32,
        candidate_group_sizes=[32, 64],
    ),
    gptq("candidates of bits alone", "have an effect only with a target", candidate_bits=[3, 4]),
    gptq("candidates of groups alone", "have an effect only with a target", candidate_group_sizes=[32, 64]),
    gptq(
        "candidates of 5 bits",
        "candidate_bits must be some of 2, 3, 4 and 8",
        target_bits=5,
        candidate_bits=[4, 5],
    ),
    gptq(
        "candidates of no group",
        "candidate_group_sizes has a 0",
        target_size=1000000,
        candidate_group_sizes=[0, 64],
    ),
    gptq(
        "a target of the package",
        "implementation auto-gptq rounds all linears to the same bits",
        target_bits=3.5,
        implementation="auto-gptq",
    ),
    gptq(
        "a quantized head beside some linears",
        "readers look for a quantized head only where all linears of the layers are quantized",
        lm_head=True,
        inside_layer_modules=[["a"]],
    ),
    gptq(
        "a quantized head of the package",
        "implementation auto-gptq leaves the head as it is; leave lm_head out",
        lm_head=True,
        implementation="auto-gptq",
    ),
    built(
        "a quantized head after a rotation",
        "a rotated head keeps its data type in this release; leave lm_head out",
        ROTATION,
        {**GPTQ, "lm_head": True},
    ),
    built(
        "a graph of a quantized head",
        "ModelBuilder takes the head in float only; leave lm_head out",
        {**GPTQ, "lm_head": True},
        BUILDER,
    ),
    gptq("a quantized embedding", "embeddings keep their data type", embeds=True),
    built(
        "a graph of mixed bits",
        "ModelBuilder takes the same bits in all linears",
        {**GPTQ, "target_bits": 3.5},
        BUILDER,
    ),
    quarot("weights of 5 bits", "w_bits must be 2, 3, 4, 8 or 16", w_rtn=True, w_bits=5),
    quarot("activations of 1 bit", "a_bits must be 2, 3, 4, 5, 6, 7, 8 or 16", a_bits=1),
    quarot("keys of 9 bits", "k_bits must be 2, 3, 4, 5, 6, 7, 8 or 16", k_bits=9),
    quarot("values of 12 bits", "v_bits must be 2, 3, 4, 5, 6, 7, 8 or 16", v_bits=12),
    quarot("scales of 3 bits", "s_bits must be 4, 5, 6, 7, 8 or 16", **ROUNDED, s_bits=3),
    quarot("a group of no weights", "w_groupsize must be greater than 0", **ROUNDED, w_groupsize=0),
    quarot("a group of no activations", "a_groupsize must be greater than 0", a_bits=4, a_groupsize=0),
    quarot("a group of no keys", "k_groupsize must be greater than 0", k_bits=4, k_groupsize=0),
    quarot("a group of no values", "v_groupsize must be greater than 0", v_bits=4, v_groupsize=0),
    quarot("both roundings", "w_rtn and w_gptq exclude each other", **SOLVED, w_rtn=True),
    quarot("no rounding", "w_bits is below 16 but nothing says how to round", w_bits=4),
    quarot("rounding to 16 bits", "w_rtn is set but w_bits is 16, which rounds nothing", w_rtn=True),
    quarot(
        "solving for 16 bits",
        "w_gptq is set but w_bits is 16, which rounds nothing",
        w_gptq=True,
        calibration_data_config="train",
    ),
    quarot("solving without data", "w_gptq needs calibration_data_config", w_gptq=True, w_bits=4),
    quarot(
        "text of nothing",
        "a pass names a calibration_data_config that is not in data_configs (train, test)",
        **{**SOLVED, "calibration_data_config": "tran"},
    ),
    quarot("nothing to do", "rotate is false and all bits are 16", rotate=False),
    without_effect("rotation_seed", "rotate: true", 1, rotate=False, **ROUNDED),
    without_effect("gptq_damping", "w_gptq: true", 0.1, **ROUNDED),
    without_effect("gptq_opt_scales", "w_gptq: true", True, **ROUNDED),
    without_effect("calibration_data_config", "w_gptq: true", "train", **ROUNDED),
    without_effect("calibration_nsamples", "w_gptq: true", 64, **ROUNDED),
    without_effect("seed", "w_gptq: true", 1),
    without_effect("w_asym", "w_bits below 16", True, a_bits=4),
    without_effect("w_groupsize", "w_bits below 16", 128),
    without_effect("s_bits", "w_bits below 16", 8),
    without_effect("a_asym", "a_bits below 16", True, **ROUNDED),
    without_effect("a_clip_ratio", "a_bits below 16", 0.9, **ROUNDED),
    without_effect("a_groupsize", "a_bits below 16", 128, **ROUNDED),
    without_effect("k_clip_ratio", "k_bits below 16", 0.95),
    without_effect("k_groupsize", "k_bits below 16", 64),
    without_effect("v_clip_ratio", "v_bits below 16", 0.95),
    without_effect("v_groupsize", "v_bits below 16", -1),
    without_effect("calibration_batch_size", "w_gptq: true", 1, **ROUNDED),
    quarot("QuaRot in double precision", "input_model_dtype fp64 is not supported", input_model_dtype="fp64"),
    quarot("a clip ratio of 0", "should be greater than 0", "greater than 0", a_bits=4, a_clip_ratio=0),
    quarot("GPTQ's damping", "damp_percent is not a parameter of QuaRot", damp_percent=0.1, **SOLVED),
    built("three passes", "a workflow is one of QuaRot, GptqQuantizer", GPTQ, BUILDER, BUILDER),
    built("four passes", "a workflow is one of QuaRot, GptqQuantizer", ROTATION, GPTQ, BUILDER, BUILDER),
    built("GPTQ twice", "a workflow is one of QuaRot, GptqQuantizer and AutoAWQQuantizer", GPTQ, GPTQ),
    built("two rotations", "a workflow is one of QuaRot, GptqQuantizer", ROTATION, ROTATION),
    built("a rotation and GPTQ twice", "a workflow is one of QuaRot", ROTATION, GPTQ, GPTQ),
    built(
        "a rotation after GPTQ",
        "QuaRot rotates the float model; put it before the GptqQuantizer",
        GPTQ,
        ROTATION,
    ),
    built("a rotation after AWQ", "AutoAWQQuantizer and QuaRot do not go together", AWQ, ROTATION),
    built("AWQ of a rotated model", "AutoAWQQuantizer and QuaRot do not go together", ROTATION, AWQ),
    built("a graph of that", "AutoAWQQuantizer and QuaRot do not go together", ROTATION, AWQ, BUILDER),
    built("weights rounded twice", "leave w_bits, w_rtn and w_gptq out of", {**ROTATION, **ROUNDED}, GPTQ),
    built("weights solved twice", "leave w_bits, w_rtn and w_gptq out of", {**ROTATION, **SOLVED}, GPTQ),
    *(
        built(
            f"{name} below 16 before GPTQ",
            "leave a_bits, k_bits and v_bits out of the QuaRot before it",
            {**ROTATION, name: 4},
            GPTQ,
        )
        for name in ("a_bits", "k_bits", "v_bits")
    ),
    built(
        "a rotation and the package's GPTQ",
        "implementation auto-gptq cannot rotate the model; write implementation: native",
        ROTATION,
        {**GPTQ, "implementation": "auto-gptq"},
    ),
    built(
        "a graph of a rotation and 3 bits",
        "ModelBuilder takes 2, 4 or 8 bits",
        ROTATION,
        {**GPTQ, "bits": 3},
        BUILDER,
    ),
    built(
        "a graph of a rotation and other blocks",
        "int4_block_size is not the group_size",
        ROTATION,
        GPTQ,
        {**BUILDER, "int4_block_size": 64},
    ),
    built("int4 of a rotation and 8 bits", "write precision: int8", ROTATION, {**GPTQ, "bits": 8}, BUILDER),
    built("the builder alone", "ModelBuilder is the step after GptqQuantizer or AutoAWQQuantizer", BUILDER),
    built("the builder twice", "ModelBuilder is the step after", BUILDER, BUILDER),
    built("the builder first", "ModelBuilder is the step after", BUILDER, GPTQ),
    built(
        "a graph of rotations",
        "ModelBuilder reads gptq and awq checkpoints, not QuaRot's; put a GptqQuantizer between the two",
        {"type": "QuaRot", **ROUNDED},
        BUILDER,
    ),
    built(
        "a graph of gptq_v2",
        "reads checkpoint_format gptq only",
        {**GPTQ, "checkpoint_format": "gptq_v2"},
        BUILDER,
    ),
    built(
        "a graph of compressed tensors",
        "reads checkpoint_format gptq only",
        {**GPTQ, "checkpoint_format": "compressed-tensors"},
        BUILDER,
    ),
    built("a graph of 3 bits", "ModelBuilder takes 2, 4 or 8 bits", {**GPTQ, "bits": 3}, BUILDER),
    built("a graph of act-order", "groups that lie one after another", {**GPTQ, "desc_act": True}, BUILDER),
    built("blocks of 96", "write one of them as group_size in", {**GPTQ, "group_size": 96}, BUILDER),
    built("blocks of a row", "write one of them as group_size in", {**GPTQ, "group_size": -1}, BUILDER),
    built("other blocks", "int4_block_size is not the group_size", GPTQ, {**BUILDER, "int4_block_size": 64}),
    built(
        "blocks other than the default",
        "int4_block_size is not the group_size",
        {"type": "GptqQuantizer", "data_config": "train"},
        {**BUILDER, "int4_block_size": 32},
    ),
    built("int4 of 8 bits", "write precision: int8", {**GPTQ, "bits": 8}, BUILDER),
    built("int8 of 4 bits", "write precision: int4", GPTQ, {**BUILDER, "precision": "int8"}),
    built("int8 of AWQ", "write precision: int4", AWQ, {**BUILDER, "precision": "int8"}),
    built("half a graph", "precision fp16 and fp32 are not possible", GPTQ, {**BUILDER, "precision": "fp16"}),
    built(
        "DirectML", "execution_provider must be cpu or cuda", AWQ, {**BUILDER, "execution_provider": "dml"}
    ),
    built(
        "a level of the GPU",
        "int4_accuracy_level is a choice of the CPU's kernel",
        GPTQ,
        {**BUILDER, "execution_provider": "cuda", "int4_accuracy_level": 1},
    ),
    built(
        "level 2",
        "int4_accuracy_level 2 and 3 are the same as 1",
        GPTQ,
        {**BUILDER, "int4_accuracy_level": 2},
    ),
    built(
        "a graph of AWQ in compressed-tensors",
        "ModelBuilder reads checkpoint_format awq only",
        {**AWQ, "checkpoint_format": "compressed-tensors"},
        BUILDER,
    ),
    built("a graph of gemv", "reads version gemm only", {**AWQ, "version": "gemv"}, BUILDER),
    built(
        "a graph of AWQ's rows", "write one of them as q_group_size in", {**AWQ, "q_group_size": -1}, BUILDER
    ),
    built("AWQ's other blocks", "not the q_group_size", AWQ, {**BUILDER, "int4_block_size": 64}),
    built("a graph of floats", "needs a quantized model", {**AWQ, "export_compatible": True}, BUILDER),
    built(
        "a graph of a part",
        "cannot leave single linears in float",
        {**AWQ, "modules_to_not_convert": ["down_proj"]},
        BUILDER,
    ),
    built(
        "a graph of the package's GPTQ",
        "write implementation: native in the pass before it",
        {**GPTQ, "implementation": "auto-gptq"},
        BUILDER,
    ),
    built(
        "a graph of the package's AWQ",
        "write implementation: native in the pass before it",
        {**AWQ, "implementation": "autoawq", "data_config": "train"},
        BUILDER,
    ),
    package(
        "autoawq of GPTQ",
        "autoawq does not compute GptqQuantizer; write auto-gptq",
        GPTQ,
        implementation="autoawq",
    ),
    package(
        "auto-gptq of AWQ",
        "auto-gptq does not compute AutoAWQQuantizer; write autoawq",
        AWQ,
        implementation="auto-gptq",
    ),
    package(
        "auto-gptq's format",
        "implementation auto-gptq writes checkpoint_format gptq only",
        GPTQ,
        implementation="auto-gptq",
        checkpoint_format="gptq_v2",
    ),
    package(
        "auto-gptq with experts",
        "implementation auto-gptq has no choice about experts",
        GPTQ,
        implementation="auto-gptq",
        experts={"few_tokens": "rtn"},
    ),
    package(
        "auto-gptq's data type",
        "implementation auto-gptq chooses its own data type",
        GPTQ,
        implementation="auto-gptq",
        calibration_dtype="bf16",
    ),
    package(
        "autoawq of a row",
        "implementation autoawq needs a q_group_size above 0",
        AWQ,
        implementation="autoawq",
        q_group_size=-1,
    ),
    package(
        "autoawq's gemv",
        "version gemm is the one that is read back",
        AWQ,
        implementation="autoawq",
        version="gemv",
    ),
    package(
        "autoawq in compressed-tensors",
        "implementation autoawq writes checkpoint_format awq only",
        AWQ,
        implementation="autoawq",
        checkpoint_format="compressed-tensors",
    ),
    package(
        "autoawq without zero points",
        "version gemm of implementation autoawq stores zero points",
        AWQ,
        implementation="autoawq",
        zero_point=False,
    ),
    package(
        "autoawq without data", "implementation autoawq calibrates on the text", AWQ, implementation="autoawq"
    ),
    package(
        "autoawq for ONNX",
        "pack_model_for_onnx_conversion is not a parameter of autoawq",
        AWQ,
        implementation="autoawq",
        data_config="train",
        pack_model_for_onnx_conversion=True,
    ),
)

WHOLE_VALID: dict[str, Changes] = {
    "QuaRot with nothing but its type": ((PASS, {"type": "QuaRot"}),),
    "QuaRot as in Olive's documentation": (
        (PASS, {"type": "QuaRot", "rotate": True, **ROUNDED, "a_bits": 4, "k_bits": 4, "v_bits": 4}),
    ),
    "every option of QuaRot": (
        (
            PASS,
            {
                "type": "QuaRot",
                **SOLVED,
                "input_model_dtype": "fp32",
                "calibration_nsamples": 64,
                "calibration_batch_size": 8,
                "seed": 1,
                "rotate": True,
                "rotation_seed": 3,
                "w_rtn": False,
                "gptq_damping": 0.05,
                "gptq_opt_scales": True,
                "w_asym": True,
                "w_groupsize": 32,
                "a_bits": 8,
                "a_asym": True,
                "a_clip_ratio": 0.9,
                "a_groupsize": 32,
                "k_bits": 5,
                "k_clip_ratio": 0.95,
                "k_groupsize": 16,
                "v_bits": 2,
                "v_clip_ratio": 1,
                "v_groupsize": -1,
                "s_bits": 6,
            },
        ),
    ),
    "QuaRot's rounding alone": ((PASS, {"type": "QuaRot", "rotate": False, **ROUNDED}),),
    "a rounded cache": ((PASS, {"type": "QuaRot", "v_bits": 4, "rotate": False}),),
    "a rotation, then GPTQ": (("workflow.passes", [ROTATION, GPTQ]),),
    "a rotation with each of its options, then GPTQ with each of its own": (
        (
            "workflow.passes",
            [
                {
                    **ROTATION,
                    "name": "rotation",
                    "input_model_dtype": "fp32",
                    "rotate": True,
                    "rotation_seed": 3,
                    "w_bits": 16,
                    "a_bits": 16,
                    "k_bits": 16,
                    "v_bits": 16,
                    "s_bits": 16,
                },
                {
                    **GPTQ,
                    "name": "rounding",
                    "bits": 3,
                    "group_size": -1,
                    "sym": True,
                    "desc_act": True,
                    "static_groups": True,
                    "true_sequential": True,
                    "damp_percent": 0.05,
                    "calibration_dtype": "bf16",
                    "checkpoint_format": "compressed-tensors",
                    "layers_block_name": "model.layers",
                    "outside_layer_modules": ["model.embed_tokens"],
                    "inside_layer_modules": [["mlp.up_proj", "mlp.gate_proj"], ["mlp.down_proj"]],
                    "implementation": "native",
                },
            ],
        ),
    ),
    "a graph of a rotation and GPTQ": (("workflow.passes", [ROTATION, GPTQ, BUILDER]),),
    "a graph of GPTQ": (("workflow.passes", [GPTQ, BUILDER]),),
    "a graph of 8 bits": (("workflow.passes", [{**GPTQ, "bits": 8}, {**BUILDER, "precision": "int8"}]),),
    "a graph of 2 bits in act-order": (
        ("workflow.passes", [{**GPTQ, "bits": 2, "desc_act": True, "static_groups": True}, BUILDER]),
    ),
    "a graph of AWQ, every option": (
        (
            "workflow.passes",
            [
                AWQ,
                {
                    **BUILDER,
                    "precision": "int4",
                    "int4_block_size": 128,
                    "int4_accuracy_level": 4,
                    "execution_provider": "cpu",
                },
            ],
        ),
    ),
    "a graph for a GPU": (("workflow.passes", [GPTQ, {**BUILDER, "execution_provider": "cuda"}]),),
    "GPTQ by the package": ((PASS, {**GPTQ, "implementation": "auto-gptq", "desc_act": True}),),
    "GPTQ by the package, of some linears": (
        (
            PASS,
            {
                **GPTQ,
                "implementation": "auto-gptq",
                "bits": 3,
                "group_size": -1,
                "sym": True,
                "inside_layer_modules": [["mlp.up_proj"]],
            },
        ),
    ),
    "AWQ by the package": ((PASS, {**AWQ, "implementation": "autoawq", "data_config": "train"}),),
    "AWQ by the package, its bits given twice": (
        (
            PASS,
            {
                **AWQ,
                "implementation": "autoawq",
                "data_config": "train",
                "w_bit": 4,
                "bits": 4,
                "duo_scaling": False,
                "input_model_dtype": "fp32",
            },
        ),
    ),
    "AWQ's scales by the package": (
        (
            PASS,
            {
                **AWQ,
                "implementation": "autoawq",
                "data_config": "train",
                "export_compatible": True,
                "zero_point": False,
            },
        ),
    ),
}
