"""Which passes may follow one another, and what each needs of the one before it.

    QuaRot | GptqQuantizer | AutoAWQQuantizer | QuaRot, GptqQuantizer       and a ModelBuilder behind the last three

Places in a workflow are counted as Python does: 0 is the first pass, -1 the last.
"""

from quantization_api.gptq_refusals import TARGET
from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer, ModelBuilder, PassBase, QuaRot
from quantization_api.quarot_refusals import FULL
from quantization_api.refusals import (
    Predicate,
    Refusal,
    Scope,
    among,
    below,
    equals,
    filled,
    is_true,
)

KNOWN_SEQUENCES = (
    "a workflow is one of QuaRot, GptqQuantizer and AutoAWQQuantizer, or a QuaRot and then a GptqQuantizer; "
    "a ModelBuilder may be the last pass; split other work into several jobs"
)
BLOCK_SIZES = (16, 32, 64, 128, 256)
"""Of MatMulNBits, in inputs."""


def _count_above(limit: int) -> Predicate:
    return Predicate(lambda _: f"(self.passes.size() > {limit})", lambda w: len(w.passes) > limit)


def _at(place: int) -> str:
    """A pass in CEL."""
    return f"self.passes[{place}]" if place >= 0 else f"self.passes[self.passes.size() - {-place}]"


def _type(place: int, *types: str) -> Predicate:
    """There is a pass at the place, and it is of one of the types."""
    names = ", ".join(f"'{name}'" for name in types)
    before = place if place >= 0 else -place - 1
    return _count_above(before) & Predicate(
        lambda _: f"{_at(place)}.type in [{names}]", lambda w: w.passes[place].type in types
    )


def _of(place: int, model: type[PassBase], predicate: Predicate) -> Predicate:
    """A predicate on the parameters of a pass whose type is known."""
    scope = Scope(_at(place), model)
    return Predicate(lambda _: predicate.cel(scope), lambda w: predicate.holds(w.passes[place]))


def _other_blocks(before: type[PassBase], group_size: str) -> Predicate:
    """int4_block_size is given and is not the group size of the pass before."""
    default = Scope("", before).default(group_size)
    size, blocks = f"{_at(-2)}.{group_size}", f"{_at(-1)}.int4_block_size"
    return Predicate(
        lambda _: f"(has({blocks}) && {blocks} != (has({size}) ? {size} : {default}))",
        lambda w: w.passes[-1].int4_block_size not in (None, getattr(w.passes[-2], group_size)),
    )


def _built_after(before: type[PassBase], group_size: str, *special: tuple[Predicate, str]) -> list[Refusal]:
    """What is refused of a ModelBuilder behind a pass of one type; `special`: predicates on that pass."""
    both = _type(-1, "ModelBuilder") & _type(-2, before.__name__)
    table = [
        *((_of(-2, before, predicate), sentence) for predicate, sentence in special),
        (
            _of(-2, before, ~among(group_size, BLOCK_SIZES)),
            f"ModelBuilder takes groups of 16, 32, 64, 128 or 256 inputs; write one of them as {group_size} in "
            f"the {before.__name__} before it",
        ),
        (
            _other_blocks(before, group_size),
            f"int4_block_size is not the {group_size} of the {before.__name__} before ModelBuilder, which the "
            "graph keeps; leave int4_block_size out",
        ),
        (
            _of(-2, before, ~equals("implementation", "native")),
            "ModelBuilder is not in the image of the stock packages; write implementation: native in the pass "
            "before it",
        ),
    ]
    return [Refusal("passes", both & predicate, sentence) for predicate, sentence in table]


def _precision(wanted: str) -> Predicate:
    return _of(-1, ModelBuilder, equals("precision", wanted))


ENDS_WITH_BUILDER = _type(-1, "ModelBuilder")
GPTQ_AND_BUILDER = ENDS_WITH_BUILDER & _type(-2, "GptqQuantizer")
AWQ_AND_BUILDER = ENDS_WITH_BUILDER & _type(-2, "AutoAWQQuantizer")
ROTATED_GPTQ = _type(0, "QuaRot") & _type(1, "GptqQuantizer")

