"""Which module forbids the rotation of a residual stream, by trying: without its numbers the function would stay."""

import torch
from torch import Tensor, nn

from quantizer.algorithms.quarot.rotation import Orthogonal
from quantizer.algorithms.quarot.rotation_layout import PLUS_ONE, LayerLayout
from quantizer.passes.norm_kinds import norm_kind
from quantizer.passes.rotation_trial import SECOND, LayerTrial, Weights


def forbidding(trial: LayerTrial, sites: LayerLayout, turn: Orthogonal) -> str | None:
    """Why a layer whose function does not stay cannot be rotated; None where no single module is the reason."""
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


def _gates(trial: LayerTrial, sites: LayerLayout) -> dict[str, Weights]:
    """Linears that read the stream and whose output is part of what is added, with no other behind: factors of it."""
    readers = {name for norm in sites.norms for name in norm.readers}
    gates = [name for name in sites.writers if name in readers]
    return {
        name: {
            key: torch.zeros_like(trial.weights[key])
            for key in (f"{name}.{SECOND}.weight", f"{name}.{SECOND}.bias")
            if key in trial.weights
        }
        for name in gates
    }


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
