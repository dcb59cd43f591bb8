"""Finds how a model is built by looking at it: its decoder layers, and the linears of each, stage by stage.

The model is transformers' own of a config.json, without weights, so nothing is listed by hand and nothing is read.
What the walk over layers takes for granted is tried here as well: that each layer is given the hidden states of the
one before, and that whatever else depends on the text can be kept beside them (stream_finding.py). A model that is
built in another way is refused with what it does, before anything is computed.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantization_api.failures import QuantizationError
from quantizer.decoder.architecture import FoundLayer
from quantizer.decoder.buffers import compute_buffers
from quantizer.decoder.context import Arguments, ModelContext
from quantizer.decoder.expert_stages import expanded
from quantizer.decoder.nested import Path, left_in, on_meta, own_containers, tensors_in, without_values
from quantizer.decoder.own_words import said, stops_whole
from quantizer.decoder.skeleton import ANOTHER_TYPE, Skeleton, unsupported
from quantizer.decoder.stream import Stream
from quantizer.decoder.stream_finding import NotKeptError, Seen, differing, find_stream
from quantizer.decoder.tables import further_tables
from quantizer.decoder.tracing import is_linear, trace

TOKENS = 6
MOST_VALUES = 4_000_000
CPU = torch.device("cpu")


def look(skeleton: Skeleton) -> tuple[tuple[FoundLayer, ...], Stream]:
    """What each layer is made of, and what goes from layer to layer.

    Raises:
        QuantizationError: ModelUnsupported for a model that is no chain of layers.
    """
    whole = _context(skeleton)
    try:
        stream, seen = _stream(skeleton, whole)
    except (QuantizationError, MemoryError):
        raise
    except NotKeptError as reason:
        raise _no_chain(skeleton, str(reason)) from reason
    except Exception as error:  # classes differ in how they stop at layers that they do not know
        raise _no_chain(skeleton, _why_stopped(skeleton, whole, error)) from error
    known: dict[FoundLayer, FoundLayer] = {}  # names of hundreds of experts are held once for all layers
    found = (_traced(skeleton, index, layer, seen, stream) for index, layer in enumerate(skeleton.layers))
    return tuple(known.setdefault(one, one) for one in found), stream


def _why_stopped(skeleton: Skeleton, whole: ModelContext, error: Exception) -> str:
    if whole.stopped is not None:
        return _not_followed(*whole.stopped)
    own = stops_whole(skeleton, error)
    return own or f"its class stops where its layers are taken out ({said(error)})"


def _stand_in(shape: torch.Size) -> Tensor:
    """A parameter with other values in each row; a large one costs no memory, and is the same in each column."""
    generator = torch.Generator().manual_seed(0)
    if shape.numel() <= MOST_VALUES:
        return torch.rand(shape, generator=generator) + 0.5
    return (torch.rand((shape[0], *(1 for _ in shape[1:])), generator=generator) + 0.5).expand(shape)


def _context(skeleton: Skeleton) -> ModelContext:
    return ModelContext(
        skeleton, lambda name: _stand_in(skeleton.causal.get_parameter(name).shape), CPU, torch.float32
    )


def _seen(skeleton: Skeleton, whole: ModelContext, begun: tuple[Tensor, Sequence[Arguments]]) -> Seen:
    layers = range(len(skeleton.layers))
    return Seen(*begun, [whole.made(index) for index in layers], [whole.left(index) for index in layers])


def _stream(skeleton: Skeleton, whole: ModelContext) -> tuple[Stream, Seen]:
    """What goes through the layers, and what they are given for a text."""
    first, second, numbers = _two_texts(skeleton)
    rows, further = _tables(skeleton, len(numbers))
    seen = _seen(skeleton, whole, whole.begin(rows, first, numbers, further))
    _, others = whole.begin(rows, second, numbers, further)
    of_text = _of_text(seen.arguments, others)
    made = any(value.is_meta for arguments in seen.arguments for _, value in tensors_in(arguments))
    stream = Stream(whole.width)
    if made or any(of_text) or seen.hidden.shape != (1, TOKENS, whole.width):
        _, changed = whole.begin(rows, first, numbers, further, changes=True)
        for index, (mine, theirs) in enumerate(zip(seen.arguments, changed, strict=True)):
            for path in differing(mine, theirs):
                raise NotKeptError(
                    f"layer {index} takes {path[0]}, which is made of what earlier layers make"
                )
        texts = (first, first.repeat(2, 1), torch.cat((first, first[:, :1]), 1))
        contexts = (_context(skeleton) for _ in texts)
        shapes = [
            _seen(skeleton, one, one.begin(rows, text, numbers, further))
            for one, text in zip(contexts, texts, strict=True)
        ]
        stream = find_stream(whole.width, shapes, of_text)
    _check_end(skeleton, whole, seen.hidden)
    return stream, seen


def _of_text(one: Sequence[Arguments], other: Sequence[Arguments]) -> list[set[Path]]:
    """What differs between the arguments of each layer for two texts, which must be of one kind."""
    for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        for path in {path for path, _ in tensors_in(mine)} ^ {path for path, _ in tensors_in(theirs)}:
            raise NotKeptError(f"layer {index} takes {path[0]} with some texts, and not with others")
    return [differing(mine, theirs) for mine, theirs in zip(one, other, strict=True)]


def _tables(skeleton: Skeleton, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Random rows of the embedding, and of further tables."""
    generator, widths = torch.Generator().manual_seed(0), further_tables(skeleton)
    rows = torch.randn((count, skeleton.embedding_shape[1]), generator=generator)
    return rows, {name: torch.randn((count, width), generator=generator) for name, width in widths.items()}


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


