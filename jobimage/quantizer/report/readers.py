"""Which software reads what was written, as it is.

The rows of transformers, gptqmodel and the model builder are measured on a CPU (tests/e2e/test_format_reader.py,
test_reader_architectures.py and their neighbours); those of vLLM, SGLang and the kernels of AutoAWQ are what their
sources say. What the model builder takes is decided in export.plan, which asks it.
"""

from dataclasses import dataclass, replace

from quantization_api.passes import GptqQuantizer, QuaRot
from quantizer.algorithms.quarot.parameters import OWN_CODE_TYPES
from quantizer.decoder.families import ARCHITECTURES
from quantizer.export.plan import BITS, BLOCK_SIZES, MODEL_TYPES
from quantizer.passes.making import WeightPass

ALL_BITS = (2, 3, 4, 8)
SERVER_GROUPS = (-1, 32, 64, 128)
TORCH_GROUPS = (-1, 16, 32, 64, 128, 256, 512, 1024)
AWQ_GROUPS = (-1, 16, 32, 64, 128)
BOTH, SYMMETRIC, ASYMMETRIC = (True, False), (True,), (False,)
SERVERS = ("vLLM", "SGLang")
BUILDER, AUTOAWQ = "onnxruntime-genai model builder", "AutoAWQ 0.2.9 (on a GPU)"
OPTIMUM = "transformers (with optimum and gptqmodel)"
COMPRESSED = "transformers (with compressed-tensors)"
DEQUANTIZED = "transformers (with compressed-tensors and dequantize=True)"

TABLE_TYPES = frozenset(ARCHITECTURES)
NAMED_TYPES = frozenset({"gptj", "granite", "phi", "stablelm", "starcoder2"})
"""Types outside the table of architectures, quantized by the names of their modules, that readers were tried with."""
EXPERTS = frozenset(name for name, known in ARCHITECTURES.items() if known.experts)
CONV1D = frozenset({"gpt2"})
"""Its linears are no nn.Linear in transformers, which then replaces none of them."""
TRANSFORMERS = (TABLE_TYPES - CONV1D) | NAMED_TYPES
ONE_BY_ONE = TRANSFORMERS - EXPERTS
"""transformers 5 fuses the experts of a layer; unpacked they fit in, quantized ones are left out without an error."""
GPTQMODEL = TABLE_TYPES - EXPERTS - {"phi3", "gpt_neox"}
"""Its own loader looks for experts, and for Phi-3's gate and up, under other names, and drops GPT-NeoX' head."""
SCALED = frozenset(name for name, known in ARCHITECTURES.items() if known.scaled_activation)
"""AWQ files of these have scales of an activation, which the servers' modules do not have."""
VLLM = TABLE_TYPES - CONV1D
SGLANG = TABLE_TYPES - CONV1D - {"bloom", "gpt_neox"}
AUTOAWQ_TYPES = TABLE_TYPES - CONV1D - {"gemma3_text"}


@dataclass(frozen=True)
class Words:
    """How a pass says what a reader needs."""

    bits: str
    group_size: str
    symmetric: str
    asymmetric: str
    part: str


GPTQ_WORDS = Words("bits", "group_size", "sym: true", "sym: false", "inside_layer_modules")
AWQ_WORDS = Words("w_bit", "q_group_size", "zero_point: false", "zero_point: true", "modules_to_not_convert")
QUAROT_WORDS = Words("w_bits", "w_groupsize", "w_asym: false", "w_asym: true", "")


@dataclass(frozen=True)
class Written:
    """What a reader must be able to read.

    layout: gptq, gptq_v2, compressed-tensors, or awq and its version, as in "awq gemm".
    part: whether some linears of the decoder layers stay as they are. model_type: the architecture.
    windowed: whether layers attend within a sliding window. words: of the pass.
    """

    layout: str
    bits: int
    group_size: int
    symmetric: bool
    desc_act: bool = False
    part: bool = False
    model_type: str = "llama"
    windowed: bool = False
    words: Words = GPTQ_WORDS


