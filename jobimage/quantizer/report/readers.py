"""Which software reads what was written, as it is."""

from quantization_api.passes import GptqQuantizer

MARLIN_GROUPS = (-1, 32, 64, 128)


def readers_of(parameters: GptqQuantizer) -> list[str]:
    """Readers of a gptq (v1) checkpoint with these parameters.

    vLLM and SGLang take only symmetric grids of 4 or 8 bits in this format, and the group sizes of
    their kernels; the model builder of onnxruntime-genai assumes version 1 and 4 bits.
    """
    readers = ["transformers (with optimum and gptqmodel)", "gptqmodel"]
    if parameters.sym and parameters.bits in (4, 8) and parameters.group_size in MARLIN_GROUPS:
        readers += ["vLLM", "SGLang"]
    if parameters.bits == 4:
        readers.append("onnxruntime-genai model builder")
    return readers


def not_read_by(parameters: GptqQuantizer) -> str | None:
    """A sentence that says who refuses the artifact and which parameter would change that, or None."""
    if "vLLM" in readers_of(parameters):
        return None
    reasons = []
    if not parameters.sym:
        reasons.append("sym: true")
    if parameters.bits not in (4, 8):
        reasons.append("bits: 4 or 8")
    if parameters.group_size not in MARLIN_GROUPS:
        reasons.append("group_size: -1, 32, 64 or 128")
    return f"vLLM and SGLang refuse this artifact; they need {', '.join(reasons)}"
