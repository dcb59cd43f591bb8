"""Which figures of artifacts compare: of one text, measured in the same way, in the same software, on one device."""

from typing import Any

import pytest
from tests.unit.quantizer.report.test_report import a_manifest

from quantization_api.manifest import Manifest
from quantization_api.status import MetricResult
from quantizer.report.comparison import all_measures, best, cells, doubts, numbered

pytestmark = pytest.mark.unit

VLLM = "vllm 0.11 on a CPU"


def served(
    latency: float, throughput: float, software: str = VLLM, before: float = 9.0, **fields: Any
) -> Manifest:
    """A manifest with metrics of serving."""
    metrics = [
        {"name": "decode", "type": "latency", **fields},
        {"name": "speed", "type": "throughput", **fields},
        {"name": "memory", "type": "peak_memory", **fields},
    ]
    figures = {"decode": (before, latency), "speed": (before, throughput), "memory": (3e8, 1.5e8)}
    found = a_manifest()
    return found.model_copy(
        update={
            "workflow": {**found.workflow, "evaluators": [{"name": "quality", "metrics": metrics}]},
            "metrics": [
                MetricResult(name=name, input=one, output=other, measured_with=software)
                for name, (one, other) in figures.items()
            ],
        }
    )


def compared(*manifests: Manifest) -> tuple[str, list[str]]:
    """Which is best, and what speaks against comparing."""
    artifacts = numbered([(f"s3://a/{number}", one) for number, one in enumerate(manifests)])
    return best(artifacts), [doubt.sentence for doubt in doubts(artifacts)]


def test_figures_of_serving_compare_in_their_units_and_in_their_direction() -> None:
    said, against = compared(served(4.0, 250.0, before=9.0), served(3.1, 240.0, before=9.3))
    assert against == [], "a time is never measured twice as the same"
    assert "best decode: 2 (GPTQ 4 bits, groups of 128), 3.100 ms" in said
    assert "best speed: 1 (GPTQ 4 bits, groups of 128), 250.000 tokens/s" in said
    assert "best memory: 1 (GPTQ 4 bits, groups of 128), 150.0 MB" in said


def test_other_software_or_another_device_is_no_comparison() -> None:
    said, against = compared(served(4.0, 250.0), served(3.1, 240.0, "transformers 5 on a CPU"))
    assert said == "Smallest: 1 (GPTQ 4 bits, groups of 128), 12.5 MB."
    assert against[0] == (
        "decode was measured in different software or on different devices: vllm 0.11 on a CPU (1); "
        "transformers 5 on a CPU (2)."
    )
    assert len(against) == 3


def test_prompts_of_another_length_are_no_comparison() -> None:
    said, against = compared(served(4.0, 250.0, prompt_tokens=8), served(3.1, 240.0))
    assert "best" not in said
    assert against[0] == (
        "decode was not measured on the same text in the same way: prompt_tokens 8, type latency (1); type latency (2)."
    )


def test_a_row_has_method_size_and_every_metric_with_its_interval() -> None:
    found = a_manifest(group_size=32)
    results = [MetricResult(name="ppl", input=6.75, output=7.16, low=7.1, high=7.25), *found.metrics[1:]]
    (item,) = numbered([("s3://a/b/", found.model_copy(update={"metrics": results}))])
    assert cells(item, all_measures([item])) == [
        ("1 b", "GPTQ 4 bits, groups of 32"),
        ("12.5 MB", ""),
        ("4.625", ""),
        ("7.160", "7.100 to 7.250"),
    ]


def of_text(perplexity: float) -> Manifest:
    """A manifest with a metric of tasks of which the lower is the better."""
    asked = {"name": "text", "type": "accuracy", "tasks": ["t"], "tasks_from": "s3://data/tasks"}
    metrics = [{**asked, "metric": "word_perplexity"}]
    found = a_manifest()
    return found.model_copy(
        update={
            "workflow": {**found.workflow, "evaluators": [{"name": "quality", "metrics": metrics}]},
            "metrics": [MetricResult(name="text", input=9.0, output=perplexity)],
        }
    )


def test_a_perplexity_of_tasks_is_better_the_lower_it_is() -> None:
    said, _ = compared(of_text(12.0), of_text(9.5))
    assert "best text: 2 (GPTQ 4 bits, groups of 128), 9.500" in said