ORDER: tuple[Refusal, ...] = (
    Refusal(
        "passes",
        (_type(0, "QuaRot") & _type(1, "AutoAWQQuantizer"))
        | (_type(0, "AutoAWQQuantizer") & _type(1, "QuaRot")),
        "AutoAWQQuantizer and QuaRot do not go together in this release; write a GptqQuantizer after QuaRot, "
        "or the AutoAWQQuantizer without QuaRot",
    ),
    Refusal(
        "passes",
        _type(0, "GptqQuantizer") & _type(1, "QuaRot"),
        "QuaRot rotates the float model; put it before the GptqQuantizer",
    ),
    Refusal(
        "passes",
        _type(0, "ModelBuilder"),
        "ModelBuilder is the step after GptqQuantizer or AutoAWQQuantizer; put one of them before it",
    ),
    Refusal(
        "passes",
        _count_above(3)
        | (_count_above(2) & ~(ROTATED_GPTQ & ENDS_WITH_BUILDER))
        | (_count_above(1) & ~ROTATED_GPTQ & ~ENDS_WITH_BUILDER),
        KNOWN_SEQUENCES,
    ),
    Refusal(
        "passes",
        ENDS_WITH_BUILDER & _type(-2, "QuaRot"),
        "ModelBuilder reads gptq and awq checkpoints, not QuaRot's; put a GptqQuantizer between the two",
    ),
)

ROTATION_BEFORE_GPTQ: tuple[Refusal, ...] = (
    Refusal(
        "passes",
        ROTATED_GPTQ & _of(0, QuaRot, below("w_bits", FULL)),
        "the GptqQuantizer after QuaRot rounds the weights; leave w_bits, w_rtn and w_gptq out of the QuaRot",
    ),
    Refusal(
        "passes",
        ROTATED_GPTQ & _of(0, QuaRot, below("a_bits", FULL) | below("k_bits", FULL) | below("v_bits", FULL)),
        "a GptqQuantizer writes an ordinary checkpoint, whose readers round neither activations nor the cache; leave "
        "a_bits, k_bits and v_bits out of the QuaRot before it, or leave the GptqQuantizer out and write "
        "w_gptq: true and w_bits in the QuaRot",
    ),
    Refusal(
        "passes",
        ROTATED_GPTQ & _of(1, GptqQuantizer, ~equals("implementation", "native")),
        "implementation auto-gptq cannot rotate the model; write implementation: native in the GptqQuantizer "
        "after QuaRot",
    ),
    Refusal(
        "passes",
        ROTATED_GPTQ & _of(1, GptqQuantizer, is_true("lm_head")),
        "a rotated head keeps its data type in this release; leave lm_head out of the GptqQuantizer, or leave the "
        "QuaRot out",
    ),
)

SEQUENCE: tuple[Refusal, ...] = (
    *ORDER,
    *ROTATION_BEFORE_GPTQ,
    *_built_after(
        GptqQuantizer,
        "group_size",
        (
            ~equals("checkpoint_format", "gptq"),
            "ModelBuilder reads checkpoint_format gptq only; write that in the GptqQuantizer before it",
        ),
        (
            TARGET,
            "ModelBuilder takes the same bits in all linears; write bits instead of a target in the "
            "GptqQuantizer before it",
        ),
        (
            is_true("lm_head"),
            "ModelBuilder takes the head in float only; leave lm_head out of the GptqQuantizer before it",
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
        GPTQ_AND_BUILDER & _of(-2, GptqQuantizer, equals("bits", 8)) & _precision("int4"),
        "precision int4 does not fit the 8 bits of the GptqQuantizer before ModelBuilder, which the graph "
        "keeps; write precision: int8",
    ),
    Refusal(
        "passes",
        (AWQ_AND_BUILDER | (GPTQ_AND_BUILDER & _of(-2, GptqQuantizer, among("bits", (2, 4)))))
        & _precision("int8"),
        "precision int8 does not fit the 2 or 4 bits of the pass before ModelBuilder, which the graph keeps; "
        "write precision: int4",
    ),
    *_built_after(
        AutoAWQQuantizer,
        "q_group_size",
        (
            ~equals("checkpoint_format", "awq"),
            "ModelBuilder reads checkpoint_format awq only; write that in the AutoAWQQuantizer before it",
        ),
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
