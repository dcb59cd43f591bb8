"""Where scales of a decoder layer's input channels can be folded away (AWQ; rotations of a norm's weight)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.decoder.architecture import Fold, NormKind, RowRule
from quantizer.decoder.pattern import LayerPattern

PASSES_SCALES = ("relu",)  # activations f with f(s x) = s f(x) for s > 0


@dataclass(frozen=True)
class FoldPlace:
    """One place of one layer: readers.weight[:, k] * s[k], source / s."""

    kind: Literal["norm", "linear"]
    """What takes 1/s: weight (and bias) of a norm, or rows (and bias) of a linear."""
    source: str
    readers: tuple[str, ...]
    rows: Tensor | None
    """[K], of a linear: the row of the source that makes channel k. Where a row appears more than once (grouped-query
    attention) its channels must share one scale."""
    obstacle: str | None
    """Why the place cannot be used; None: it can."""
    unit_offset: bool = False
    """Whether the norm multiplies by 1 + weight."""


def fold_places(
    folds: tuple[Fold, ...], pattern: LayerPattern, config: Any, norm: NormKind
) -> tuple[FoldPlace, ...]:
    """The folds of a layer on the shapes of this model; "*" stands for each expert."""
    places: list[FoldPlace] = []
    for fold in folds:
        if fold.source.count("*"):
            for expert in range(len(_expanded((fold.source,), pattern))):
                readers = tuple(name.replace("*", str(expert)) for name in fold.readers)
                places.append(
                    _place(fold, fold.source.replace("*", str(expert)), readers, pattern, config, norm)
                )
        else:
            places.append(_place(fold, fold.source, _expanded(fold.readers, pattern), pattern, config, norm))
    return tuple(places)


def _expanded(readers: tuple[str, ...], pattern: LayerPattern) -> tuple[str, ...]:
    found: list[str] = []
    for reader in readers:
        before, star, behind = reader.partition("*")
        if star:
            found += [
                name.removesuffix(".weight")
                for name in pattern.shapes
                if name.startswith(before) and name.endswith(f"{behind}.weight")
            ]
        else:
            found.append(reader)
    return tuple(found)


def _place(
    fold: Fold,
    source: str,
    readers: tuple[str, ...],
    pattern: LayerPattern,
    config: Any,
    norm: NormKind,
) -> FoldPlace:
    obstacle = fold.obstacle
    if fold.activation is not None:
        name = str(getattr(config, fold.activation))
        if name not in PASSES_SCALES:
            obstacle = f"the activation {name} lies between: no scale passes through it"
    if fold.kind == "norm":
        if f"{source}.weight" not in pattern.shapes:
            obstacle = "the norm has no weight"
        return FoldPlace("norm", source, readers, None, obstacle, unit_offset=norm == "rms_plus_one")
    inputs = pattern.transposed_shape(f"{readers[0]}.weight")[1]
    outputs = pattern.transposed_shape(f"{source}.weight")[0]
    return FoldPlace("linear", source, readers, rows_of(fold.rows, inputs, outputs, config), obstacle)


def rows_of(rule: RowRule, inputs: int, outputs: int, config: Any) -> Tensor:
    """[K]: the row of the source [outputs, .] that makes each of the K input channels."""
    channels = torch.arange(inputs)
    if rule == "same":
        return channels
    if rule == "second_half":
        return channels + outputs - inputs
    heads = int(config.num_attention_heads)
    size = inputs // heads
    if rule == "interleaved_values":
        return channels // size * 3 * size + 2 * size + channels % size
    # from the shapes: a config may name key-value heads that its architecture does not look at
    value_heads = outputs // size if rule == "values" else (outputs // size - heads) // 2
    if value_heads < 1 or heads % value_heads:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"the {heads} attention heads cannot share {value_heads} heads of values evenly",
            "Correct num_attention_heads and num_key_value_heads in config.json: they do not fit the weights.",
        )
    row = channels // size // (heads // value_heads) * size + channels % size
    return row if rule == "values" else row + outputs - value_heads * size
