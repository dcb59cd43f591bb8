"""Combinations of GptqQuantizer's parameters that are refused, each with what to write instead."""

from quantization_api.refusals import Predicate, Refusal, equals, is_true, must_be

COMPRESSED = equals("checkpoint_format", "compressed-tensors")
EMPTY_GROUP = Predicate(
    lambda scope: (
        f"(has({scope.path}.inside_layer_modules) && "
        f"{scope.path}.inside_layer_modules.exists(names, names.size() == 0))"
    ),
    lambda p: any(not names for names in p.inside_layer_modules or ()),
)
NO_LINEAR = Predicate(
    lambda scope: (
        f"(has({scope.path}.inside_layer_modules) && {scope.path}.inside_layer_modules.size() == 0)"
    ),
    lambda p: p.inside_layer_modules == [],
)

GPTQ: tuple[Refusal, ...] = (
    must_be("bits", (2, 3, 4, 8)),
    Refusal(
        "group_size",
        equals("group_size", 0),
        "group_size is -1 (one group for each output channel) or greater than 0",
    ),
    Refusal(
        "checkpoint_format",
        COMPRESSED & is_true("desc_act") & ~is_true("static_groups") & ~equals("group_size", -1),
        "compressed-tensors has no group index; with desc_act write static_groups: true, "
        "or checkpoint_format: gptq",
    ),
    Refusal(
        "inside_layer_modules",
        NO_LINEAR | EMPTY_GROUP,
        "inside_layer_modules has a list without a linear; name the linears of a layer in execution order, "
        "or leave it out",
    ),
)

AUTO_GPTQ: tuple[Refusal, ...] = (
    Refusal(
        "checkpoint_format",
        equals("implementation", "auto-gptq") & ~equals("checkpoint_format", "gptq"),
        "implementation auto-gptq writes checkpoint_format gptq only; write gptq, or implementation native",
    ),
    Refusal(
        "calibration_dtype",
        equals("implementation", "auto-gptq") & ~equals("calibration_dtype", "auto"),
        "implementation auto-gptq chooses its own data type; leave calibration_dtype out, or write "
        "implementation native",
    ),
)
"""What the package itself cannot do."""