@dataclass(frozen=True)
class Row:
    """What one reader takes of one layout; group_sizes None is all.

    types: architectures. desc_act, part, windowed: whether they may be true.
    """

    reader: str
    layout: str
    bits: tuple[int, ...] = ALL_BITS
    symmetric: tuple[bool, ...] = BOTH
    group_sizes: tuple[int, ...] | None = None
    desc_act: bool = True
    types: frozenset[str] = TABLE_TYPES
    part: bool = True
    windowed: bool = True

    def knows(self, written: Written) -> bool:
        """Whether the reader loads such models in this layout, with the right parameters."""
        return written.model_type in self.types and (self.windowed or not written.windowed)

    def missing(self, written: Written) -> list[str]:
        """What the parameters would have to be for this reader, in the words of the passes."""
        reasons, words = [], written.words
        if written.symmetric not in self.symmetric:
            reasons.append(words.symmetric if self.symmetric[0] else words.asymmetric)
        if written.bits not in self.bits:
            reasons.append(f"{words.bits}: {_either(self.bits)}")
        if self.group_sizes is not None and written.group_size not in self.group_sizes:
            reasons.append(f"{words.group_size}: {_either(self.group_sizes)}")
        if written.desc_act and not self.desc_act:
            reasons.append("desc_act: false")
        if written.part and not self.part:
            reasons.append(f"no {words.part}")
        return reasons


TABLE: tuple[Row, ...] = (
    Row(
        "transformers (with trust_remote_code=True)",
        "quarot",
        (*ALL_BITS, 16),
        types=frozenset(OWN_CODE_TYPES),
    ),
    Row("transformers", "float", (16,)),
    Row("vLLM", "float", (16,)),
    Row("SGLang", "float", (16,), types=TABLE_TYPES - {"bloom", "gpt_neox"}),
    Row(BUILDER, "float", (16,), types=MODEL_TYPES, windowed=False),
    Row(OPTIMUM, "gptq", group_sizes=TORCH_GROUPS, types=ONE_BY_ONE),
    Row("gptqmodel", "gptq", ALL_BITS, SYMMETRIC, TORCH_GROUPS, types=GPTQMODEL, part=False),
    Row("vLLM", "gptq", (4, 8), SYMMETRIC, SERVER_GROUPS, types=VLLM),
    Row("SGLang", "gptq", (4, 8), SYMMETRIC, SERVER_GROUPS, types=SGLANG, part=False),
    Row(BUILDER, "gptq", BITS, BOTH, BLOCK_SIZES, False, MODEL_TYPES, part=False, windowed=False),
    Row(OPTIMUM, "gptq_v2", group_sizes=TORCH_GROUPS, types=ONE_BY_ONE),
    Row("gptqmodel", "gptq_v2", group_sizes=TORCH_GROUPS, types=GPTQMODEL, part=False),
    Row(COMPRESSED, "compressed-tensors", ALL_BITS, SYMMETRIC, types=TRANSFORMERS),
    Row(DEQUANTIZED, "compressed-tensors", ALL_BITS, ASYMMETRIC, types=ONE_BY_ONE),
    Row("vLLM", "compressed-tensors", (4, 8), SYMMETRIC, SERVER_GROUPS, types=VLLM),
    Row("vLLM", "compressed-tensors", (4, 8), ASYMMETRIC, SERVER_GROUPS, types=VLLM - EXPERTS),
    Row("vLLM", "compressed-tensors", (2, 3), SYMMETRIC, SERVER_GROUPS, types=VLLM - EXPERTS),
    Row("SGLang", "compressed-tensors", (4, 8), SYMMETRIC, SERVER_GROUPS, types=SGLANG),
    Row("SGLang", "compressed-tensors", (4, 8), ASYMMETRIC, SERVER_GROUPS, types=SGLANG - EXPERTS),
    Row("transformers (with gptqmodel)", "awq gemm", (4,), BOTH, AWQ_GROUPS, types=ONE_BY_ONE & TABLE_TYPES),
    Row("gptqmodel", "awq gemm", (4,), BOTH, AWQ_GROUPS, types=GPTQMODEL, part=False),
    Row("vLLM", "awq gemm", (4,), ASYMMETRIC, SERVER_GROUPS, types=VLLM - SCALED),
    Row("SGLang", "awq gemm", (4,), ASYMMETRIC, SERVER_GROUPS, types=SGLANG - SCALED),
    Row(BUILDER, "awq gemm", BITS, BOTH, BLOCK_SIZES, types=MODEL_TYPES, part=False, windowed=False),
    Row(AUTOAWQ, "awq gemm", (4,), ASYMMETRIC, (32, 64, 128), types=AUTOAWQ_TYPES),
    Row(AUTOAWQ, "awq gemv", (4,), ASYMMETRIC, (64, 128), types=AUTOAWQ_TYPES),
    Row(AUTOAWQ, "awq gemv_fast", (4,), ASYMMETRIC, (128,), types=AUTOAWQ_TYPES),
    Row(AUTOAWQ, "awq marlin", (4,), SYMMETRIC, (128,), types=AUTOAWQ_TYPES),
)

