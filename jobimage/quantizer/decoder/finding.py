"""Finds how a model is built by looking at it: its decoder layers, and the linears of each, stage by stage.

The model is transformers' own of a config.json, without weights, so nothing is listed by hand and nothing is read.
What the walk over layers takes for granted is tried here as well: that each layer is given the hidden states of the
one before, and nothing else that depends on the text. A model that is built in another way is refused with what it
does, before anything is computed.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantization_api.failures import QuantizationError
from quantizer.decoder.architecture import FoundLayer
from quantizer.decoder.buffers import compute_buffers
from quantizer.decoder.context import Arguments, ModelContext, on_meta
from quantizer.decoder.expert_stages import expanded
from quantizer.decoder.skeleton import ANOTHER_TYPE, Skeleton, unsupported
from quantizer.decoder.tracing import is_linear, trace

TOKENS = 6
MOST_VALUES = 4_000_000
CPU = torch.device("cpu")


def find_layers(skeleton: Skeleton) -> tuple[FoundLayer, ...]:
    """What each layer is made of.

    Raises:
        QuantizationError: ModelUnsupported for a model that is no chain of layers.
    """
    try:
        whole = ModelContext(
            skeleton, lambda name: _stand_in(skeleton.causal.get_parameter(name).shape), CPU, torch.float32
        )
        arguments = _arguments(skeleton, whole)
        _check_end(skeleton, whole)
    except (QuantizationError, MemoryError):
        raise
    except Exception as error:  # classes differ in how they stop at layers that they do not know
        raise _no_chain(
            skeleton,
            f"its class stops where its layers are taken out ({type(error).__name__}: {_first(error)})",
        ) from error
    return tuple(
        _traced(skeleton, index, layer, arguments[index]) for index, layer in enumerate(skeleton.layers)
    )


def _stand_in(shape: torch.Size) -> Tensor:
    """A parameter with other values in each row; a large one costs no memory, and is the same in each column."""
    generator = torch.Generator().manual_seed(0)
    if shape.numel() <= MOST_VALUES:
        return torch.rand(shape, generator=generator) + 0.5
    return (torch.rand((shape[0], *(1 for _ in shape[1:])), generator=generator) + 0.5).expand(shape)


def _arguments(skeleton: Skeleton, whole: ModelContext) -> Sequence[Arguments]:
    """What the layers are given beside hidden states; the same for every text of one shape."""
    first, second, numbers = _two_texts(skeleton)
    rows = torch.randn((len(numbers), whole.width), generator=torch.Generator().manual_seed(0))
    (one, given), (_, others) = whole.begin(rows, first, numbers), whole.begin(rows, second, numbers)
    if one.shape != (1, TOKENS, whole.width):
        raise _no_chain(
            skeleton,
            f"its layers take {list(one.shape)} for {TOKENS} tokens, not [1, {TOKENS}, {whole.width}]",
        )
    for index, (mine, theirs) in enumerate(zip(given, others, strict=True)):
        for name, value in mine.items():
            if _made_on_the_way(value):
                raise _no_chain(
                    skeleton, f"layer {index} takes {name}, which earlier layers make, beside hidden states"
                )
            if not _same(value, theirs.get(name)):
                raise _no_chain(
                    skeleton, f"layer {index} takes {name}, which depends on the text, beside hidden states"
                )
    return given


def _two_texts(skeleton: Skeleton) -> tuple[Tensor, Tensor, Tensor]:
    """Two texts of TOKENS tokens, of which the second alone has padding in it; and all of their tokens, ascending."""
    vocabulary = skeleton.embedding_shape[0]
    padding = getattr(skeleton.config, "pad_token_id", None)
    taken = padding if isinstance(padding, int) and 0 <= padding < vocabulary else 0
    others = [number for number in range(TOKENS + 1) if number != taken][:TOKENS]
    first = torch.tensor([others])
    second = first.flip(1)
    second[0, TOKENS // 2] = taken
    return first, second, torch.tensor(sorted([*others, taken]))


def _check_end(skeleton: Skeleton, whole: ModelContext) -> None:
    """Only what the last layer makes may reach the head."""
    last, others = (torch.full((1, TOKENS, whole.width), value) for value in (0.5, -2.0))
    if not torch.equal(whole.final(last), whole.final(last, before=others)):
        raise _no_chain(skeleton, "its head reads what earlier layers make, beside what the last one makes")


def _traced(skeleton: Skeleton, index: int, layer: nn.Module, arguments: Arguments) -> FoundLayer:
    hidden = torch.zeros((1, TOKENS, int(skeleton.config.hidden_size)), device="meta", requires_grad=True) * 1
    layer = copy.deepcopy(layer, {id(skeleton.config): skeleton.config})  # some keep what they made
    compute_buffers(skeleton.causal, layer, CPU, skeleton.layers_name)
    layer.to("meta")
    given = {name: on_meta(value) for name, value in arguments.items()}
    before = {name: _keys(value) for name, value in given.items()}
    try:
        with torch.enable_grad():
            found, made = trace(layer, lambda: layer(hidden, **given))
            found = expanded(found, skeleton.experts[index], _outputs(layer))
    except Exception as error:
        raise _no_chain(
            skeleton,
            f"layer {index} cannot be followed without values ({type(error).__name__}: {_first(error)})",
        ) from error
    if changed := [name for name, value in given.items() if _keys(value) != before[name]]:
        raise _no_chain(skeleton, f"layer {index} leaves something for later layers in {changed[0]}")
    output = made[0] if isinstance(made, (tuple, list)) else made
    if output.shape != hidden.shape:
        raise _no_chain(skeleton, f"layer {index} makes {list(output.shape)} of {list(hidden.shape)}")
    return found


def _outputs(layer: nn.Module) -> dict[str, int]:
    linears = ((name, part) for name, part in layer.named_modules() if is_linear(part))
    return {name: int(getattr(part, "out_features", getattr(part, "nf", 0))) for name, part in linears}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return type(one) is type(other)


def _made_on_the_way(value: Any) -> bool:
    """Whether something is from a layer that was run without values."""
    if isinstance(value, (tuple, list)):
        return any(map(_made_on_the_way, value))
    return isinstance(value, Tensor) and value.is_meta


def _keys(value: Any) -> Any:
    return tuple(value) if isinstance(value, dict) else len(value) if isinstance(value, list) else None


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:120]


def _no_chain(skeleton: Skeleton, why: str) -> QuantizationError:
    return unsupported(
        f"a {skeleton.config.model_type} model is not computed layer by layer: {why}", ANOTHER_TYPE
    )
