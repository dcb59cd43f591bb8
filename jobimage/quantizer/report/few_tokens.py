"""Linears that read fewer calibration tokens than they have inputs: experts that a router rarely chooses.

K inputs need K tokens at least for a Hessian of full rank. With fewer, directions that no token showed are
rounded as if nothing were known of them, and damping alone keeps the factorization alive.
"""

from collections.abc import Sequence
from typing import Protocol

from quantizer.passes.statistics import MORE_TOKENS

NAMED = 3  # linears that the message names


class Calibrated(Protocol):
    """A linear [N, K] and the calibration tokens that it read; None where unknown."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def tokens(self) -> int | None: ...


def few_tokens(modules: Sequence[Calibrated]) -> str | None:
    """What to tell about linears with fewer tokens than inputs, those with the fewest first; None without any."""
    short = sorted(
        (module.tokens / module.shape[1], module.name, f"{module.tokens} for {module.shape[1]}")
        for module in modules
        if module.tokens is not None and module.tokens < module.shape[1]
    )
    if not short:
        return None
    named = ", ".join(f"{name} ({counts})" for _, name, counts in short[:NAMED])
    more = f" and {len(short) - NAMED} more" if len(short) > NAMED else ""
    return (
        f"{len(short)} of {len(modules)} linears read fewer calibration tokens than they have inputs: "
        f"{named}{more}. Their rounding is fitted to these few. {MORE_TOKENS}"
    )
