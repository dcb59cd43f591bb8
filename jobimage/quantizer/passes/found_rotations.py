"""What a rotation needs to know of a model that is not in the table of architectures: found, and tried.

Looking at a layer (decoder/tracing.py) tells what reads the residual stream and what adds to it. That a rotation leaves
the function as it is, is tried with the arithmetic that will rotate the model: what comes before the layers, one layer
of each kind and what comes behind them are computed on random numbers, as they are and with a reflection in the place
of the rotation. Weights of layers are random, too, so nothing but small tensors is read.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from quantizer.algorithms.quarot.rotation import Orthogonal
from quantizer.algorithms.quarot.rotation_layout import CENTRED, HeadSite, LayerLayout, NormSite
from quantizer.decoder.architecture import FoundLayer, StreamRead
from quantizer.decoder.found_folds import possible_places
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel
from quantizer.passes.found_surroundings import NO_ROWS, WITHOUT_WEIGHT, find_surroundings
from quantizer.passes.norm_kinds import norm_kind
from quantizer.passes.rotation_obstacles import forbidding
from quantizer.passes.rotation_trial import CPU, LayerTrial, Reflection


class FoundRotation:
    """The residual stream of a model.

    Attributes: model (its layout; `obstacle` says why it cannot be rotated, if so), layers (of each layer).
    """

    def __init__(self, model: DecoderLayout) -> None:
        self._layout, self._model = model, DecoderModel(model, CPU)
        self._obstacle = _beside_obstacle(model)
        with torch.inference_mode():
            kinds = [model.kind(index) for index in range(model.layers)]
            first = {kind: kinds.index(kind) for kind in kinds}
            around = find_surroundings(model)
            sites = {kind: self._sites(index) for kind, index in first.items()}
            norms = (norm for layer in sites.values() for norm in layer.norms)
            centred = any(norm.kind in CENTRED for norm in (*norms, around.model.final_norm))
            turn = Reflection(model.width, keeps_mean=centred)
            tried = {
                kind: NO_ROWS if self._obstacle else self._tried(first[kind], layer, turn)
                for kind, layer in sites.items()
            }
            self.layers = tuple(tried[kind] for kind in kinds)
            found = replace(around.model, obstacle=self._obstacle) if self._obstacle else around.tried(turn)
        self.model = replace(found, layer=self.layers[0], further=tuple(tried.values()))

    def _sites(self, index: int) -> LayerLayout:
        """What reads and writes the stream in a layer, as looking tells it.

        A linear that is narrower than the stream is no writer: what it makes is a factor of what is added.
        """
        found, width, pattern = self._layout.found(index), self._layout.width, self._layout.pattern(index)
        module = self._model.stock_layer(index)[0]

        def as_wide(names: tuple[str, ...], side: int) -> tuple[str, ...]:
            return tuple(name for name in names if pattern.transposed_shape(f"{name}.weight")[side] == width)

        norms = []
        for read in found.reads:
            norm = module.get_submodule(pattern.names.own_module(read.norm)) if read.norm else None
            site = _norm_site(norm, replace(read, readers=as_wide(read.readers, 1)), width)
            if site is None and self._obstacle is None:
                self._obstacle = f"{read.norm} is a norm of a kind that cannot be folded into what reads it"
            norms += [site] if site else []
        return replace(NO_ROWS, norms=tuple(norms), writers=as_wide(found.writers, 0))

    def _tried(self, index: int, sites: LayerLayout, turn: Orthogonal) -> LayerLayout:
        """Tries a layer; sets the obstacle where its function does not stay."""
        trial = LayerTrial(self._model, index)
        for layout in dict.fromkeys((sites, replace(sites, shifts=trial.shifts()))):
            if trial.stays(layout, turn):
                with_heads = (
                    replace(layout, attention=heads)
                    for heads in self._heads(trial, self._layout.found(index))
                )
                stay = (one for one in with_heads if trial.stays(one, turn))
                return next(stay, layout)
        name = type(self._layout.skeleton.layers[index]).__name__
        self._obstacle = (
            forbidding(trial, sites, turn)
            or f"{self._layout.layers_name}.{index} ({name}) does not compute the same on a rotated residual stream"
        )
        return NO_ROWS

    def _heads(self, trial: LayerTrial, found: FoundLayer) -> Iterator[HeadSite]:
        """Where the heads' values may be, by shapes: between a linear and one that writes what is made of them."""
        layer, heads = trial.plain, self._layout.number("num_attention_heads") or 0
        for candidate in found.candidates:
            if (
                candidate.kind == "norm"
                or len(candidate.readers) != 1
                or candidate.readers[0] not in found.writers
                or layer.experts_of(candidate.source) is not None
            ):
                continue
            inputs = layer.linear(candidate.readers[0]).in_features
            if heads < 1 or inputs % heads or inputs == heads:
                continue
            for place in possible_places(layer, candidate, self._layout.config):
                assert place.rows is not None
                size = inputs // heads
                starts = dict.fromkeys(int(place.rows[head * size]) for head in range(heads))
                yield HeadSite(place.source, tuple(starts), candidate.readers[0], heads, size)


def _beside_obstacle(model: DecoderLayout) -> str | None:
    """What images and sound become enters the stream beside the embeddings, and stays as it is."""
    beside = next(iter(model.skeleton.beside), None)
    return beside and (
        f"{beside}, or what follows it, adds to the residual stream beside the embeddings of text, and is not rotated"
    )


def _norm_site(module: nn.Module | None, read: StreamRead, width: int) -> NormSite | None:
    if module is None or read.norm is None:
        return NormSite(WITHOUT_WEIGHT, "layer", read.readers)
    kind = norm_kind(module, width)
    return None if kind is None else NormSite(read.norm, kind, read.readers)
