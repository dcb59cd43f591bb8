"""Quantizes language models into verified artifacts: `quantizer` at a shell, `quantizer.quantize` in Python.

Imports nothing, not even typing: until __main__ has run, Ctrl-C is answered by the interpreter, with a traceback.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from quantizer.api import quantize

__all__ = ["quantize"]


def __getattr__(name: str) -> object:
    """Imports the function when it is asked for: with it comes torch, which takes seconds."""
    if name == "quantize":
        from quantizer.api import quantize

        return quantize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
