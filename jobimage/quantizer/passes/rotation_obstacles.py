"""Which module forbids the rotation of a residual stream, by trying: without its numbers the function would stay."""

import itertools
from dataclasses import replace

import torch
from torch import Tensor, nn

from quantizer.algorithms.quarot.rotation import Orthogonal
from quantizer.algorithms.quarot.rotation_layout import PLUS_ONE, LayerLayout
from quantizer.passes.norm_kinds import norm_kind
from quantizer.passes.rotation_trial import SECOND, LayerTrial, Weights


def forbidding(trial: LayerTrial, sites: LayerLayout, turn: Orthogonal) -> str | None:
    """Why a layer whose function does not stay cannot be rotated; None where no single module is the reason."""
    return _scaling(trial, sites, turn) or _factor(trial, sites, turn)


def _scaling(trial: LayerTrial, sites: LayerLayout, turn: Orthogonal) -> str | None:
    suspects = {**_gates(trial, sites), **_vectors(trial, turn.size)}
    neutral = {name: value for one in suspects.values() for name, value in one.items()}
    if not trial.stays(sites, turn, neutral):
        return None
    for suspect, own in suspects.items():
        alone = {name: trial.weights[name] if name in own else value for name, value in neutral.items()}
        if not trial.stays(sites, turn, alone):
            return (
                f"{suspect} scales the residual stream, or what is added to it, channel by channel, so the stream "
                "cannot be rotated"
            )
    return None


def _factor(trial: LayerTrial, sites: LayerLayout, turn: Orthogonal) -> str | None:
    """A linear whose output is a factor of what a norm makes: without it, linears behind it would read the stream."""
    taken = {*sites.writers, *(name for norm in sites.norms for name in norm.readers)}
    shared = [one.names for stage in trial.plain.stages for one in stage.shared_inputs]
    sizes = trial.sizes()
    groups = [
        names
        for names in shared
        if not taken.intersection(names) and sizes.get(names[0], (0, 0))[1] == trial.width
    ]
    factors = [name for name, (outputs, _) in sizes.items() if outputs == trial.width and name not in taken]
    for name, behind, norm in itertools.product(factors, groups, sites.norms):
        wider = replace(norm, readers=(*norm.readers, *behind))
        norms = tuple(wider if one is norm else one for one in sites.norms)
        if name not in behind and trial.stays(replace(sites, norms=norms), turn, _nothing(trial, name)):
            return f"{name} is a factor of what {norm.name} makes, channel by channel, so the stream cannot be rotated"
    return None


def _nothing(trial: LayerTrial, name: str) -> Weights:
    """Weights with which a linear makes zeros."""
    keys = (f"{name}.{SECOND}.weight", f"{name}.{SECOND}.bias")
    return {key: torch.zeros_like(trial.weights[key]) for key in keys if key in trial.weights}


def _gates(trial: LayerTrial, sites: LayerLayout) -> dict[str, Weights]:
    """Linears that read the stream and whose output is part of what is added, with no other behind: factors of it."""
    readers = {name for norm in sites.norms for name in norm.readers}
    gates = [name for name in sites.writers if name in readers]
    return {name: _nothing(trial, name) for name in gates}


def _vectors(trial: LayerTrial, width: int) -> dict[str, Weights]:
    """Numbers for each channel, by the module that has them, or by their own name; what does nothing in their place."""
    found: dict[str, Weights] = {}
    for name, value in trial.vectors():
        owner, _, leaf = name.rpartition(".")
        suspect = owner if owner and leaf in ("weight", "bias") else name
        found.setdefault(suspect, {})[name] = _neutral(trial.owner(name), leaf, value, width)
    return found


def _neutral(owner: nn.Module, leaf: str, value: Tensor, width: int) -> Tensor:
    zero = leaf.endswith("bias") or norm_kind(owner, width) in PLUS_ONE
    return torch.zeros_like(value) if zero else torch.ones_like(value)