def _check_end(skeleton: Skeleton, whole: ModelContext, hidden: Tensor) -> None:
    """Only what the last layer makes may reach the head."""
    last, others = (torch.full(hidden.shape, value) for value in (0.5, -2.0))
    text = (1, TOKENS)
    read = whole.final(last, text=text)
    if not torch.equal(read, whole.final(last, before=others, text=text)):
        raise _no_chain(skeleton, "its head reads what earlier layers make, beside what the last one makes")
    whole.embed(torch.ones((TOKENS, skeleton.embedding_shape[1])), torch.arange(TOKENS)[None])
    if not torch.equal(read, whole.final(last, text=text)):
        raise _no_chain(skeleton, "its head reads the embeddings, beside what the last layer makes")


def _traced(skeleton: Skeleton, index: int, layer: nn.Module, seen: Seen, stream: Stream) -> FoundLayer:
    hidden = torch.zeros(seen.hidden.shape, device="meta", requires_grad=True) * 1
    layer = copy.deepcopy(layer, {id(skeleton.config): skeleton.config})  # some keep what they made
    compute_buffers(skeleton.causal, layer, CPU, skeleton.layers_name)
    layer.to("meta")
    given = {name: on_meta(value) for name, value in seen.arguments[index].items()}
    before = own_containers(given)
    try:
        with torch.enable_grad(), without_values():
            found, made = trace(layer, lambda: layer(hidden, **given))
            found = expanded(found, skeleton.experts[index], _outputs(layer))
    except Exception as error:
        raise _no_chain(skeleton, _not_followed(index, error)) from error
    kept = {} if stream.plain else seen.left[index]
    left = [*left_in(before, given), *(name for name, value in given.items() if _longer(value, before[name]))]
    if changed := [name for name in left if name not in kept]:
        raise _no_chain(skeleton, f"layer {index} leaves something for later layers in {changed[0]}")
    output = made[0] if isinstance(made, (tuple, list)) else made
    if output.shape != hidden.shape:
        raise _no_chain(skeleton, f"layer {index} makes {list(output.shape)} of {list(hidden.shape)}")
    return found


def _not_followed(index: int, error: Exception) -> str:
    return f"layer {index} cannot be followed without values ({said(error)})"


def _outputs(layer: nn.Module) -> dict[str, int]:
    linears = ((name, part) for name, part in layer.named_modules() if is_linear(part))
    return {name: int(getattr(part, "out_features", getattr(part, "nf", 0))) for name, part in linears}


def _longer(value: Any, before: Any) -> bool:
    return isinstance(value, list) and len(value) != len(before)


def _no_chain(skeleton: Skeleton, why: str) -> QuantizationError:
    return unsupported(f"a {skeleton.model_type} model is not computed layer by layer: {why}", ANOTHER_TYPE)
