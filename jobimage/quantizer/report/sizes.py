"""How sizes are told: of the model before and after, and of a weight."""

from quantization_api.manifest import Manifest
from quantizer.formats.interface import HEAD
from quantizer.passes.written import Written, schemes_of, told


def megabytes(size: float) -> str:
    """Bytes for people."""
    return f"{size / 1e6:,.1f} MB"


def change(ratio: float) -> str:
    """Input size over output size in words: larger is never called "0.76 times smaller"."""
    if round(max(ratio, 1 / ratio), 2) == 1:
        return "the same size"
    return f"{ratio:.2f} times smaller" if ratio > 1 else f"{1 / ratio:.2f} times larger"


def sizes(manifest: Manifest) -> str:
    """Of the model before and after."""
    before = manifest.input.size_bytes
    after = megabytes(before / manifest.compression_ratio)
    return f"{megabytes(before)} before, {after} after ({change(manifest.compression_ratio)})"


def bits(manifest: Manifest) -> str:
    """Bits that a weight takes, as part of a sentence."""
    if not quantizes_weights(manifest):
        return f"no weight is quantized, each takes {manifest.bits_per_weight:g} bits"
    average = f"{manifest.bits_per_weight:.3f} bits per quantized weight, including scales and zero points"
    parts = told(schemes_of(manifest.modules).values())
    return f"{average}: {parts}" if parts else average


def nominal_bits(manifest: Manifest, written: Written) -> str:
    """Bits of a weight as a title has them: without scales where all linears have the same, else their average."""
    return f"{manifest.bits_per_weight:.2f}" if schemes_of(manifest.modules) else f"{written.bits}"


def quantizes_weights(manifest: Manifest) -> bool:
    """Whether weights are stored as integers."""
    return bool(manifest.modules) and manifest.checkpoint_format != "float"


def rounds_head(manifest: Manifest) -> bool:
    """Whether the head is among the linears that are stored as integers."""
    return any(module.name == HEAD for module in manifest.modules)


def own_head(manifest: Manifest) -> str | None:
    """A sentence about a head that shares the embedding's weights no longer; None where nothing changed."""
    if not manifest.own_head_bytes:
        return None
    return (
        f"The artifact holds {megabytes(manifest.own_head_bytes)} for a head of its own: in the input model the head "
        "shares the embedding's weights, and the rotation changes the two differently."
    )
