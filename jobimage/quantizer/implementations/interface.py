"""What an implementation is given and what it leaves."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from torch import Tensor

from quantization_api.manifest import LinearReport

OnProgress = Callable[[str, int, int], None]
"""Called with ("quantize", layers done, layers in all); what it raises ends the run."""

DISTRIBUTIONS = {"auto-gptq": "auto-gptq", "autoawq": "autoawq"}
"""Name of each implementation -> the distribution that it is."""


def package_version(implementation: str) -> dict[str, str]:
    """The package behind an implementation and its version, for the manifest."""
    name = DISTRIBUTIONS[implementation]
    return {name: version(name)}


@dataclass(frozen=True)
class QuantizedModel:
    """A model as a package left it."""

    state: dict[str, Tensor]
    """Every tensor by its name in the checkpoint, packed linears included."""
    packed: tuple[str, ...]
    """Suffixes of the tensors of a packed linear."""
    quantization: dict[str, object] | None
    """config.json's quantization_config; None when nothing was packed."""
    linears: list[LinearReport]
    """Errors on the package's own calibration activations. AWQ's are measured on the scaled weights and inputs, which
    compute the same function. Tokens are unknown: packages are given dense models only, whose linears read every
    token."""
