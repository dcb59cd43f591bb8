"""The names of modules that stay as they are, compared with the model before anything is computed."""

from collections.abc import Collection, Iterable

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import did_you_mean
from quantizer.decoder.layout import DecoderLayout

MOST_NAMED = 12
"""Linears of a layer that a message lists; one with experts has hundreds."""


def check_left_out(parts: Collection[str], model: DecoderLayout, package: str | None) -> None:
    """Raises InvalidWorkflow, with the nearest name, for a part that occurs in no module's name.

    A module that is never quantized, such as the head, may be named too: it stays as it is, as asked for.

    Args:
        parts: of names, as modules_to_not_convert lists them.
        package: the stock package that computes, which compares names within a layer; None: full names count.
    """
    if not parts:
        return
    names = {_module(name) for name in (*model.needed_outside(), model.own_head_name())}
    for index in range(model.layers):
        prefix = "" if package else model.layer_prefix(index)
        names |= {prefix + _module(name) for name in model.layer_shapes(index)}
    for part in parts:
        if not any(part in name for name in names):
            compared = f" ({package} compares names within a layer)" if package else ""
            linears = ", ".join(model.linears()[:MOST_NAMED])
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"modules_to_not_convert has {part}, which is part of no module's name{compared}; the linears of a "
                f"layer are {linears}{did_you_mean(part, _runs(names, part.count('.') + 1))}",
            )


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _runs(names: Iterable[str], longest: int) -> list[str]:
    """The parts of dotted names that have at most so many words."""
    runs: set[str] = set()
    for words in (name.split(".") for name in names):
        for first in range(len(words)):
            runs |= {
                ".".join(words[first:end]) for end in range(first + 1, min(first + longest, len(words)) + 1)
            }
    return sorted(runs)
