"""What a model's own class says of it where it stops, told apart from what taking it to pieces does."""

import copy

import torch
from torch import nn

from quantizer.decoder.nested import without_values
from quantizer.decoder.skeleton import Skeleton

TOKENS = 6
LONGEST = 120


def said(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:LONGEST]}"


def stops_whole(skeleton: Skeleton, error: Exception) -> str | None:
    """Why the model stops in the same way with all of its layers in it, on text alone; None where it does not."""
    whole = copy.deepcopy(skeleton.causal).to("meta")
    with without_values():
        return _stops(whole, error)


def _stops(whole: nn.Module, error: Exception) -> str | None:
    try:
        whole(input_ids=torch.zeros((1, TOKENS), dtype=torch.int64, device="meta"), use_cache=False)
    except Exception as own:  # noqa: BLE001 - classes differ in how they stop
        if (type(own), str(own)) == (type(error), str(error)):
            return f"transformers' class does not run it on text alone, with this config.json ({said(own)})"
    return None
