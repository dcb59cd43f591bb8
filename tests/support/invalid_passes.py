"""Passes that must be refused."""

from typing import Any

from tests.support.invalid import Invalid, bad
from tests.support.manifests import NOT_RUN, PASS, REMOVED, VALID


def awq(name: str, server: str, client: str | None = "", **parameters: Any) -> Invalid:
    """An AutoAWQQuantizer that must be refused."""
    return bad(name, PASS, {"type": "AutoAWQQuantizer", **parameters}, server, client)


INVALID_PASSES: tuple[Invalid, ...] = (
    bad("unknown field", f"{PASS}.group_sise", 32, 'unknown field "spec.workflow.passes[0].group_sise"'),
    bad(
        "AWQ's bits on GPTQ",
        f"{PASS}.w_bit",
        4,
        "w_bit is not a parameter of GptqQuantizer; it belongs to AutoAWQQuantizer; did you mean bits?",
    ),
    bad(
        "AWQ's group size on GPTQ",
        f"{PASS}.q_group_size",
        64,
        "q_group_size is not a parameter of GptqQuantizer; it belongs to AutoAWQQuantizer; did you mean group_size?",
    ),
    bad(
        "QuaRot's damping on GPTQ",
        f"{PASS}.gptq_damping",
        0.1,
        "gptq_damping is not a parameter of GptqQuantizer; it belongs to QuaRot; did you mean damp_percent?",
    ),
    bad(
        "QuaRot's rotation on GPTQ",
        f"{PASS}.rotate",
        True,
        "rotate is not a parameter of GptqQuantizer; it belongs to QuaRot",
    ),
    bad(
        "an unknown policy for experts",
        f"{PASS}.experts",
        {"few_tokens": "skip"},
        'Unsupported value: "skip"',
        "experts.few_tokens",
    ),
    bad(
        "a policy that is no object",
        f"{PASS}.experts",
        "rtn",
        "must be of type object",
        "experts",
    ),
    bad(
        "an unknown field of experts",
        f"{PASS}.experts",
        {"few_token": "rtn"},
        'unknown field "spec.workflow.passes[0].experts.few_token"',
    ),
    awq(
        "autoawq with experts",
        "implementation autoawq has no choice about experts",
        implementation="autoawq",
        data_config="train",
        experts={"few_tokens": "rtn"},
    ),
    bad(
        "experts of a rotation that rounds to nearest",
        PASS,
        {"type": "QuaRot", "w_rtn": True, "w_bits": 4, "experts": {"few_tokens": "all"}},
        "experts has an effect only with w_gptq: true",
    ),
    bad("5 bits", f"{PASS}.bits", 5, "bits must be 2, 3, 4 or 8"),
    bad("16 bits", f"{PASS}.bits", 16, "bits must be 2, 3, 4 or 8"),
    bad(
        "bits as a string",
        f"{PASS}.bits",
        "int4",
        'must be of type integer: "string"',
        "must be a whole number",
    ),
    bad(
        "group size 0",
        f"{PASS}.group_size",
        0,
        "group_size is -1 (one group for each output channel) or greater",
    ),
    bad("group size -2", f"{PASS}.group_size", -2, "greater than or equal to -1"),
    bad("no damping", f"{PASS}.damp_percent", 0, "should be greater than 0", "greater than 0"),
    bad("damping of 1", f"{PASS}.damp_percent", 1, "should be less than 1", "less than 1"),
    Invalid(
        "the stock auto-gptq refined",
        ((f"{PASS}.implementation", "auto-gptq"), (f"{PASS}.refine", "best")),
        "implementation auto-gptq has no refinement; leave refine out, or write implementation native",
    ),
    awq("AWQ that fits whole layers", "only GptqQuantizer fits whole layers", refine="best"),
    bad(
        "a format for activations of few bits",
        PASS,
        {
            "type": "QuaRot",
            "w_rtn": True,
            "w_bits": 4,
            "a_bits": 4,
            "checkpoint_format": "compressed-tensors",
        },
        "the artifact has a format of its own; leave checkpoint_format out",
    ),
    awq(
        "AWQ in GPTQ's format",
        "checkpoint_format must be awq or compressed-tensors",
        checkpoint_format="gptq",
    ),
    bad(
        "GPTQ in AWQ's format",
        f"{PASS}.checkpoint_format",
        "awq",
        "checkpoint_format must be gptq, gptq_v2 or compressed-tensors",
    ),
    bad(
        "QuaRot in AWQ's format",
        PASS,
        {"type": "QuaRot", "w_rtn": True, "w_bits": 4, "checkpoint_format": "gptq_v2"},
        "checkpoint_format must be gptq or compressed-tensors",
    ),
    bad(
        "a format of a rotation alone",
        PASS,
        {"type": "QuaRot", "checkpoint_format": "compressed-tensors"},
        "checkpoint_format has an effect only with w_bits below 16",
    ),
    bad(
        "QuaRot that fits whole layers",
        PASS,
        {"type": "QuaRot", "w_gptq": True, "w_bits": 4, "calibration_data_config": "text", "refine": "best"},
        "only GptqQuantizer fits whole layers",
    ),
    bad(
        "nothing to refine",
        PASS,
        {"type": "QuaRot", "refine": "none"},
        "refine has an effect only with w_gptq: true",
    ),
    awq(
        "nothing rounded, but refined",
        "export_compatible rounds nothing, so there is nothing to refine; leave one of the two out",
        export_compatible=True,
        refine="standard",
    ),
    awq(
        "the stock autoawq refined",
        "implementation autoawq rounds to nearest; leave refine out, or write implementation native",
        implementation="autoawq",
        refine="standard",
        data_config="text",
    ),
    bad("no inner modules", f"{PASS}.inside_layer_modules", [], "inside_layer_modules has a list without"),
    bad(
        "an empty stage",
        f"{PASS}.inside_layer_modules",
        [["a"], []],
        "inside_layer_modules has a list without",
    ),
    bad("a module with a space", f"{PASS}.layers_block_name", "model layers", "should match", "must match"),
    Invalid(
        "act-order without a group index",
        ((f"{PASS}.checkpoint_format", "compressed-tensors"), (f"{PASS}.desc_act", True)),
        "compressed-tensors has no group index; with desc_act write static_groups: true",
    ),
    bad(
        "unknown checkpoint format",
        f"{PASS}.checkpoint_format",
        "gguf",
        "Unsupported value",
        "must be 'gptq'",
    ),
    awq("3 bits of AWQ", "the awq format holds 4 bits only; write w_bit: 4", w_bit=3),
    awq("8 bits of AWQ", "the awq format holds 4 bits only; write bits: 4", bits=8),
    awq(
        "5 bits of AWQ",
        "w_bit must be 2, 3, 4 or 8",
        w_bit=5,
        checkpoint_format="compressed-tensors",
    ),
    awq(
        "a layout of compressed-tensors",
        "version is a layout of the awq format",
        version="gemv",
        checkpoint_format="compressed-tensors",
    ),
    awq(
        "a group of nothing",
        "q_group_size is -1 (one group for each output channel) or greater than 0",
        q_group_size=0,
        checkpoint_format="compressed-tensors",
    ),
    awq(
        "a format of nothing",
        "with export_compatible nothing is packed, so checkpoint_format has no effect",
        export_compatible=True,
        checkpoint_format="compressed-tensors",
    ),
    awq(
        "ONNX of compressed-tensors",
        "only checkpoint_format awq in version gemm",
        pack_model_for_onnx_conversion=True,
        checkpoint_format="compressed-tensors",
    ),
    awq("AWQ's bits twice", "w_bit and bits are two names of one number", w_bit=4, bits=8),
    awq("groups of 96 in gemm", "version gemm takes q_group_size -1, 16, 32, 64 or 128", q_group_size=96),
    awq("AWQ's group size 0", "version gemm takes q_group_size -1, 16, 32, 64 or 128", q_group_size=0),
    awq("groups of 32 in gemv", "version gemv takes q_group_size 64 or 128", version="gemv", q_group_size=32),
    awq(
        "groups of 64 in gemv_fast", "gemv_fast takes q_group_size 128", version="gemv_fast", q_group_size=64
    ),
    awq(
        "groups of 64 in marlin",
        "version marlin takes q_group_size 128",
        version="marlin",
        zero_point=False,
        q_group_size=64,
    ),
    awq("symmetric gemv", "gemv and gemv_fast need zero_point: true", version="gemv", zero_point=False),
    awq("symmetric gemv_fast", "gemv and gemv_fast need zero_point", version="gemv_fast", zero_point=False),
    awq("marlin as it stands", "version marlin has no zero points", version="marlin"),
    awq("unknown layout", "Unsupported value", "must be 'gemm'", version="exllama"),
    awq(
        "bfloat16 of autoawq",
        "implementation autoawq computes in float16 or float32",
        implementation="autoawq",
        data_config="calibration",
        input_model_dtype="bf16",
    ),
    awq("double precision", "input_model_dtype fp64 is not supported", input_model_dtype="fp64"),
    awq("a layout of nothing", "version has no effect", export_compatible=True, version="gemv"),
    awq("ONNX of gemv", "can be converted to ONNX", pack_model_for_onnx_conversion=True, version="gemv"),
    awq("ONNX of a row", "can be converted to ONNX", pack_model_for_onnx_conversion=True, q_group_size=-1),
    awq("symmetric ONNX", "can be converted to ONNX", pack_model_for_onnx_conversion=True, zero_point=False),
    awq(
        "ONNX of floats",
        "can be converted to ONNX",
        pack_model_for_onnx_conversion=True,
        export_compatible=True,
    ),
    awq(
        "ONNX of a part",
        "cannot leave single linears in float",
        pack_model_for_onnx_conversion=True,
        modules_to_not_convert=["down_proj"],
    ),
    awq("GPTQ's bits on AWQ", "group_size is not a parameter of AutoAWQQuantizer", group_size=64),
    awq("AWQ's data of nothing", "a pass names a data_config that is not", data_config="tran"),
    bad("unknown pass", f"{PASS}.type", "Gptq", "Unsupported value", "type must be one of"),
    bad("pass of another case", f"{PASS}.type", "gptqquantizer", "Unsupported value", "type must be one of"),
    bad(
        "pass without calibration",
        f"{PASS}.data_config",
        REMOVED,
        "GptqQuantizer needs data_config",
        "Field required",
    ),
    bad(
        "data_config of nothing",
        f"{PASS}.data_config",
        "tran",
        "a pass names a data_config that is not in data_configs (train, test)",
        "a pass names a data_config that is not in data_configs (train, test); did you mean train?",
    ),
    bad("script of a pass", f"{PASS}.user_script", "x.py", NOT_RUN),
    bad(
        "two passes",
        "workflow.passes",
        [VALID["spec"]["workflow"]["passes"][0]] * 2,
        "a workflow is one of QuaRot, GptqQuantizer and AutoAWQQuantizer",
    ),
    bad("no pass", "workflow.passes", [], "should have at least 1 items", "at least 1 item"),
)
"""Of passes."""
