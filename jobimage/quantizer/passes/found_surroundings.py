"""What a rotation needs to know of a model outside its layers: found, and tried on random numbers.

Rows of embeddings enter the residual stream as they are, or with positions of stored tables. Behind the layers a norm
is read by the head, or by a linear before the head.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantizer.algorithms.quarot.rotation import Orthogonal, folded_bias, neutral_weight, norm_weight
from quantizer.algorithms.quarot.rotation_layout import LayerLayout, ModelLayout, NormKind, NormSite
from quantizer.decoder.context import ModelContext
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel
from quantizer.passes.norm_kinds import norm_kind
from quantizer.passes.rotation_trial import CPU, TOKENS, alike, random

WITHOUT_WEIGHT = ""
"""The name of a norm that has none."""
NO_ROWS = LayerLayout(norms=(), writers=(), attention=None, down=None, down_width=0)


@dataclass(frozen=True)
class Surroundings:
    """A model outside its layers.

    Attributes: model (its layout, without layers; `obstacle` says why it cannot be rotated, if that can be seen).
    """

    layout: DecoderLayout
    model: ModelLayout

    def tried(self, turn: Orthogonal) -> ModelLayout:
        """The layout with which the function stays, or with an obstacle."""
        if self.model.obstacle:
            return self.model
        decoder = DecoderModel(self.layout, CPU)
        if obstacle := self._before(decoder, turn):
            return replace(self.model, obstacle=obstacle)
        found = next((one for one in self._readings() if self._stays_behind(decoder, one, turn)), None)
        behind = "what comes behind its layers does not compute the same on a rotated residual stream"
        return found or replace(self.model, obstacle=behind)

    def _before(self, decoder: DecoderModel, turn: Orthogonal) -> str | None:
        plain, turned = decoder.around(), decoder.around(self._turned(self.model, turn))
        if _enters_alike(plain, turned, turn):
            return None
        for (name, one), (_, other) in zip(plain.computed(), turned.computed(), strict=True):
            kept = one.clone()
            one.zero_()
            other.zero_()
            if _enters_alike(plain, turned, turn):
                return (
                    f"{name} is added to the embeddings; its class computes it and no checkpoint holds it, so the "
                    "stream cannot be rotated"
                )
            one.copy_(kept)
            other.copy_(kept)
        return "what comes before its layers does not compute the same with rotated embeddings"

    def _readings(self) -> Iterator[ModelLayout]:
        """The head reads the final norm, or a linear before the head does."""
        yield self.model
        for name in self.model.tables[1:]:
            tables = tuple(table for table in self.model.tables if table != name)
            yield replace(
                self.model, tables=tables, final_norm=replace(self.model.final_norm, readers=(name,))
            )

    def _stays_behind(self, decoder: DecoderModel, model: ModelLayout, turn: Orthogonal) -> bool:
        hidden, head = random((1, TOKENS, model.width), 4), random((TOKENS, model.width), 5)
        plain, turned = decoder.around(), decoder.around(self._turned(model, turn))
        rows = self._read_turned(model, head, turn) if model.head in model.final_norm.readers else head
        one = plain.logits(plain.final(hidden), 0, head)
        other = turned.logits(turned.final(turn.apply(hidden)), 0, rows)
        return alike(other, one, one.abs().max())

    def _turned(self, model: ModelLayout, turn: Orthogonal) -> Callable[[str, Tensor], Tensor]:
        """What the rotation makes of a parameter outside the layers, by its name in the model."""
        site = model.final_norm

        def changed(name: str, value: Tensor) -> Tensor:
            stored = self.layout.stored_name(name)
            if stored in model.tables:
                return turn.apply(value.double()).float()
            if stored in site.readers:
                return self._read_turned(model, value, turn)
            if stored == f"{site.name}.weight":
                return neutral_weight(site.kind, value.float())
            if stored == f"{site.name}.bias" and (weight := self._weight(site)) is not None:
                return turn.apply(folded_bias(site.name, norm_weight(site.kind, weight), value)).float()
            return value

        return changed

    def _read_turned(self, model: ModelLayout, rows: Tensor, turn: Orthogonal) -> Tensor:
        """Rows [n, width] of what reads the final norm."""
        weight = self._weight(model.final_norm)
        scale = 1.0 if weight is None else norm_weight(model.final_norm.kind, weight)
        return turn.apply(rows.double() * scale).float()

    def _weight(self, site: NormSite) -> Tensor | None:
        name = f"{site.name}.weight"
        return self.layout.reader.tensor(name) if name in self.layout.reader.tensors else None


def find_surroundings(layout: DecoderLayout) -> Surroundings:
    """What is outside the layers of a model, as looking tells it."""
    around = DecoderModel(layout, CPU).around()
    before, behind = around.norms_around(random((1, TOKENS, layout.width), 2))
    shapes = layout.outside_shapes().items()
    tables = (name for name, shape in shapes if len(shape) == 2 and shape[1] == layout.width)
    head, last, obstacle = layout.head_name(), behind[-1] if behind else None, None
    kind: NormKind | None = "layer"
    if last is not None:
        kind = norm_kind(layout.skeleton.causal.get_submodule(last), layout.width)
    if kind is None:
        obstacle = f"{last} is a norm of a kind that cannot be folded into the head"
    if before:
        obstacle = (
            f"{_stored_module(layout, before[0])} scales the embeddings, channel by channel, before they enter the "
            "residual stream, so the stream cannot be rotated"
        )
    site = NormSite(_stored_module(layout, last) if last else WITHOUT_WEIGHT, kind or "layer", (head,))
    tied, names = head == layout.embedding_name(), (layout.embedding_name(), *tables)
    return Surroundings(
        layout, ModelLayout(layout.width, names, site, head, tied, NO_ROWS, obstacle=obstacle)
    )


def _stored_module(layout: DecoderLayout, name: str) -> str:
    """What the checkpoint calls a module with a weight."""
    return layout.stored_name(f"{name}.weight").removesuffix(".weight")


def _enters_alike(plain: ModelContext, turned: ModelContext, turn: Orthogonal) -> bool:
    """Whether rotated rows of the embedding come to the layers as the others do, rotated."""
    rows, tokens = random((TOKENS, turn.size), 3), torch.arange(TOKENS)[None]
    one, other = plain.embed(rows, tokens), turned.embed(turn.apply(rows), tokens)
    return alike(other, turn.apply(one), one.abs().max())
