"""Searches in the contract: what is refused of them, what a value stands for, and what a result has room for."""

import pytest
from pydantic import ValidationError
from tests.support.invalid import Invalid
from tests.support.manifests import manifest
from tests.support.searches import BITS, IMPOSSIBLE_SEARCHES, NAMED_PASS, search

from quantization_api.pod import MAX_RESULT_BYTES, RunResult
from quantization_api.search import decoded
from quantization_api.spec import QuantizationJobSpec, outlives_the_pod
from quantization_api.status import MetricResult, Trial, Trials

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("case", IMPOSSIBLE_SEARCHES, ids=lambda case: case.name)
def test_a_search_with_what_no_point_can_have_is_refused(case: Invalid) -> None:
    with pytest.raises(ValidationError) as refused:
        QuantizationJobSpec.model_validate(manifest(*case.changes)["spec"])
    assert case.client
    assert case.client in refused.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (4, 4),
        ("0.01", 0.01),
        ("true", True),
        ("null", None),
        ("gptq_v2", "gptq_v2"),
        ("NaN", "NaN"),
        ("{}", "{}"),
    ],
)
def test_a_value_is_the_json_that_it_is_or_the_text_itself(value: int | str, meant: object) -> None:
    assert decoded(value) == meant


def test_the_points_lie_below_the_output_unless_another_place_is_named() -> None:
    changes = (NAMED_PASS, search(BITS))
    spec = QuantizationJobSpec.model_validate(manifest(*changes)["spec"])
    assert spec.output.trials_place == "s3://artifacts/stories15m-gptq/.trials"
    shared = (*changes, ("output.trialsUri", "s3://artifacts/trials"))
    spec = QuantizationJobSpec.model_validate(manifest(*shared)["spec"])
    assert spec.output.trials_place == "s3://artifacts/trials"


def test_points_that_vanish_with_the_pod_are_seen() -> None:
    changes = (NAMED_PASS, search(BITS), ("output.trialsUri", "file:///scratch/t"))
    assert not outlives_the_pod(QuantizationJobSpec.model_validate(manifest(*changes)["spec"]))


def test_a_result_keeps_the_best_trials_that_there_is_room_for() -> None:
    trials = [
        Trial(
            parameters=f"gptq.bits=4,gptq.group_size={number},gptq.damp_percent=0.01,gptq.desc_act=true",
            metrics=[MetricResult(name=name, input=1.0, output=1.25) for name in ("perplexity", "kl")],
            size_bytes=10**9 + number,
        )
        for number in range(16)
    ]
    message = RunResult(trials=trials, search=Trials(done=24, total=24)).to_message()
    assert len(message.encode()) <= MAX_RESULT_BYTES
    kept = RunResult.model_validate_json(message)
    assert 8 <= len(kept.trials) < 16
    assert kept.trials == trials[: len(kept.trials)]
    assert kept.search == Trials(done=24, total=24)
