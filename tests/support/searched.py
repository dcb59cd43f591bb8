"""A manifest as a search leaves it: 24 points over two workers, mixed precision, rotated layers, times.

The figures are made up: plausible ones for a model of the size of stories15M, not measured.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from quantization_api.manifest import LayerRanges, LinearReport, Manifest, Spread, TrialRecord
from quantization_api.status import MetricResult

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
FIGURES = {2: (11.9, 0.60), 3: (7.62, 0.119), 4: (6.95, 0.0212), 8: (6.756, 0.0001)}
"""Bits -> (perplexity, KL divergence) in groups of 32."""
SIZES = {2: 20_390_000, 3: 21_150_000, 4: 21_912_560, 8: 24_950_000}
INPUT_SIZE = 30_383_424
SECONDS = {
    "check": 0.5,
    "quantize": 12.5,
    "evaluate": 4.0,
    "quantize: write": 0.5,
    "quantize: read": 1.0,
    "quantize: solve": 3.0,
    "quantize: calibrate": 8.0,
}
KINDS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def searched(manifest: Manifest) -> Manifest:
    """The manifest as if a search over bits, groups and order had chosen it."""
    trials = list(trial_records())
    best = next(trial for trial in trials if trial.best)
    metrics = [
        {"name": "ppl", "type": "perplexity", "data_config": "held_out"},
        {"name": "kl", "type": "kl_divergence", "data_config": "held_out"},
    ]
    workflow = {**manifest.workflow, "evaluators": [{"name": "quality", "metrics": metrics}]}
    source = manifest.input.model_copy(update={"size_bytes": INPUT_SIZE})
    return manifest.model_copy(
        update={
            "trials": trials,
            "seconds": SECONDS,
            "workflow": workflow,
            "input": source,
            "metrics": best.metrics,
            "compression_ratio": INPUT_SIZE / (best.size_bytes or 1),
        }
    )


def trial_records() -> Iterator[TrialRecord]:
    """bits x groups x desc_act, and one target of bits for each bit; one refused, one failed, one stopped early."""
    number = 0
    for bits, (perplexity, divergence) in FIGURES.items():
        for group_size, desc_act in ((32, False), (32, True), (-1, False), (-1, True), (16, False)):
            factor = {32: 1.0, -1: 1.06, 16: 0.99}[group_size] * (0.998 if desc_act else 1.0)
            size = SIZES[bits] + {32: 0, -1: -350_000, 16: 340_000}[group_size]
            parameters = {"gptq.bits": bits, "gptq.group_size": group_size, "gptq.desc_act": desc_act}
            yield _record(number, parameters, perplexity * factor, divergence * factor, size)
            number += 1
    for bits, perplexity, divergence, size in ((3, 7.35, 0.075, 21_200_000), (4, 6.9, 0.017, 21_950_000)):
        yield _record(number, {"gptq.target_bits": str(bits)}, perplexity, divergence, size)
        number += 1
    refused = "desc_act with static_groups needs groups; give group_size, or leave static_groups out"
    yield TrialRecord(number=number, parameters={"gptq.static_groups": True}, state="Refused", said=refused)
    yield TrialRecord(
        number=number + 1,
        parameters={"gptq.damp_percent": 0.0},
        state="Failed",
        said="model.layers.1.mlp.down_proj: the Hessian is not positive definite",
        seconds=3.5,
        **_when(number + 1),
    )


def mixed_linears(layers: int) -> list[LinearReport]:
    """Linears whose bits differ, and a head beside the layers."""
    linears = [
        LinearReport(
            name=f"model.layers.{layer}.{kind}",
            shape=(288, 288),
            error=0.004 * (1 + layer % 3),
            error_rtn=0.009 * (1 + layer % 3),
            damping=0.01,
            bits=(8 if layer in (0, layers - 1) else 4) if kind.startswith("mlp.down") else 3 + layer % 2,
            group_size=32,
        )
        for layer in range(layers)
        for kind in KINDS
    ]
    head = linears[0].model_copy(update={"name": "lm_head", "bits": 8, "group_size": -1})
    return [*linears, head]


def rotated_ranges(layers: int) -> list[LayerRanges]:
    """What a rotation does to a model with outliers."""

    def spread(ratio: float) -> Spread:
        return Spread(name="self_attn.q_proj", largest=ratio, rms=1.0)

    return [
        LayerRanges(
            layer=layer,
            weights_before=spread(14.0 + layer),
            weights_after=spread(5.0),
            inputs_before=spread(60.0 - 3 * layer),
            inputs_after=spread(6.5),
        )
        for layer in range(layers)
    ]


def _record(
    number: int, parameters: dict[str, int | bool | str], perplexity: float, divergence: float, size: int
) -> TrialRecord:
    best = parameters == {"gptq.bits": 4, "gptq.group_size": 32, "gptq.desc_act": True}
    return TrialRecord(
        number=number,
        parameters=dict(parameters),
        state="Finished",
        recipe=f"sha256:{number:064x}",
        metrics=[
            MetricResult(
                name="ppl", input=6.755, output=perplexity, low=0.98 * perplexity, high=1.02 * perplexity
            ),
            MetricResult(name="kl", input=0.0, output=divergence),
        ],
        size_bytes=size,
        bits_per_weight=8 * size / 7_000_000 - 19.5,
        seconds=20.0 + number % 5,
        on_front=best or number in (0, 6, 16, 20, 21),
        best=best,
        model="model" if best else None,
        **_when(number),
    )


def _when(number: int) -> dict[str, str]:
    start = BEGAN + timedelta(seconds=25 * (number // 2))
    return {"started": start.isoformat().replace("+00:00", "Z"), "worker": f"worker-{number % 2}"}