OTHER_LAYOUT = {
    "quarot": "a_bits, k_bits, v_bits and s_bits: 16",
    "gptq_v2": "checkpoint_format: gptq or compressed-tensors",
    "awq gemv": "version: gemm",
    "awq gemv_fast": "version: gemm",
    "awq marlin": "version: gemm",
}
"""What to write where the servers read nothing of a layout."""


def readers(written: Written) -> list[str]:
    """Names of the software that reads it, the most general first."""
    rows = [row for row in TABLE if row.layout == written.layout and row.knows(written)]
    return list(dict.fromkeys(row.reader for row in rows if not row.missing(written)))


def refusal(written: Written) -> str | None:
    """A sentence that says which servers refuse it and which parameters would change that, or None."""
    refusing = [server for server in SERVERS if server not in readers(written)]
    strangers = [server for server in refusing if not _rows(server, written)]
    sentences = []
    if others := [server for server in refusing if server not in strangers]:
        nearest = min((row.missing(written) for row in _rows(others[-1], written)), key=len)
        wanted = ", ".join(nearest)
        by_gptq = written.layout == "gptq" and written.words is GPTQ_WORDS
        if by_gptq and not written.symmetric and written.bits in (4, 8):
            wanted += "; sym: false goes with checkpoint_format: compressed-tensors"
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


def written_by(parameters: WeightPass, model_type: str, *, windowed: bool = False) -> Written:
    """What a pass with these parameters writes of a model of that type; windowed: see Written."""
    return replace(_written(parameters), model_type=model_type, windowed=windowed)


def not_read_by(parameters: WeightPass, model_type: str) -> str | None:
    """A sentence that says which servers refuse the artifact and what would change that, or None."""
    return refusal(written_by(parameters, model_type))


def _written(parameters: WeightPass) -> Written:
    if isinstance(parameters, GptqQuantizer):
        return Written(
            parameters.checkpoint_format,
            parameters.bits,
            parameters.group_size,
            parameters.sym,
            parameters.desc_act,
            part=parameters.inside_layer_modules is not None,
        )
    if isinstance(parameters, QuaRot):
        online = (parameters.a_bits, parameters.k_bits, parameters.v_bits, parameters.s_bits)
        layout = "quarot" if min(online) < 16 else "gptq" if parameters.w_bits < 16 else "float"
        size, symmetric = parameters.w_groupsize or -1, not parameters.w_asym
        return Written(layout, parameters.w_bits, size, symmetric, words=QUAROT_WORDS)
    bits, size, symmetric = (
        parameters.w_bit or parameters.bits or 4,
        parameters.q_group_size,
        not parameters.zero_point,
    )
    if parameters.export_compatible:
        return Written("float", 16, size, symmetric, words=AWQ_WORDS)
    part = bool(parameters.modules_to_not_convert)
    return Written(f"awq {parameters.version}", bits, size, symmetric, part=part, words=AWQ_WORDS)


def _either(values: tuple[int, ...]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last
