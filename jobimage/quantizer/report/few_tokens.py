"""Linears that read few calibration tokens: experts that a router rarely chooses, or anything after too little text.

K inputs need K tokens at least for a Hessian of full rank, and about twice as many for a rounding that is fitted to
them to be better than rounding to nearest on other text too (passes.statistics).
"""

from collections.abc import Sequence

from quantization_api.manifest import LinearReport
from quantizer.passes.statistics import MORE_TOKENS, TOKENS_PER_INPUT, are_few

NAMED = 3  # linears that a message names


def few_tokens(linears: Sequence[LinearReport]) -> str | None:
    """What to tell about linears with few tokens, those with the fewest first; None without any."""
    read = [linear for linear in linears if linear.tokens is not None]
    short = [linear for linear in read if are_few(linear.tokens or 0, linear.shape[1])]
    fitted = [linear for linear in short if not linear.nearest]
    nearest = [linear for linear in short if linear.nearest]
    few = f"fewer than {TOKENS_PER_INPUT} calibration tokens for each of their inputs"
    told = []
    if fitted:
        told.append(
            f"{len(fitted)} of {len(linears)} linears read {few}: {_named(fitted)}. Their rounding is fitted to these "
            f"few. {MORE_TOKENS}{_instead(fitted)}"
        )
    if nearest:
        told.append(
            f"{len(nearest)} of {len(linears)} linears, of experts that read {few}, were rounded to nearest: "
            f"{_named(nearest)}."
        )
    return " ".join(told) or None


def _named(linears: Sequence[LinearReport]) -> str:
    neediest = sorted(linears, key=lambda linear: ((linear.tokens or 0) / linear.shape[1], linear.name))
    named = ", ".join(f"{linear.name} ({linear.tokens} for {linear.shape[1]})" for linear in neediest[:NAMED])
    return named + (f" and {len(linears) - NAMED} more" if len(linears) > NAMED else "")


def _instead(linears: Sequence[LinearReport]) -> str:
    """What a pass can do about experts."""
    if not any(".experts." in linear.name for linear in linears):
        return ""
    return " For experts, the pass's experts.few_tokens (rtn or all) is another way."
