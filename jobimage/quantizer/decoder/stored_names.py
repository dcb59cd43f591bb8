"""What a checkpoint calls the tensors of a model whose class has other names or shapes for them.

transformers converts such a checkpoint as it loads it. Its own conversion is turned round here, on stand-ins: tensors
without values, and for fused experts small ones with a number in each place, which tell where each expert's rows go. So
no type is listed, and a new one needs nothing here.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from quantizer.checkpoint.pieces import Piece
from quantizer.decoder.fused_experts import FusedExperts, Half, Place
from quantizer.decoder.skeleton import Skeleton

STANDING_IN = FusedExperts(2, 4, 3, {})
"""Experts, width and inner width of what stands in for fused tensors."""
PLACES = tuple(
    Place("", half, transposed) for half, transposed in itertools.product(get_args(Half), (False, True))
)

MOST_CODES = 100

PARTS = 12
"""Size of what stands in for a tensor that a conversion cuts: it has halves, thirds and quarters."""

IsStored = Callable[[str], bool]
"""Whether the checkpoint has a tensor of a name."""


@dataclass(frozen=True)
class Joined:
    """A tensor of the model that the checkpoint holds in parts: their names, to be joined along `axis`."""

    parts: tuple[str, ...]
    axis: int


@dataclass
class StoredNames:
    """Names and places of the tensors of a model in a checkpoint."""

    renamed: dict[str, str] = field(default_factory=dict)
    """Name in the model, which has linears for experts -> in checkpoint and artifact; where they differ."""
    pieces: dict[str, Piece] = field(default_factory=dict)
    """Name in the artifact -> where it lies, of experts that the checkpoint holds in fused tensors."""
    idle: set[str] = field(default_factory=set)
    """Names in the checkpoint that rows of experts which do nothing have."""
    joined: dict[str, Joined] = field(default_factory=dict)
    """Name in the model -> its parts; of tensors that the checkpoint holds in parts."""

    def __call__(self, name: str) -> str:
        """The name in the checkpoint of a tensor of the model."""
        return self.renamed.get(name, name)

    def in_layer(self, own: str, stored: str) -> Callable[[str], str]:
        """By its name in a layer, what the checkpoint calls a tensor there.

        own, stored: how names of the layer's tensors begin in the model and in the checkpoint.
        """

        def name_of(name: str) -> str:
            other = self(own + name)
            return other.removeprefix(stored) if other.startswith(stored) else name

        return name_of

    def joined_in_layer(self, own: str, stored: str) -> dict[str, Joined]:
        """The tensors of a layer that are held in parts, all by their names in the layer; see `in_layer`."""
        return {
            name.removeprefix(own): Joined(tuple(part.removeprefix(stored) for part in held.parts), held.axis)
            for name, held in self.joined.items()
            if name.startswith(own)
        }

    def layers(self, name: str) -> str:
        """The name in the checkpoint of the list of layers."""
        return self.prefix_of(f"{name}.0.any", name).removesuffix(".0.any")

    def prefix_of(self, module: str, layers: str) -> str:
        """The name of a module of a layer where only the name of its layer is another one in the checkpoint."""
        number, _, rest = module.removeprefix(f"{layers}.").partition(".")
        own = f"{layers}.{number}."
        stored = next((name for own_name, name in self.renamed.items() if own_name.startswith(own)), own)
        before, middle, _ = f".{stored}".partition(f".{number}.")
        return f"{before[1:]}{middle}{rest}" if middle else module


def stored_names(skeleton: Skeleton, tensors: Collection[str]) -> StoredNames:
    """The names in a checkpoint that has these tensors, as it is or quantized."""
    packed = {
        f"{name.rpartition('.')[0]}.weight" for name in tensors
    }  # whatever a linear's weight is made of
    return _names(skeleton, lambda name: name in tensors or name in packed)


def stored_beside(skeleton: Skeleton, tensors: Collection[str]) -> dict[str, dict[str, tuple[int, ...]]]:
    """By module beside the decoder of text: names and shapes that a checkpoint with these tensors has of what is in it.

    Buffers are among them only where the checkpoint has them.
    """
    return {
        name: _stored_of(skeleton.causal, name, module, tensors) for name, module in skeleton.beside.items()
    }


def _stored_of(
    model: Any, name: str, module: nn.Module, tensors: Collection[str]
) -> dict[str, tuple[int, ...]]:
    own = {f"{name}.{key}": tensor for key, tensor in module.state_dict(keep_vars=True).items()}
    made = _turned_round(model, own)
    found = made if any(one in tensors for one in made) else own
    return {
        one: tuple(tensor.shape)
        for one, tensor in found.items()
        if one in tensors or isinstance(tensor, nn.Parameter)
    }


def _names(skeleton: Skeleton, is_stored: IsStored) -> StoredNames:
    model, layers = skeleton.causal, skeleton.layers_name
    experts = {
        f"{layers}.{index}.{module}": fused
        for index, found in enumerate(skeleton.experts)
        for module, fused in found.items()
    }
    linears = tuple(f"{module}.0." for module in experts)
    stands = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(linears)}
    fused = {
        f"{module}.{tensor}": (held, tensor)
        for module, held in experts.items()
        for tensor in sorted({place.tensor for place in held.places.values()})
    }
    coded = {name: _codes(*what, number) for number, (name, what) in enumerate(fused.items())}
    made = _turned_round(model, stands | coded)
    others = {id(tensor): name for name, tensor in made.items()}
    names = StoredNames()
    for name, stand in stands.items():
        other = others.get(id(stand), name)
        if other != name and (is_stored(other) or not is_stored(name)):
            names.renamed[name] = other
    kept = {id(tensor) for tensor in made.values()}
    cut = {
        name: stand
        for name, stand in stands.items()
        if id(stand) not in kept and not is_stored(name) and not _of_linear(model, name)
    }
    names.joined = _joined(model, cut, is_stored)
    where = _Whereabouts({name: tensor for name, tensor in made.items() if not tensor.is_meta})
    for module, held in experts.items():
        placed = _Module(module, held, names.prefix_of(module, layers))
        _name_experts(names, placed, coded, where, is_stored)
    return names


def _of_linear(model: Any, name: str) -> bool:
    """Whether a tensor is a linear's, which has one name in everything that a pass writes."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), (nn.Linear, Conv1D))


