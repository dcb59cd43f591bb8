"""Linears that read fewer calibration tokens than they have inputs: experts that a router rarely chooses.

K inputs need K tokens at least for a Hessian of full rank. With fewer, directions that no token showed are
rounded as if nothing were known of them, and damping alone keeps the factorization alive.
"""

from collections.abc import Sequence

from quantization_api.manifest import LinearReport
from quantizer.passes.statistics import MORE_TOKENS

NAMED = 3  # linears that the message names


def few_tokens(linears: Sequence[LinearReport]) -> str | None:
    """What to tell about linears with fewer tokens than inputs, those with the fewest first; None without any."""
    short = sorted(
        (linear.tokens / linear.shape[1], linear.name, f"{linear.tokens} for {linear.shape[1]}")
        for linear in linears
        if linear.tokens is not None and linear.tokens < linear.shape[1]
    )
    if not short:
        return None
    named = ", ".join(f"{name} ({counts})" for _, name, counts in short[:NAMED])
    more = f" and {len(short) - NAMED} more" if len(short) > NAMED else ""
    return (
        f"{len(short)} of {len(linears)} linears read fewer calibration tokens than they have inputs: "
        f"{named}{more}. Their rounding is fitted to these few. {MORE_TOKENS}"
    )
