"""Which software reads what was written, as it is.

A row of the table is a claim: it names the architectures that a reader takes in a layout, and what the claim rests on.
An architecture that no row names is read by nobody, so another entry in decoder.families claims nothing. What follows
from how an architecture is built (its linears, its experts) only ever narrows what a row names.
What the model builder takes is decided in export.plan, which asks it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from quantization_api.manifest import LinearReport
from quantization_api.sequence_refusals import BLOCK_SIZES
from quantizer.algorithms.quarot.parameters import OWN_CODE_TYPES
from quantizer.decoder.families import ARCHITECTURES
from quantizer.export.plan import BITS, MODEL_TYPES
from quantizer.passes.weight_pass import WeightPass
from quantizer.passes.written import Written, schemes_of

ALL_BITS = (2, 3, 4, 8)
SERVER_GROUPS = (-1, 32, 64, 128)
TORCH_GROUPS = (-1, 16, 32, 64, 128, 256, 512, 1024)
AWQ_GROUPS = (-1, 16, 32, 64, 128)
BOTH, SYMMETRIC, ASYMMETRIC = (True, False), (True,), (False,)
SERVERS = ("vLLM", "SGLang")
NATURAL_GROUPS = "desc_act: false, or static_groups: true beside it"
MOST_LAYERS = 256
"""Names of linears to be left out may be of one layer; no model of the table has more of them."""
BUILDER, AUTOAWQ = "onnxruntime-genai model builder", "AutoAWQ 0.2.9 (on a GPU)"
OPTIMUM = "transformers (with optimum and gptqmodel)"
COMPRESSED = "transformers (with compressed-tensors)"
DEQUANTIZED = "transformers (with compressed-tensors and dequantize=True)"

EXPERTS = frozenset(name for name, known in ARCHITECTURES.items() if known.experts)
SCALED = frozenset(name for name, known in ARCHITECTURES.items() if known.scaled_activation)
"""AWQ files of these have scales of an activation, which the servers' modules do not have."""
NAMED_TYPES = frozenset({"gptj", "granite", "phi", "stablelm", "starcoder2"})
"""Types outside the table of architectures, quantized by the names of their modules, that readers were tried with."""

MORE_THAN_TEXT = frozenset({"gemma3", "llava", "qwen2_5_vl"})
"""Types that take images beside text, whose decoder of text is quantized, that a reader was tried with."""

