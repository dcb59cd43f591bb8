"""Which passes may follow one another, and what ModelBuilder needs of the pass before it."""

from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer, ModelBuilder, PassBase
from quantization_api.refusals import (
    Predicate,
    Refusal,
    Scope,
    among,
    equals,
    filled,
    is_true,
)

ONE_AND_BUILDER = (
    "a workflow is one pass, or two of which the second is a ModelBuilder; split other work into several jobs"
)
BLOCK_SIZES = (16, 32, 64, 128, 256)
"""Of MatMulNBits, in inputs."""


def _count_above(limit: int) -> Predicate:
    return Predicate(lambda _: f"(self.passes.size() > {limit})", lambda w: len(w.passes) > limit)


def _type(index: int, *types: str) -> Predicate:
    """There is a pass at the index, and it is of one of the types."""
    names = ", ".join(f"'{name}'" for name in types)
    return _count_above(index) & Predicate(
        lambda _: f"self.passes[{index}].type in [{names}]", lambda w: w.passes[index].type in types
    )


def _of(index: int, model: type[PassBase], predicate: Predicate) -> Predicate:
    """A predicate on the parameters of a pass whose type is known."""
    scope = Scope(f"self.passes[{index}]", model)
    return Predicate(lambda _: predicate.cel(scope), lambda w: predicate.holds(w.passes[index]))


def _other_blocks(before: type[PassBase], group_size: str) -> Predicate:
    """int4_block_size is given and is not the group size of the pass before."""
    default = Scope("", before).default(group_size)
    return Predicate(
        lambda _: (
            "(has(self.passes[1].int4_block_size) && self.passes[1].int4_block_size != "
            f"(has(self.passes[0].{group_size}) ? self.passes[0].{group_size} : {default}))"
        ),
        lambda w: w.passes[1].int4_block_size not in (None, getattr(w.passes[0], group_size)),
    )


def _built_after(before: type[PassBase], group_size: str, *special: tuple[Predicate, str]) -> list[Refusal]:
    """What is refused of a ModelBuilder behind a pass of one type; `special`: predicates on that pass."""
    both = _type(1, "ModelBuilder") & _type(0, before.__name__)
    table = [
        *((_of(0, before, predicate), sentence) for predicate, sentence in special),
        (
            _of(0, before, ~among(group_size, BLOCK_SIZES)),
            f"ModelBuilder takes groups of 16, 32, 64, 128 or 256 inputs; write one of them as {group_size} in "
            f"the {before.__name__} before it",
        ),
        (
            _other_blocks(before, group_size),
            f"int4_block_size is not the {group_size} of the {before.__name__} before ModelBuilder, which the "
            "graph keeps; leave int4_block_size out",
        ),
        (
            _of(0, before, ~equals("implementation", "native")),
            "ModelBuilder is not in the image of the stock packages; write implementation: native in the pass "
            "before it",
        ),
    ]
    return [Refusal("passes", both & predicate, sentence) for predicate, sentence in table]


def _precision(wanted: str) -> Predicate:
    return _of(1, ModelBuilder, equals("precision", wanted))


GPTQ_AND_BUILDER = _type(1, "ModelBuilder") & _type(0, "GptqQuantizer")
AWQ_AND_BUILDER = _type(1, "ModelBuilder") & _type(0, "AutoAWQQuantizer")

SEQUENCE: tuple[Refusal, ...] = (
    Refusal("passes", _count_above(2) | (_count_above(1) & ~_type(1, "ModelBuilder")), ONE_AND_BUILDER),
    Refusal(
        "passes",
        _type(0, "ModelBuilder"),
        "ModelBuilder is the step after GptqQuantizer or AutoAWQQuantizer; put one of them before it",
    ),
    Refusal(
        "passes",
        _type(1, "ModelBuilder") & _type(0, "QuaRot"),
        "ModelBuilder reads gptq and awq checkpoints, not QuaRot's; put a GptqQuantizer or an "
        "AutoAWQQuantizer before it",
    ),
    *_built_after(
        GptqQuantizer,
        "group_size",
        (
            ~equals("checkpoint_format", "gptq"),
            "ModelBuilder reads checkpoint_format gptq only; write that in the GptqQuantizer before it",
        ),
        (
            equals("bits", 3),
            "ModelBuilder takes 2, 4 or 8 bits; write one of them in the GptqQuantizer before it",
        ),
        (
            is_true("desc_act") & ~is_true("static_groups"),
            "ModelBuilder needs groups that lie one after another; write static_groups: true beside "
            "desc_act: true in the GptqQuantizer before it",
        ),
    ),
    Refusal(
        "passes",
        GPTQ_AND_BUILDER & _of(0, GptqQuantizer, equals("bits", 8)) & _precision("int4"),
        "precision int4 does not fit the 8 bits of the GptqQuantizer before ModelBuilder, which the graph "
        "keeps; write precision: int8",
    ),
    Refusal(
        "passes",
        (AWQ_AND_BUILDER | (GPTQ_AND_BUILDER & _of(0, GptqQuantizer, among("bits", (2, 4)))))
        & _precision("int8"),
        "precision int8 does not fit the 2 or 4 bits of the pass before ModelBuilder, which the graph keeps; "
        "write precision: int4",
    ),
    *_built_after(
        AutoAWQQuantizer,
        "q_group_size",
        (
            ~equals("version", "gemm"),
            "ModelBuilder reads version gemm only; write that in the AutoAWQQuantizer before it",
        ),
        (
            is_true("export_compatible"),
            "ModelBuilder needs a quantized model; leave export_compatible out of the AutoAWQQuantizer before it",
        ),
        (
            filled("modules_to_not_convert"),
            "ModelBuilder cannot leave single linears in float; leave modules_to_not_convert out of the "
            "AutoAWQQuantizer before it",
        ),
    ),
)

ALONE = "(self.passes.size() == 1 && self.passes[0].type != 'ModelBuilder')"
"""Of which nothing is refused: most workflows."""
