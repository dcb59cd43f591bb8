"""What an implementation is given and what it leaves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version

from torch import Tensor

OnProgress = Callable[[str, int, int], None]
"""Called with ("quantize", layers done, layers in all); what it raises ends the run."""

DISTRIBUTIONS = {"auto-gptq": "auto-gptq", "autoawq": "autoawq"}
"""Name of each implementation -> the distribution that it is."""


@dataclass(frozen=True)
class ModuleReport:
    """How well a package rounded one linear.

    error, error_rtn: tr(E H E') / tr(W H W') of what the package made and of plain rounding to nearest, on
        the package's own calibration activations. AWQ's error is measured on the scaled weights and inputs,
        which compute the same function.
    damp_percent: the damping that was used; 0 for AWQ, which has none.
    tokens: unknown; the packages are given dense models only, whose linears read every calibration token.
    """

    name: str
    shape: tuple[int, int]
    error: float
    error_rtn: float
    damp_percent: float
    tokens: int | None = None


@dataclass
class ImplementationReport:
    """What a run of a package did.

    bits_per_weight: bits of the packed tensors of the linears, by weight.
    input_bytes, output_bytes: of the safetensors.
    seconds: by stage: load, quantize, write.
    files: names in the target directory.
    left_out: tensors of the input that are computed today and were not copied.
    """

    implementation: str
    modules: list[ModuleReport] = field(default_factory=list)
    bits_per_weight: float = 0.0
    input_bytes: int = 0
    output_bytes: int = 0
    calibration_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def versions(self) -> dict[str, str]:
        """The package and its version, for the manifest."""
        name = DISTRIBUTIONS[self.implementation]
        return {name: version(name)}


@dataclass(frozen=True)
class Quantized:
    """A model as a package left it.

    state: every tensor by its name in the checkpoint, packed linears included.
    packed: suffixes of the tensors of a packed linear. quantization: config.json's quantization_config, None
        when nothing was packed.
    """

    state: dict[str, Tensor]
    packed: tuple[str, ...]
    quantization: dict[str, object] | None
    modules: list[ModuleReport]
