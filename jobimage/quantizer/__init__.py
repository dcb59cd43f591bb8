"""Quantizes language models into verified artifacts: `quantizer` at a shell, `quantizer.quantize` in Python."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantizer.api import quantize

__all__ = ["quantize"]


def __getattr__(name: str) -> Any:
    """Imports the function when it is asked for: with it comes torch, which takes seconds."""
    if name == "quantize":
        from quantizer.api import quantize

        return quantize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
