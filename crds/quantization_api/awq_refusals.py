"""Combinations of AutoAWQQuantizer's parameters that are refused, each with what to write instead."""

from quantization_api.refusals import (
    Predicate,
    Refusal,
    among,
    below,
    changed,
    equals,
    filled,
    given,
    is_true,
    must_be,
)

COMPRESSED = equals("checkpoint_format", "compressed-tensors")
BITS = (2, 3, 4, 8)
TWO_BITS = (
    given("w_bit")
    & given("bits")
    & Predicate(lambda scope: f"{scope.path}.w_bit != {scope.path}.bits", lambda p: p.w_bit != p.bits)
)


def _groups(version: str, sizes: tuple[int, ...], sentence: str) -> Refusal:
    """The group sizes that one of AutoAWQ's layouts holds."""
    held = ~COMPRESSED & equals("version", version)
    return Refusal("q_group_size", held & ~among("q_group_size", sizes), sentence)


def _widths(name: str) -> tuple[Refusal, ...]:
    """The bits that each format holds, by either of their names."""
    return (
        Refusal(
            name,
            ~COMPRESSED & given(name) & ~equals(name, 4),
            f"the awq format holds 4 bits only; write {name}: 4, or checkpoint_format: compressed-tensors",
        ),
        Refusal(
            name,
            COMPRESSED & given(name) & ~among(name, BITS),
            f"{name} must be 2, 3, 4 or 8",
        ),
    )


AWQ: tuple[Refusal, ...] = (
    Refusal(
        "refine",
        equals("refine", "best"),
        "only GptqQuantizer fits whole layers; write refine: standard, or none",
    ),
    must_be("checkpoint_format", ("awq", "compressed-tensors")),
    Refusal("bits", TWO_BITS, "w_bit and bits are two names of one number; write one of them"),
    *(refusal for name in ("w_bit", "bits") for refusal in _widths(name)),
    Refusal(
        "version",
        is_true("export_compatible") & changed("version"),
        "with export_compatible nothing is packed, so version has no effect; leave one of them out",
    ),
    Refusal(
        "checkpoint_format",
        is_true("export_compatible") & COMPRESSED,
        "with export_compatible nothing is packed, so checkpoint_format has no effect; leave one of them out",
    ),
    Refusal(
        "version",
        COMPRESSED & changed("version"),
        "version is a layout of the awq format; leave it out, or write checkpoint_format: awq",
    ),
    Refusal(
        "q_group_size",
        COMPRESSED & equals("q_group_size", 0),
        "q_group_size is -1 (one group for each output channel) or greater than 0",
    ),
    _groups(
        "gemm",
        (-1, 16, 32, 64, 128),
        "version gemm takes q_group_size -1, 16, 32, 64 or 128; write one of them, or "
        "checkpoint_format: compressed-tensors",
    ),
    _groups(
        "gemv",
        (64, 128),
        "version gemv takes q_group_size 64 or 128 (its kernel has no other); "
        "write one of them, or version: gemm",
    ),
    _groups(
        "gemv_fast",
        (128,),
        "version gemv_fast takes q_group_size 128 (its kernel has no other); write 128, or version: gemm",
    ),
    _groups("marlin", (128,), "version marlin takes q_group_size 128; write 128, or version: gemm"),
    Refusal(
        "zero_point",
        among("version", ("gemv", "gemv_fast")) & ~is_true("zero_point"),
        "versions gemv and gemv_fast need zero_point: true; write that, or version: gemm or marlin",
    ),
    Refusal(
        "version",
        equals("version", "marlin") & is_true("zero_point"),
        "version marlin has no zero points; write zero_point: false, or version: gemm",
    ),
    Refusal(
        "pack_model_for_onnx_conversion",
        is_true("pack_model_for_onnx_conversion")
        & (
            ~equals("version", "gemm")
            | ~is_true("zero_point")
            | below("q_group_size", 1)
            | is_true("export_compatible")
            | COMPRESSED
        ),
        "only checkpoint_format awq in version gemm with zero_point: true, a q_group_size greater than 0 and without "
        "export_compatible can be converted to ONNX; write these, or leave pack_model_for_onnx_conversion out",
    ),
    Refusal(
        "pack_model_for_onnx_conversion",
        is_true("pack_model_for_onnx_conversion") & filled("modules_to_not_convert"),
        "the conversion to ONNX cannot leave single linears in float; leave modules_to_not_convert or "
        "pack_model_for_onnx_conversion out",
    ),
    Refusal(
        "input_model_dtype",
        equals("input_model_dtype", "fp64"),
        "input_model_dtype fp64 is not supported: weights are computed in float32; write fp32, bf16 or fp16",
    ),
    Refusal(
        "refine",
        equals("refine", "standard") & is_true("export_compatible"),
        "export_compatible rounds nothing, so there is nothing to refine; leave one of the two out",
    ),
)

PACKAGE = equals("implementation", "autoawq")
AUTOAWQ: tuple[Refusal, ...] = (
    Refusal(
        "input_model_dtype",
        PACKAGE & equals("input_model_dtype", "bf16"),
        "implementation autoawq computes in float16 or float32; write fp16 or fp32, or leave input_model_dtype out",
    ),
    Refusal(
        "q_group_size",
        PACKAGE & below("q_group_size", 1),
        "implementation autoawq needs a q_group_size above 0 that divides the inputs of every linear: "
        "its scale search has no row-wide group; write for example 128",
    ),
    Refusal(
        "version",
        PACKAGE & ~equals("version", "gemm"),
        "with implementation autoawq, version gemm is the one that is read back and verified before it is "
        "published; write gemm, or leave it out",
    ),
    Refusal(
        "checkpoint_format",
        PACKAGE & COMPRESSED,
        "implementation autoawq writes checkpoint_format awq only; write awq, or implementation native",
    ),
    Refusal(
        "zero_point",
        PACKAGE & ~is_true("zero_point") & ~is_true("export_compatible"),
        "version gemm of implementation autoawq stores zero points; write zero_point: true, or leave it out",
    ),
    Refusal(
        "experts",
        PACKAGE & given("experts"),
        "implementation autoawq has no choice about experts; leave experts out, or write implementation native",
    ),
    Refusal(
        "data_config",
        PACKAGE & ~given("data_config"),
        "implementation autoawq calibrates on the text of data_config; without one the package would fetch "
        "a data set of its own choice from the internet; name a data config",
    ),
    Refusal(
        "pack_model_for_onnx_conversion",
        PACKAGE & is_true("pack_model_for_onnx_conversion"),
        "pack_model_for_onnx_conversion is not a parameter of autoawq 0.2.9; leave it out",
    ),
    Refusal(
        "refine",
        PACKAGE & equals("refine", "standard"),
        "implementation autoawq rounds to nearest; leave refine out, or write implementation native",
    ),
)
"""What the package itself cannot do."""
