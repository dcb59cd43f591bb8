"""A whole model, walked layer by layer as a pass walks it, against transformers' own forward."""

from pathlib import Path
from typing import Any

import torch
from tests.support.decoder_families import Stores, inputs_of, layer_weights, relative
from torch import Tensor

from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel

SHAPES = ((2, 17), (1, 9))


def stages_of(layout: DecoderLayout, index: int = 0) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """The stages of a layer as plain names: by stage, by shared input."""
    return tuple(tuple(shared.names for shared in stage.shared_inputs) for stage in layout.stages(index))


def walked_logits(model: DecoderModel, batches: list[Tensor], folder: Path) -> list[Tensor]:
    """Logits of each batch, by the walk over one layer at a time, stage by stage."""
    stores, shapes = Stores(folder, model.dtype), [(batch.shape[0], batch.shape[1]) for batch in batches]
    width = model.layout.stream.widest(shapes)
    with torch.inference_mode(), stores("hidden", shapes, width) as hidden:
        for number, embedded in enumerate(model.embed(batches)):
            hidden.write(number, embedded)
        for index in range(model.layout.layers):
            with model.walk(index, layer_weights(model, index), hidden, stores) as walk:
                for stage in walk.stages:
                    inputs_of(walk, [stage])
                    walk.finish([stage])
        read = [model.final(hidden.read(number)) for number in range(len(batches))]
        return [_logits(model, states) for states in read]


def walked_error(whole: Any, model: DecoderModel, folder: Path) -> float:
    """The largest difference of logits between the walk and transformers' whole model, by the largest logit.

    The whole model is moved to the data type of the walk.
    """
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randint(3, model.layout.vocabulary, shape, generator=generator) for shape in SHAPES]
    return error_of(whole, model, batches, folder)


def error_of(whole: Any, model: DecoderModel, batches: list[Tensor], folder: Path) -> float:
    """As `walked_error`, for these batches of tokens."""
    whole.to(model.dtype)
    with torch.no_grad():
        expected = [whole(input_ids=batch, use_cache=False).logits for batch in batches]
    ours = walked_logits(model, batches, folder)
    return max(relative(one, other) for one, other in zip(ours, expected, strict=True))


def _logits(model: DecoderModel, states: Tensor) -> Tensor:
    slices = model.table_slices(model.layout.head_name(), step=7)
    return torch.cat([model.logits(states, first, rows) for first, rows in slices], dim=-1)
