"""Names of data types: those of config.json, and those of manifests."""

import torch

OF_MANIFESTS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
"""By the words of the contract."""


def asked(said: str | None) -> torch.dtype | None:
    """The type that a parameter of a pass names; None where it leaves the choice ("auto", or nothing)."""
    return None if said in (None, "auto") else OF_MANIFESTS[said]


def word(dtype: torch.dtype) -> str:
    """A type as config.json has it: float16, bfloat16, float32."""
    return str(dtype).removeprefix("torch.")


def from_word(said: object) -> torch.dtype | None:
    """The type that config.json names; None where it names none."""
    found = getattr(torch, str(said).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else None
