"""Combinations of QuaRot's parameters that are refused, each with what to write instead."""

from quantization_api.refusals import Predicate, Refusal, below, changed, equals, given, is_true, must_be

FULL = 16
WEIGHT_BITS = (2, 3, 4, 8, FULL)
ONLINE_BITS = (2, 3, 4, 5, 6, 7, 8, FULL)
SCALE_BITS = (4, 5, 6, 7, 8, FULL)


def _rounded(name: str) -> Predicate:
    return below(name, FULL)


def _group_size(field: str, whole: str) -> Refusal:
    sentence = f"{field} must be greater than 0; -1, or leaving it out, is one group for a whole {whole}"
    return Refusal(field, equals(field, 0), sentence)


def _rounds_nothing(field: str) -> Refusal:
    return Refusal(
        field,
        is_true(field) & ~_rounded("w_bits"),
        f"{field} is set but w_bits is 16, which rounds nothing; set w_bits to 2, 3, 4 or 8, or leave {field} out",
    )


def _without_effect(is_read: Predicate, needed: str, *fields: str) -> tuple[Refusal, ...]:
    """Parameters that differ from their defaults although nothing reads them."""
    return tuple(
        Refusal(
            field,
            ~is_read & changed(field),
            f"{field} has an effect only with {needed}; add that, or leave {field} out",
        )
        for field in fields
    )


QUAROT: tuple[Refusal, ...] = (
    Refusal(
        "refine",
        equals("refine", "best"),
        "only GptqQuantizer fits whole layers; write refine: standard, or QuaRot without w_gptq and a GptqQuantizer "
        "with refine: best after it",
    ),
    must_be("checkpoint_format", ("gptq", "compressed-tensors")),
    must_be("w_bits", WEIGHT_BITS),
    must_be("a_bits", ONLINE_BITS),
    must_be("k_bits", ONLINE_BITS),
    must_be("v_bits", ONLINE_BITS),
    must_be("s_bits", SCALE_BITS),
    _group_size("w_groupsize", "row"),
    _group_size("a_groupsize", "token"),
    _group_size("k_groupsize", "head of a token"),
    _group_size("v_groupsize", "head of a token"),
    Refusal(
        "w_gptq",
        is_true("w_rtn") & is_true("w_gptq"),
        "w_rtn and w_gptq exclude each other; leave one of them out",
    ),
    Refusal(
        "w_bits",
        _rounded("w_bits") & ~is_true("w_rtn") & ~is_true("w_gptq"),
        "w_bits is below 16 but nothing says how to round; add w_rtn: true, or w_gptq: true with "
        "calibration_data_config",
    ),
    _rounds_nothing("w_rtn"),
    _rounds_nothing("w_gptq"),
    Refusal(
        "w_gptq",
        is_true("w_gptq") & ~given("calibration_data_config"),
        "w_gptq needs calibration_data_config, the name of a data config; or use w_rtn, which needs no data",
    ),
    Refusal(
        "rotate",
        ~is_true("rotate")
        & ~(_rounded("w_bits") | _rounded("a_bits") | _rounded("k_bits") | _rounded("v_bits")),
        "rotate is false and all bits are 16, so nothing would be done; set rotate: true or fewer bits",
    ),
    *_without_effect(is_true("rotate"), "rotate: true", "rotation_seed"),
    *_without_effect(
        is_true("w_gptq"),
        "w_gptq: true",
        "refine",
        "experts",
        "gptq_damping",
        "gptq_opt_scales",
        "calibration_data_config",
        "calibration_nsamples",
        "calibration_batch_size",
        "seed",
    ),
    *_without_effect(
        _rounded("w_bits"), "w_bits below 16", "w_asym", "w_groupsize", "s_bits", "checkpoint_format"
    ),
    Refusal(
        "checkpoint_format",
        changed("checkpoint_format")
        & (_rounded("a_bits") | _rounded("k_bits") | _rounded("v_bits") | _rounded("s_bits")),
        "with a_bits, k_bits, v_bits or s_bits below 16 the artifact has a format of its own; leave "
        "checkpoint_format out, or set these to 16",
    ),
    *_without_effect(_rounded("a_bits"), "a_bits below 16", "a_asym", "a_clip_ratio", "a_groupsize"),
    *_without_effect(_rounded("k_bits"), "k_bits below 16", "k_clip_ratio", "k_groupsize"),
    *_without_effect(_rounded("v_bits"), "v_bits below 16", "v_clip_ratio", "v_groupsize"),
    Refusal(
        "input_model_dtype",
        equals("input_model_dtype", "fp64"),
        "input_model_dtype fp64 is not supported: the artifact is stored in at most 32 bits; write fp32, bf16 or fp16",
    ),
)
