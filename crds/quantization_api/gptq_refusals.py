"""Combinations of GptqQuantizer's parameters that are refused, each with what to write instead."""

from quantization_api.refusals import Predicate, Refusal, changed, equals, given, is_true, must_be

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

BITS = (2, 3, 4, 8)
TARGET = given("target_bits") | given("target_size")
OTHER_BITS = Predicate(
    lambda scope: (
        f"(has({scope.path}.candidate_bits) && "
        f"!{scope.path}.candidate_bits.all(bits, bits in [{', '.join(map(str, BITS))}]))"
    ),
    lambda p: any(bits not in BITS for bits in p.candidate_bits or ()),
)
EMPTY_CANDIDATE = Predicate(
    lambda scope: f"(has({scope.path}.candidate_group_sizes) && 0 in {scope.path}.candidate_group_sizes)",
    lambda p: 0 in (p.candidate_group_sizes or ()),
)

GPTQ: tuple[Refusal, ...] = (
    must_be("bits", BITS),
    must_be("checkpoint_format", ("gptq", "gptq_v2", "compressed-tensors")),
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
    Refusal(
        "lm_head",
        is_true("lm_head") & given("inside_layer_modules"),
        "readers look for a quantized head only where all linears of the layers are quantized; leave lm_head or "
        "inside_layer_modules out",
    ),
    Refusal(
        "target_size",
        given("target_bits") & given("target_size"),
        "target_bits and target_size exclude each other; leave one of them out",
    ),
    Refusal(
        "bits",
        TARGET & changed("bits"),
        "with a target the bits of each linear are chosen; leave bits out, or write the bits to choose from as "
        "candidate_bits",
    ),
    Refusal(
        "group_size",
        given("candidate_group_sizes") & changed("group_size"),
        "candidate_group_sizes takes the place of group_size; leave group_size out",
    ),
    Refusal(
        "candidate_bits",
        ~TARGET & (given("candidate_bits") | given("candidate_group_sizes")),
        "candidate_bits and candidate_group_sizes have an effect only with a target; add target_bits or "
        "target_size, or write bits and group_size",
    ),
    Refusal("candidate_bits", OTHER_BITS, "candidate_bits must be some of 2, 3, 4 and 8"),
    Refusal(
        "candidate_group_sizes",
        EMPTY_CANDIDATE,
        "candidate_group_sizes has a 0; sizes are -1 (one group for each output channel) or greater than 0",
    ),
)

AUTO_GPTQ: tuple[Refusal, ...] = (
    Refusal(
        "implementation",
        equals("implementation", "auto-gptq") & TARGET,
        "implementation auto-gptq rounds all linears to the same bits; write implementation: native, or bits "
        "instead of a target",
    ),
    Refusal(
        "lm_head",
        equals("implementation", "auto-gptq") & is_true("lm_head"),
        "implementation auto-gptq leaves the head as it is; leave lm_head out, or write implementation native",
    ),
    Refusal(
        "checkpoint_format",
        equals("implementation", "auto-gptq") & ~equals("checkpoint_format", "gptq"),
        "implementation auto-gptq writes checkpoint_format gptq only; write gptq, or implementation native",
    ),
    Refusal(
        "experts",
        equals("implementation", "auto-gptq") & given("experts"),
        "implementation auto-gptq has no choice about experts; leave experts out, or write implementation native",
    ),
    Refusal(
        "calibration_dtype",
        equals("implementation", "auto-gptq") & ~equals("calibration_dtype", "auto"),
        "implementation auto-gptq chooses its own data type; leave calibration_dtype out, or write "
        "implementation native",
    ),
    Refusal(
        "refine",
        equals("implementation", "auto-gptq") & equals("refine", "best"),
        "implementation auto-gptq has no refinement; leave refine out, or write implementation native",
    ),
)
"""What the package itself cannot do."""
