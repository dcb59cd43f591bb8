"""Finds how a model is built by looking at it: its decoder layers, and the linears of each, stage by stage.

The model is transformers' own of a config.json, without weights, so nothing is listed by hand and nothing is read.
What the walk over layers takes for granted is tried here as well: that each layer is given the hidden states of the
one before, and nothing else that depends on the text. A model that is built in another way is refused with what it
does, before anything is computed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantizer.decoder.architecture import Stage
from quantizer.decoder.context import ModelContext, on_meta
from quantizer.decoder.skeleton import ANOTHER_TYPE, Skeleton, unsupported
from quantizer.decoder.tracing import Traced, trace

TOKENS = 6
CPU = torch.device("cpu")


def find_stages(skeleton: Skeleton) -> tuple[tuple[Stage, ...], ...]:
    """The linears of each layer, stage by stage.

    Raises:
        QuantizationError: ModelUnsupported for a model that is no chain of layers.
    """
    whole = ModelContext(
        skeleton, lambda name: _stand_in(skeleton.causal.get_parameter(name).shape), CPU, torch.float32
    )
    arguments = _arguments(skeleton, whole)
    _check_end(skeleton, whole)
    return tuple(
        _traced(skeleton, index, layer, arguments[index]).stages
        for index, layer in enumerate(skeleton.layers)
    )


def _stand_in(shape: torch.Size) -> Tensor:
    """A parameter that costs no memory, and whose rows differ."""
    if not shape:
        return torch.ones(())
    rows = torch.linspace(0.5, 1.5, shape[0]).reshape(-1, *(1 for _ in shape[1:]))
    return rows.expand(shape)


def _arguments(skeleton: Skeleton, whole: ModelContext) -> Sequence[Mapping[str, Any]]:
    """What the layers are given beside hidden states; the same for every text of one shape."""
    rows = torch.randn((2, whole.width), generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(TOKENS).remainder(2)[None]
    (one, given), (_, others) = whole.begin(rows, tokens), whole.begin(rows, 1 - tokens)
    if one.shape != (1, TOKENS, whole.width):
        raise _no_chain(
            skeleton,
            f"its layers take {list(one.shape)} for {TOKENS} tokens, not [1, {TOKENS}, {whole.width}]",
        )
    for index, (mine, theirs) in enumerate(zip(given, others, strict=True)):
        for name, value in mine.items():
            if not _same(value, theirs.get(name)):
                raise _no_chain(
                    skeleton, f"layer {index} takes {name}, which depends on the text, beside hidden states"
                )
    return given


def _check_end(skeleton: Skeleton, whole: ModelContext) -> None:
    """Only what the last layer makes may reach the head."""
    last, others = (torch.full((1, TOKENS, whole.width), value) for value in (0.5, -2.0))
    if not torch.equal(whole.final(last), whole.final(last, before=others)):
        raise _no_chain(skeleton, "its head reads what earlier layers make, beside what the last one makes")


def _traced(skeleton: Skeleton, index: int, layer: nn.Module, arguments: Mapping[str, Any]) -> Traced:
    hidden = torch.zeros((1, TOKENS, int(skeleton.config.hidden_size)), device="meta", requires_grad=True) * 1
    given = {name: on_meta(value) for name, value in arguments.items()}
    before = {name: _keys(value) for name, value in given.items()}
    try:
        with torch.enable_grad():
            traced = trace(layer, lambda: layer(hidden, **given))
    except Exception as error:
        raise _no_chain(
            skeleton,
            f"layer {index} cannot be followed without values ({type(error).__name__}: {_first(error)})",
        ) from error
    if changed := [name for name, value in given.items() if _keys(value) != before[name]]:
        raise _no_chain(skeleton, f"layer {index} leaves something for later layers in {changed[0]}")
    output = traced.output[0] if isinstance(traced.output, tuple) else traced.output
    if output.shape != hidden.shape:
        raise _no_chain(skeleton, f"layer {index} makes {list(output.shape)} of {list(hidden.shape)}")
    return traced


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return type(one) is type(other)


def _keys(value: Any) -> Any:
    return tuple(value) if isinstance(value, dict) else len(value) if isinstance(value, list) else None


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:120]


def _no_chain(skeleton: Skeleton, why: str) -> Exception:
    return unsupported(
        f"a {skeleton.config.model_type} model is not computed layer by layer: {why}", ANOTHER_TYPE
    )
