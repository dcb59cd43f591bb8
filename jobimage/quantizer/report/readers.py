"""Which software reads what was written, as it is.

The rows of transformers, gptqmodel and the model builder are measured (tests/e2e/test_format_reader.py and its
neighbours, on a CPU); those of vLLM, SGLang and the kernels of AutoAWQ are what their sources say. What the model
builder takes is decided in export.plan, which asks it.
"""

from dataclasses import dataclass

from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer, QuaRot
from quantizer.export.plan import BITS, BLOCK_SIZES

ALL_BITS = (2, 3, 4, 8)
SERVER_GROUPS = (-1, 32, 64, 128)
TORCH_GROUPS = (-1, 16, 32, 64, 128, 256, 512, 1024)
AWQ_GROUPS = (-1, 16, 32, 64, 128)
BOTH, SYMMETRIC, ASYMMETRIC = (True, False), (True,), (False,)
SERVERS = ("vLLM", "SGLang")


@dataclass(frozen=True)
class Written:
    """What a reader must be able to read.

    layout: gptq, gptq_v2, compressed-tensors, or awq and its version, as in "awq gemm".
    """

    layout: str
    bits: int
    group_size: int
    symmetric: bool
    desc_act: bool = False


@dataclass(frozen=True)
class Row:
    """What one reader takes of one layout; group_sizes None is all. desc_act: whether it may be true."""

    reader: str
    layout: str
    bits: tuple[int, ...] = ALL_BITS
    symmetric: tuple[bool, ...] = BOTH
    group_sizes: tuple[int, ...] | None = None
    desc_act: bool = True

    def missing(self, written: Written) -> list[str]:
        """What the parameters would have to be for this reader, in the words of the passes."""
        reasons = []
        if written.symmetric not in self.symmetric:
            wanted = self.symmetric[0]
            if written.layout.startswith("awq"):
                reasons.append(f"zero_point: {str(not wanted).lower()}")
            else:
                reasons.append(f"sym: {str(wanted).lower()}")
        if written.bits not in self.bits:
            reasons.append(f"bits: {_either(self.bits)}")
        if self.group_sizes is not None and written.group_size not in self.group_sizes:
            key = "q_group_size" if written.layout.startswith("awq") else "group_size"
            reasons.append(f"{key}: {_either(self.group_sizes)}")
        if written.desc_act and not self.desc_act:
            reasons.append("desc_act: false")
        return reasons


TABLE: tuple[Row, ...] = (
    Row("transformers (with trust_remote_code=True)", "quarot", (2, 3, 4, 8, 16)),
    Row("transformers", "float", (16,)),
    Row("vLLM", "float", (16,)),
    Row("SGLang", "float", (16,)),
    Row("onnxruntime-genai model builder", "float", (16,)),
    Row("transformers (with optimum and gptqmodel)", "gptq", group_sizes=TORCH_GROUPS),
    Row("gptqmodel", "gptq", group_sizes=TORCH_GROUPS),
    Row("vLLM", "gptq", (4, 8), SYMMETRIC, SERVER_GROUPS),
    Row("SGLang", "gptq", (4, 8), SYMMETRIC, SERVER_GROUPS),
    Row("onnxruntime-genai model builder", "gptq", BITS, group_sizes=BLOCK_SIZES, desc_act=False),
    Row("transformers (with optimum and gptqmodel)", "gptq_v2", group_sizes=TORCH_GROUPS),
    Row("gptqmodel", "gptq_v2", group_sizes=TORCH_GROUPS),
    Row("transformers (with compressed-tensors)", "compressed-tensors", symmetric=SYMMETRIC),
    Row(
        "transformers (with compressed-tensors and dequantize=True)",
        "compressed-tensors",
        symmetric=ASYMMETRIC,
    ),
    Row("vLLM", "compressed-tensors", (4, 8), BOTH, SERVER_GROUPS),
    Row("vLLM", "compressed-tensors", (2, 3), SYMMETRIC, SERVER_GROUPS),
    Row("SGLang", "compressed-tensors", (4, 8), BOTH, SERVER_GROUPS),
    Row("transformers (with gptqmodel)", "awq gemm", (4,), BOTH, AWQ_GROUPS),
    Row("vLLM", "awq gemm", (4,), ASYMMETRIC, SERVER_GROUPS),
    Row("SGLang", "awq gemm", (4,), ASYMMETRIC, SERVER_GROUPS),
    Row("onnxruntime-genai model builder", "awq gemm", BITS, group_sizes=BLOCK_SIZES),
    Row("AutoAWQ 0.2.9 (on a GPU)", "awq gemm", (4,), ASYMMETRIC, (32, 64, 128)),
    Row("AutoAWQ 0.2.9 (on a GPU)", "awq gemv", (4,), ASYMMETRIC, (64, 128)),
    Row("AutoAWQ 0.2.9 (on a GPU)", "awq gemv_fast", (4,), ASYMMETRIC, (128,)),
    Row("AutoAWQ 0.2.9 (on a GPU)", "awq marlin", (4,), SYMMETRIC, (128,)),
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
    return [row.reader for row in TABLE if row.layout == written.layout and not row.missing(written)]


def refusal(written: Written) -> str | None:
    """A sentence that says which servers refuse it and which parameters would change that, or None."""
    refusing = [server for server in SERVERS if server not in readers(written)]
    if not refusing:
        return None
    verb, need = ("refuse", "they need") if len(refusing) > 1 else ("refuses", "it needs")
    rows = [row for row in TABLE if row.reader == refusing[-1] and row.layout == written.layout]
    nearest = min((row.missing(written) for row in rows), key=len, default=[])
    wanted = ", ".join(nearest) or OTHER_LAYOUT[written.layout]
    if written.layout == "gptq" and not written.symmetric and written.bits in (4, 8):
        wanted += "; sym: false goes with checkpoint_format: compressed-tensors"
    return f"{' and '.join(refusing)} {verb} this artifact; {need} {wanted}"


def written_by(parameters: GptqQuantizer | AutoAWQQuantizer | QuaRot) -> Written:
    """What a pass with these parameters writes."""
    if isinstance(parameters, GptqQuantizer):
        return Written(
            parameters.checkpoint_format,
            parameters.bits,
            parameters.group_size,
            parameters.sym,
            parameters.desc_act,
        )
    if isinstance(parameters, QuaRot):
        online = (parameters.a_bits, parameters.k_bits, parameters.v_bits, parameters.s_bits)
        layout = "quarot" if min(online) < 16 else "gptq" if parameters.w_bits < 16 else "float"
        size = parameters.w_groupsize or -1
        return Written(layout, parameters.w_bits, size, symmetric=not parameters.w_asym)
    bits = parameters.w_bit or parameters.bits or 4
    if parameters.export_compatible:
        return Written("float", 16, parameters.q_group_size, symmetric=not parameters.zero_point)
    return Written(
        f"awq {parameters.version}", bits, parameters.q_group_size, symmetric=not parameters.zero_point
    )


def readers_of(parameters: GptqQuantizer | AutoAWQQuantizer | QuaRot) -> list[str]:
    """Readers of what a pass with these parameters writes."""
    return readers(written_by(parameters))


def not_read_by(parameters: GptqQuantizer | AutoAWQQuantizer | QuaRot) -> str | None:
    """A sentence that says which servers refuse the artifact and what would change that, or None."""
    return refusal(written_by(parameters))


def _either(values: tuple[int, ...]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last
