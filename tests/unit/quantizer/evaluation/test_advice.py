"""What a missed goal's hint says to try next, for workflows and tables of trials."""

from typing import Any

import pytest

from quantization_api.manifest import TrialRecord
from quantization_api.status import MetricResult
from quantization_api.workflow import Workflow
from quantizer.evaluation.advice import what_to_try
from quantizer.evaluation.goals import Miss

pytestmark = pytest.mark.unit

GPTQ: dict[str, Any] = {"type": "GptqQuantizer", "data_config": "train"}
AWQ: dict[str, Any] = {"type": "AutoAWQQuantizer", "data_config": "train"}
QUAROT: dict[str, Any] = {"type": "QuaRot", "w_bits": 4, "w_rtn": True, "a_bits": 4}
PERPLEXITY: dict[str, Any] = {
    "name": "ppl",
    "type": "perplexity",
    "data_config": "test",
    "goal": {"type": "threshold", "value": 7},
}
SIZE: dict[str, Any] = {"name": "size", "type": "size_on_disk", "goal": {"type": "threshold", "value": 1}}


def workflow(*passes: dict[str, Any], metric: dict[str, Any] = PERPLEXITY, samples: int = 16) -> Workflow:
    """A workflow with one metric that has a goal."""
    data = [
        {
            "name": name,
            "load_dataset_config": {"data_name": "/data/t.txt"},
            "pre_process_data_config": {"max_samples": samples},
        }
        for name in ("train", "test")
    ]
    return Workflow.model_validate(
        {
            "input_model": {"model_path": "/models/m"},
            "data_configs": data,
            "passes": passes,
            "evaluators": [{"name": "e", "metrics": [metric]}],
            "evaluator": "e",
        }
    )


def advice(asked: Workflow, *, narrowly: bool = False, trials: tuple[TrialRecord, ...] = ()) -> str:
    """What is said when its metric misses."""
    return what_to_try(asked, [Miss(asked.metrics()[0], "missed", narrowly)], trials)


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ([GPTQ], ("bits: 8", "group_size: 64", "desc_act: true")),
        ([{**GPTQ, "bits": 3}], ("bits: 4",)),
        (
            [{**GPTQ, "bits": 8, "group_size": 32, "desc_act": True, "static_groups": True}],
            ("a QuaRot before",),
        ),
        ([AWQ], ("q_group_size: 64", "GptqQuantizer", "max_samples: 128 of data config train")),
        ([QUAROT], ("a_bits: 8", "w_bits: 8", "w_gptq: true")),
    ],
    ids=["gptq", "gptq-3-bits", "gptq-fine", "awq", "quarot"],
)
def test_advice_fits_what_the_workflow_does(passes: list[dict[str, Any]], words: tuple[str, ...]) -> None:
    said = advice(workflow(*passes))
    for word in words:
        assert word in said


def test_a_result_that_is_too_large_is_not_told_to_take_more_bits() -> None:
    said = advice(workflow({**GPTQ, "group_size": 32}, metric=SIZE))
    assert "fewer bits (bits: 3)" in said
    assert "group_size: 128" in said
    assert "more bits" not in said


def test_a_narrow_miss_asks_for_more_text_and_nothing_else() -> None:
    assert advice(workflow(GPTQ), narrowly=True) == (
        "Try more text to measure on: a larger max_samples of data config test."
    )


def test_the_smallest_trial_that_meets_every_goal_comes_first() -> None:
    found = [(4, 7.5, 10), (8, 6.5, 20), (6, 6.9, 15)]
    trials = tuple(
        TrialRecord(
            number=number,
            parameters={"GptqQuantizer.bits": bits},
            state="Finished",
            metrics=[MetricResult(name="ppl", input=6.0, output=value)],
            size_bytes=size,
        )
        for number, (bits, value, size) in enumerate(found)
    )
    assert advice(workflow(GPTQ), trials=trials).startswith(
        "Try trial 2, whose values meet every goal (GptqQuantizer.bits=6); or "
    )
    assert "trial" not in advice(workflow(GPTQ), trials=trials[:1])
