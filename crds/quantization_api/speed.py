"""Metrics of a model that is served: how fast it is, and how much memory it takes."""

from typing import Any

from quantization_api.rules import Rule

SPEED_METRICS = ("latency", "throughput", "peak_memory")
PROMPT_TOKENS, NEW_TOKENS, BATCH_SIZE = 128, 32, 1
"""What is measured where a metric does not say: a short question and a short answer."""
MOST_PROMPT_TOKENS, MOST_NEW_TOKENS, MOST_SEQUENCES = 131072, 8192, 256
SERVED = ("phase", "prompt_tokens", "new_tokens", "batch_size", "software")
"""The fields that only these metrics have."""


def _given(metric: Any, names: tuple[str, ...]) -> bool:
    return any(getattr(metric, name) is not None for name in names)


def _any_of(names: tuple[str, ...]) -> str:
    return " || ".join(f"has(self.{name})" for name in names)


def _quoted(types: tuple[str, ...]) -> str:
    return f"[{', '.join(repr(name) for name in types)}]"


OTHERS_SERVED = (
    "phase, prompt_tokens, new_tokens, batch_size and software belong to latency, throughput and peak_memory"
)
NO_PHASE = "peak_memory is that of prefill and decode together; leave phase out"
NO_NEW_TOKENS = "the prefill ends with the first new token; leave new_tokens out, or write phase: decode"

SPEED_RULES: tuple[Rule, ...] = (
    Rule(
        cel=f"self.type in {_quoted(SPEED_METRICS)} || !({_any_of(SERVED)})",
        message=OTHERS_SERVED,
        check=lambda m: OTHERS_SERVED if m.type not in SPEED_METRICS and _given(m, SERVED) else None,
    ),
    Rule(
        cel="self.type != 'peak_memory' || !has(self.phase)",
        message=NO_PHASE,
        check=lambda m: NO_PHASE if m.type == "peak_memory" and m.phase is not None else None,
        field="phase",
    ),
    Rule(
        cel="!has(self.phase) || self.phase != 'prefill' || !has(self.new_tokens)",
        message=NO_NEW_TOKENS,
        check=lambda m: NO_NEW_TOKENS if m.phase == "prefill" and m.new_tokens is not None else None,
        field="new_tokens",
    ),
)