LLAMA = frozenset({"llama"})
FLOAT = frozenset(
    {
        "bloom", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "mixtral", "olmoe", "opt", "phi3",
        "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
    }
)  # fmt: skip
"""What transformers loads in float: whatever the decoder was compared with it on."""
TRANSFORMERS = (
    frozenset(
        {
            "bloom", "gemma2", "gemma3_text", "gpt_neox", "llama", "mistral", "mixtral", "olmoe", "opt", "phi3",
            "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
        }
    )
    | NAMED_TYPES
)  # fmt: skip
"""Without GPT-2, whose linears are no nn.Linear in transformers, which then replaces none of them."""
ONE_BY_ONE = TRANSFORMERS - EXPERTS
"""transformers 5 fuses the experts of a layer; unpacked they fit in, quantized ones are left out without an error."""
GPTQMODEL = frozenset(
    {"bloom", "gemma2", "gemma3_text", "gpt2", "llama", "mistral", "olmoe", "opt", "qwen2", "qwen3"}
)
"""Its own loader looks for most experts, and for Phi-3's gate and up, under other names, and drops GPT-NeoX' head."""
VLLM = frozenset(
    {
        "bloom", "gemma2", "gemma3_text", "gpt_neox", "llama", "mistral", "mixtral", "opt", "phi3", "qwen2", "qwen3",
        "qwen3_moe",
    }
)  # fmt: skip
"""Packed, it has no linears that are stored transposed (GPT-2's). GPT-NeoX runs on its backend of transformers.
It refuses Gemma in float16 only where it is asked for (--dtype float16): by itself it computes such a file in bfloat16,
with a warning (0.32.0, config/model.py: _resolve_auto_dtype; tried)."""
SGLANG = frozenset(
    {"gemma2", "gemma3_text", "llama", "mistral", "mixtral", "opt", "phi3", "qwen2", "qwen3", "qwen3_moe"}
)
AUTOAWQ_TYPES = frozenset(
    {
        "bloom", "gemma2", "gpt_neox", "llama", "mistral", "mixtral", "opt", "phi3", "qwen2", "qwen3", "qwen3_moe",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """A reader loaded such artifacts here, and computed what we do."""

    tests: tuple[str, ...]
    """Paths in this repository; what one of them leaves out (an architecture, a number of bits) another one has."""
    release: str = ""
    """The software and its version, where the locked environment has but one."""

    def __str__(self) -> str:
        return f"tried with {self.release}" if self.release else "tried"


@dataclass(frozen=True)
class Expected:
    """Nobody ran the reader here: its source says that it takes such artifacts."""

    release: str
    """The software and its version."""
    files: tuple[str, ...]
    """Where in it that stands."""

    def __str__(self) -> str:
        return f"expected from the source of {self.release}"


ARCHITECTURES_TEST = "tests/e2e/test_reader_architectures.py"
"""Every architecture in every layout; the others below try bits, group sizes and symmetries on one."""
HEADS_TEST = "tests/e2e/test_quantized_heads.py"
LAYOUTS = Tried(
    (
        ARCHITECTURES_TEST,
        "tests/e2e/test_format_reader.py",
        "tests/e2e/test_independent_reader.py",
        HEADS_TEST,
    )
)
BESIDE = Tried(("tests/e2e/test_reader_beside_text.py", "tests/e2e/test_format_reader.py"))
PLAIN = Tried(
    ("tests/unit/quantizer/decoder/test_families.py", "tests/unit/quantizer/passes/test_parameters.py")
)
OWN_CODE = Tried(
    (
        "tests/unit/quantizer/formats/test_quarot_artifact.py",
        "tests/integration/test_quarot_loaded.py",
    )
)
GRAPHS = Tried(("tests/e2e/test_onnx_architectures.py", "tests/e2e/test_onnx_export.py"))
BUILDER_SOURCE = Expected("onnxruntime-genai 0.18", ("models/builder.py",))
VLLM_TRIED = Tried(("tests/e2e/test_vllm.py", HEADS_TEST), "vLLM 0.32.0 on a CPU")
VLLM_SOURCE = Expected(
    "vLLM 0.33.0",
    (
        "model_executor/models/registry.py",
        "model_executor/layers/quantization/auto_gptq.py",
        "model_executor/layers/quantization/auto_awq.py",
        "model_executor/layers/quantization/compressed_tensors/schemes/compressed_tensors_wNa16.py",
        "model_executor/layers/quantization/utils/marlin_utils.py",
    ),
)
SGLANG_SOURCE = Expected(
    "SGLang 0.5.23",
    (
        "srt/models",
        "srt/layers/quantization/gptq/gptq.py",
        "srt/layers/quantization/awq/awq.py",
        "srt/layers/quantization/compressed_tensors/schemes/compressed_tensors_wNa16.py",
        "srt/layers/quantization/marlin_utils.py",
    ),
)
AUTOAWQ_SOURCE = Expected("AutoAWQ 0.2.9", ("awq/models/auto.py", "awq/modules/linear"))


@dataclass(frozen=True)
class Row:
    """What one reader takes of one layout."""

    reader: str
    layout: str
    types: frozenset[str]
    """The architectures, each by its name in config.json."""
    rests_on: Tried | Expected
    bits: tuple[int, ...] = ALL_BITS
    symmetric: tuple[bool, ...] = BOTH
    group_sizes: tuple[int, ...] | None = None
    """None: all."""
    desc_act: bool = True
    """Whether it may be true; likewise those below."""
    part: bool = True
    splits_fused: bool = True
    windowed: bool = True
    mixed: bool = False
    """Whether linears may differ in bits and groups."""
    head: frozenset[str] = frozenset()
    """The architectures whose quantized head it takes."""

    def knows(self, written: Written) -> bool:
        """Whether the reader loads such models in this layout, with the right parameters."""
        return written.model_type in self.types and (self.windowed or not written.windowed)

    def missing(self, written: Written) -> list[str]:
        """What the parameters would have to be for this reader, in the words of the passes."""
        reasons, words = [], written.words
        if written.schemes and not self.mixed:
            return ["bits and group_size instead of a target"]
        if written.symmetric not in self.symmetric:
            reasons.append(words.symmetric if self.symmetric[0] else words.asymmetric)
        if any(scheme.bits not in self.bits for scheme in written.occurring):
            reasons.append(f"{words.bits}: {_either(self.bits)}")
        sizes = {scheme.group_size for scheme in written.occurring}
        if self.group_sizes is not None and not sizes <= set(self.group_sizes):
            reasons.append(f"{words.group_size}: {_either(self.group_sizes)}")
        if written.desc_act and not self.desc_act:
            reasons.append(NATURAL_GROUPS)
        if written.head and written.model_type not in self.head:
            reasons.append("lm_head: false")
        if written.part and not self.part:
            reasons.append(f"no {words.part}")
        elif written.splits_fused and not self.splits_fused:
            reasons.append(f"{words.part} with all or none of q, k and v, and of gate and up")
        return reasons


TABLE: tuple[Row, ...] = (
    Row(
        "transformers (with trust_remote_code=True)",
        "quarot",
        frozenset(OWN_CODE_TYPES),
        OWN_CODE,
        (*ALL_BITS, 16),
    ),
    Row("transformers", "float", FLOAT, PLAIN, (16,)),
    Row("vLLM", "float", VLLM | {"gpt2"}, VLLM_SOURCE, (16,)),
    Row("vLLM", "float", LLAMA, VLLM_TRIED, (16,)),
    Row("SGLang", "float", SGLANG | {"gpt2"}, SGLANG_SOURCE, (16,)),
    Row(BUILDER, "float", MODEL_TYPES, BUILDER_SOURCE, (16,), windowed=False),
    Row(OPTIMUM, "gptq", ONE_BY_ONE, LAYOUTS, group_sizes=TORCH_GROUPS),
    Row(OPTIMUM, "gptq", MORE_THAN_TEXT, BESIDE, group_sizes=TORCH_GROUPS),
    Row(
        "gptqmodel",
        "gptq",
        GPTQMODEL,
        LAYOUTS,
        ALL_BITS,
        SYMMETRIC,
        TORCH_GROUPS,
        part=False,
        mixed=True,
        head=LLAMA,
    ),
    Row(
        "vLLM",
        "gptq",
        VLLM - EXPERTS,
        VLLM_SOURCE,
        (4, 8),
        SYMMETRIC,
        SERVER_GROUPS,
        False,
        splits_fused=False,
        mixed=True,
    ),
    Row(
        "vLLM",
        "gptq",
        EXPERTS & VLLM,
        VLLM_SOURCE,
        (4, 8),
        SYMMETRIC,
        SERVER_GROUPS,
        False,
        splits_fused=False,
    ),
    Row(
        "vLLM",
        "gptq",
        LLAMA,
        VLLM_TRIED,
        (4,),
        SYMMETRIC,
        (-1, 32),
        False,
        part=False,
        mixed=True,
        head=LLAMA,
    ),
    Row("SGLang", "gptq", SGLANG, SGLANG_SOURCE, (4, 8), SYMMETRIC, SERVER_GROUPS, part=False),
    Row(BUILDER, "gptq", MODEL_TYPES, GRAPHS, BITS, BOTH, BLOCK_SIZES, False, part=False, windowed=False),
    Row(OPTIMUM, "gptq_v2", ONE_BY_ONE, LAYOUTS, group_sizes=TORCH_GROUPS),
    Row(
        "gptqmodel",
        "gptq_v2",
        GPTQMODEL,
        LAYOUTS,
        group_sizes=TORCH_GROUPS,
        part=False,
        mixed=True,
        head=LLAMA,
    ),
    Row(COMPRESSED, "compressed-tensors", TRANSFORMERS, LAYOUTS, ALL_BITS, SYMMETRIC, mixed=True, head=LLAMA),
    Row(COMPRESSED, "compressed-tensors", MORE_THAN_TEXT, BESIDE, ALL_BITS, SYMMETRIC, mixed=True),
    Row(DEQUANTIZED, "compressed-tensors", ONE_BY_ONE, LAYOUTS, ALL_BITS, ASYMMETRIC, head=LLAMA),
    Row(
        "vLLM", "compressed-tensors", VLLM, VLLM_SOURCE, (4, 8), SYMMETRIC, SERVER_GROUPS, splits_fused=False
    ),
    Row(
        "vLLM",
        "compressed-tensors",
        VLLM - EXPERTS,
        VLLM_SOURCE,
        (4, 8),
        ASYMMETRIC,
        SERVER_GROUPS,
        splits_fused=False,
        mixed=True,
    ),
    Row(
        "vLLM",
        "compressed-tensors",
        VLLM - EXPERTS,
        VLLM_SOURCE,
        ALL_BITS,
        SYMMETRIC,
        SERVER_GROUPS,
        splits_fused=False,
        mixed=True,
    ),
    Row("vLLM", "compressed-tensors", LLAMA, VLLM_TRIED, (4,), BOTH, (32,), splits_fused=False, head=LLAMA),
    Row(
        "vLLM",
        "compressed-tensors",
        LLAMA,
        VLLM_TRIED,
        (4,),
        SYMMETRIC,
        (-1, 32),
        splits_fused=False,
        mixed=True,
        head=LLAMA,
    ),
    Row(
        "SGLang",
        "compressed-tensors",
        SGLANG,
        SGLANG_SOURCE,
        (4, 8),
        SYMMETRIC,
        SERVER_GROUPS,
        splits_fused=False,
    ),
    Row(
        "SGLang",
        "compressed-tensors",
        SGLANG - EXPERTS,
        SGLANG_SOURCE,
        (4, 8),
        ASYMMETRIC,
        SERVER_GROUPS,
        splits_fused=False,
    ),
    Row(
        "transformers (with gptqmodel)", "awq gemm", ONE_BY_ONE - NAMED_TYPES, LAYOUTS, (4,), BOTH, AWQ_GROUPS
    ),
    Row("transformers (with gptqmodel)", "awq gemm", MORE_THAN_TEXT, BESIDE, (4,), BOTH, AWQ_GROUPS),
    Row("gptqmodel", "awq gemm", GPTQMODEL, LAYOUTS, (4,), BOTH, AWQ_GROUPS, part=False),
    Row("vLLM", "awq gemm", VLLM - SCALED, VLLM_SOURCE, (4,), ASYMMETRIC, SERVER_GROUPS, splits_fused=False),
    Row("vLLM", "awq gemm", LLAMA, VLLM_TRIED, (4,), ASYMMETRIC, (32,), part=False),
    Row(
        "SGLang",
        "awq gemm",
        SGLANG - SCALED,
        SGLANG_SOURCE,
        (4,),
        ASYMMETRIC,
        SERVER_GROUPS,
        splits_fused=False,
    ),
    Row(BUILDER, "awq gemm", MODEL_TYPES, GRAPHS, BITS, BOTH, BLOCK_SIZES, part=False, windowed=False),
    Row(AUTOAWQ, "awq gemm", AUTOAWQ_TYPES, AUTOAWQ_SOURCE, (4,), ASYMMETRIC, (32, 64, 128)),
    Row(AUTOAWQ, "awq gemv", AUTOAWQ_TYPES, AUTOAWQ_SOURCE, (4,), ASYMMETRIC, (64, 128)),
    Row(AUTOAWQ, "awq gemv_fast", AUTOAWQ_TYPES, AUTOAWQ_SOURCE, (4,), ASYMMETRIC, (128,)),
    Row(AUTOAWQ, "awq marlin", AUTOAWQ_TYPES, AUTOAWQ_SOURCE, (4,), SYMMETRIC, (128,)),
)

OTHER_LAYOUT = {
    "quarot": "a_bits, k_bits, v_bits and s_bits: 16",
    "gptq_v2": "checkpoint_format: gptq or compressed-tensors",
    "awq gemv": "version: gemm",
    "awq gemv_fast": "version: gemm",
    "awq marlin": "version: gemm",
}
"""What to write where the servers read nothing of a layout."""


def knows(model_type: str) -> bool:
    """Whether the table says of any reader that it reads models of a type."""
    return any(model_type in row.types for row in TABLE)


def claims(written: Written) -> dict[str, Tried | Expected]:
    """The software that reads it, the most general first, and what that rests on."""
    rows = [row for row in TABLE if row.layout == written.layout and row.knows(written)]
    return {row.reader: row.rests_on for row in rows if not row.missing(written)}


def readers(written: Written) -> list[str]:
    """Names of the software that reads it, the most general first."""
    return list(claims(written))


def refusal(written: Written) -> str | None:
    """A sentence that says which servers refuse it and which parameters would change that, or None."""
    refusing = [server for server in SERVERS if server not in readers(written)]
    strangers = [server for server in refusing if not _rows(server, written)]
    sentences = []
    known = [server for server in refusing if server not in strangers]
    for others in [[server] for server in known] if written.schemes else [known] if known else []:
        nearest = min((row.missing(written) for row in _rows(others[-1], written)), key=len)
        wanted = ", ".join(nearest)
        if written.layout == "gptq" and not written.symmetric and written.bits in (4, 8):
            wanted += f"; {written.words.asymmetric} goes with checkpoint_format: compressed-tensors"
        sentences.append(_needs(others, wanted))
    packed = {row.reader for row in TABLE if row.layout != "float" and row.knows(written)}
    if strangers and written.layout in OTHER_LAYOUT and set(strangers) <= packed:
        sentences.append(_needs(strangers, OTHER_LAYOUT[written.layout]))
    elif strangers:
        verb = "are" if len(strangers) > 1 else "is"
        sentences.append(
            f"{' and '.join(strangers)} {verb} not known to read {written.model_type} models in this format"
        )
    return ". ".join(sentences) or None


def _needs(servers: list[str], wanted: str) -> str:
    verb, need = ("refuse", "they need") if len(servers) > 1 else ("refuses", "it needs")
    return f"{' and '.join(servers)} {verb} this artifact; {need} {wanted}"


def _rows(reader: str, written: Written) -> list[Row]:
    return [
        row for row in TABLE if row.reader == reader and row.layout == written.layout and row.knows(written)
    ]


def written_by(
    chosen: WeightPass[Any],
    model_type: str,
    *,
    windowed: bool = False,
    linears: Sequence[LinearReport] = (),
) -> Written:
    """What the pass writes of a model of that type.

    windowed: see Written. linears: what it made, where that is known: bits that may be chosen then are those that were.
    """
    splits, may = _splits_fused(chosen, model_type), chosen.written.schemes
    occurring = set(schemes_of(linears).values())
    made = tuple(scheme for scheme in may if not occurring or scheme in occurring)
    return replace(
        chosen.written, model_type=model_type, windowed=windowed, splits_fused=splits, schemes=made
    )


def _splits_fused(chosen: WeightPass[Any], model_type: str) -> bool:
    known = ARCHITECTURES.get(model_type)
    if known is None or not chosen.written.part:
        return False
    return any(
        len({chosen.rounds_linear(name, layer) for name in block.input_names}) > 1
        for block in known.blocks
        for layer in range(MOST_LAYERS)
    )


def not_read_by(chosen: WeightPass[Any], model_type: str) -> str | None:
    """A sentence that says which servers refuse the artifact and what would change that, or None."""
    return refusal(written_by(chosen, model_type))


def _either(values: tuple[int, ...]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last
