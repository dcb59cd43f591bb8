"""Buffers of a model: those that its class computes from the config, and those that a checkpoint has."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantizer.checkpoint.older_transformers import compute_rotary, is_older
from quantizer.decoder.skeleton import ANOTHER_TYPE, unsupported


def compute_buffers(causal: Any, root: nn.Module, device: torch.device, layers_name: str = "") -> None:
    """Gives the buffers below `root` that lie on the meta device their values, as the model's class does.

    That class fills parameters beside them, unless they lie on the meta device: weights are put in afterwards.

    Args:
        causal: the whole model.
        root: that model, or a copy of one of its layers, whose learned buffers the checkpoint has.
        layers_name: of the list that the layer is from; "" for the whole model.

    Raises ModelUnsupported for one that the class does not compute.
    """
    for name, module in root.named_modules():
        if is_older():
            compute_rotary(module, device)
        learned = learned_buffers(module) if layers_name else ()
        empty = {
            key: value
            for key, value in module._buffers.items()
            if value is not None and value.is_meta and key not in learned
        }
        owner = _owner(causal, layers_name or name)
        left = _fill(module, empty, owner, module, device)
        if left and layers_name:  # some classes leave it to what holds the layers
            left = _fill(module, left, owner, _around(causal, layers_name, root), device)
        if left:
            raise unsupported(
                f"the buffer {name}.{next(iter(left))} of a {causal.config.model_type} model is not computed from its "
                "config",
                ANOTHER_TYPE,
            )


def learned_buffers(module: nn.Module) -> tuple[str, ...]:
    """Buffers of a module, not of those below it, that the checkpoint has: numbers that were learned, and tables.

    A table of whole numbers has more than one row (of experts for each token, for example): positions have one.
    """
    return tuple(
        key
        for key, value in module._buffers.items()
        if value is not None
        and (value.is_floating_point() or (value.ndim > 1 and len(value) > 1))
        and key not in module._non_persistent_buffers_set
    )


def cast_masks(root: nn.Module, dtype: torch.dtype) -> None:
    """Gives masks that lie as noughts and ones the type of the computation: some classes multiply scores by them.

    Other buffers, such as the frequencies of rotary positions, stay as exact as their class makes them.
    """
    for module in root.modules():
        for key, value in module._buffers.items():
            if value is not None and not value.is_meta and value.dtype is not dtype and _is_mask(value):
                module._buffers[key] = value.to(dtype)


def _is_mask(value: Tensor) -> bool:
    if not value.is_floating_point() or value.ndim < 2:
        return False
    ones = value == 1
    return bool(ones.any()) and not bool(ones.all()) and bool((ones | (value == 0)).all())


def _fill(
    module: nn.Module, empty: Mapping[str, Tensor], owner: Any, part: nn.Module, device: torch.device
) -> dict[str, Tensor]:
    """Fills buffers of a module; returns those that `owner` does not compute when it initializes `part`."""
    computed: list[dict[str, Tensor]] = []
    for filler in (0, 1) if empty else ():  # what comes out the same from both was computed
        for key, value in empty.items():
            module._buffers[key] = torch.full(value.shape, filler, dtype=value.dtype, device=device)
        owner._init_weights(part)
        computed.append({key: module.get_buffer(key) for key in empty})
    return {key: value for key, value in empty.items() if not torch.equal(computed[0][key], computed[1][key])}


def _owner(causal: Any, name: str) -> Any:
    """The innermost model around a module: models within models initialize what is theirs."""
    parts = name.split(".")
    above = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next(
        (found for one in above if hasattr(found := causal.get_submodule(one), "_init_weights")), causal
    )


def _around(causal: Any, layers_name: str, layer: nn.Module) -> nn.Module:
    """A copy of the module that holds the layers, with this layer alone."""
    holder, _, leaf = layers_name.rpartition(".")
    around: nn.Module = copy.copy(causal.get_submodule(holder))
    around._modules = {**around._modules, leaf: nn.ModuleList([layer])}
    return around
