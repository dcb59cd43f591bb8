"""Names of data types."""

import torch


def word(dtype: torch.dtype) -> str:
    """A type as config.json has it: float16, bfloat16, float32."""
    return str(dtype).removeprefix("torch.")


def from_word(said: object) -> torch.dtype | None:
    """The type that config.json names; None where it names none."""
    found = getattr(torch, str(said).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else None