def _joined(model: Any, lost: Mapping[str, Tensor], is_stored: IsStored) -> dict[str, Joined]:
    """Which tensors that a conversion cuts the checkpoint has in parts."""
    coded: dict[str, Tensor] = {}
    for number, (name, tensor) in enumerate(lost.items()):
        size = PARTS**tensor.ndim
        coded[name] = torch.arange(number * size, (number + 1) * size).view((PARTS,) * tensor.ndim)
    made = _turned_round(model, dict(coded)) if coded else {}
    holder = {code: name for name, tensor in made.items() for code in tensor.flatten().tolist()}
    found: dict[str, Joined] = {}
    for name, whole in coded.items():
        parts = tuple(dict.fromkeys(holder.get(code, "") for code in whole.flatten().tolist()))
        if len(parts) > 1 and all(map(is_stored, parts)):
            cut = [made[part] for part in parts]
            axis = next((one for one in range(whole.ndim) if _are(whole, cut, one)), None)
            if axis is not None:
                found[name] = Joined(parts, axis)
    return found


def _are(whole: Tensor, parts: list[Tensor], axis: int) -> bool:
    """Whether these are the parts of a tensor along an axis."""
    others = [part.shape[:axis] + part.shape[axis + 1 :] for part in parts]
    fits = all(other == whole.shape[:axis] + whole.shape[axis + 1 :] for other in others)
    return fits and torch.equal(torch.cat(parts, axis), whole)


@dataclass(frozen=True)
class _Module:
    name: str
    fused: FusedExperts
    stored: str
    """Its name in the checkpoint, as far as the names of layers go."""


class _Whereabouts:
    """Where numbers of stand-ins are in what the conversion made of them."""

    def __init__(self, made: Mapping[str, Tensor]) -> None:
        self._made = made
        self._holder = {number: name for name, tensor in made.items() for number in tensor.flatten().tolist()}

    def alone(self, wanted: Sequence[Tensor]) -> tuple[str, str] | None:
        """For the weights of experts 0 and 1: what is before and behind the number in the names of their tensors."""
        names = [self._holder.get(int(one.flatten()[0]), "") for one in wanted]
        if not all(names) or not all(
            torch.equal(self._made[name], one) for name, one in zip(names, wanted, strict=True)
        ):
            return None
        parts = [name.split(".") for name in names]
        for at, pair in enumerate(zip(*parts, strict=False)):
            if pair == ("0", "1"):
                before, behind = ".".join(parts[0][:at]), ".".join(parts[0][at + 1 :])
                return f"{before}.", f".{behind}"
        return None

    def within(self, wanted: Sequence[Tensor]) -> tuple[str, Place] | None:
        """The fused tensor that they lie in, and where."""
        name = self._holder.get(int(wanted[0].flatten()[0]), "")
        held = self._made.get(name)
        if held is None or held.ndim != wanted[0].ndim + 1 or len(held) != len(wanted):
            return None
        for place in PLACES if held.ndim > 2 else PLACES[::2]:
            if all(torch.equal(place.cut(block), one) for block, one in zip(held, wanted, strict=True)):
                return name, place
        return None


def _name_experts(
    names: StoredNames, module: _Module, coded: Mapping[str, Tensor], where: _Whereabouts, is_stored: IsStored
) -> None:
    fused = module.fused
    for part, own in fused.places.items():
        wanted = [own.cut(block) for block in coded[f"{module.name}.{own.tensor}"]]
        before, behind = where.alone(wanted) or (f"{module.stored}.", f".{part}")
        fused_as = (where.within(wanted), (f"{module.name}.{own.tensor}", own))
        held = next((found for found in fused_as if found and is_stored(found[0])), None)
        if is_stored(f"{before}0{behind}"):
            held = None
        idle = range(fused.count, fused.count + fused.idle)
        names.idle |= {f"{before}{expert}{behind}" for expert in idle}
        for expert in range(fused.count):
            stored = f"{before}{expert}{behind}"
            if (name := f"{module.name}.{expert}.{part}") != stored:
                names.renamed[name] = stored
            if held is not None:
                names.pieces[stored] = Piece(held[0], expert, fused.shape(part), held[1].cut)


def _turned_round(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What transformers makes of a model's tensors as it saves them; the same where it cannot."""
    from transformers.core_model_loading import revert_weight_conversion

    try:
        made: dict[str, Tensor] = revert_weight_conversion(model, tensors)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError):
        return tensors
    return made


def _codes(fused: FusedExperts, tensor: str, number: int) -> Tensor:
    """A small fused tensor in which every number is another one, also than in those of other `number`s."""
    part, place = next((part, place) for part, place in fused.places.items() if place.tensor == tensor)
    rows, *columns = STANDING_IN.shape(part)
    rows *= 1 if place.half == "all" else 2
    shape = torch.Size((STANDING_IN.count, *((*columns, rows) if place.transposed else (rows, *columns))))
    first = MOST_CODES * (1 + number)
    return torch.arange(first, first + shape.numel()).view(shape)
