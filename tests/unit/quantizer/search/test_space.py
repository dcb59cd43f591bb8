"""The points of a search: every combination once, each the workflow that a person would have written."""

from typing import Any

import pytest
from tests.support.manifests import manifest
from tests.support.searches import ALTERNATIVES, NAMED_PASS, dimension, search

from quantization_api.recipe import canonical_workflow
from quantization_api.workflow import Workflow
from quantizer.search.space import Space

pytestmark = pytest.mark.unit

GOAL = ("workflow.evaluators.0.metrics.0.goal", {"type": "threshold", "value": 9})


def workflow(*changes: tuple[str, Any]) -> Workflow:
    return Workflow.model_validate(manifest(*changes)["spec"]["workflow"])


def space(*changes: tuple[str, Any]) -> Space:
    return Space.of(workflow(*changes))


def test_the_grid_has_every_combination_once_and_the_last_axis_changes_first() -> None:
    grid = space(NAMED_PASS, search(dimension("bits", 4, 8), dimension("desc_act", "true", "false")))
    assert [grid.parameters(index) for index in range(grid.size)] == [
        {"q.bits": 4, "q.desc_act": True},
        {"q.bits": 4, "q.desc_act": False},
        {"q.bits": 8, "q.desc_act": True},
        {"q.bits": 8, "q.desc_act": False},
    ]
    with pytest.raises(IndexError):
        grid.parameters(grid.size)


def test_a_point_is_the_workflow_that_a_person_would_have_written_without_goals() -> None:
    grid = space(NAMED_PASS, GOAL, search(dimension("bits", 4, 8), dimension("damp_percent", "0.05")))
    point = grid.point(grid.parameters(1))
    assert point.name == "q.bits=8,q.damp_percent=0.05"
    written = workflow(("workflow.passes.0.bits", 8), ("workflow.passes.0.damp_percent", 0.05))
    assert point.workflow is not None
    assert canonical_workflow(point.workflow) == canonical_workflow(written)


def test_null_leaves_a_parameter_out() -> None:
    quarot = {"name": "q", "type": "QuaRot", "w_rtn": True, "w_bits": 4, "w_groupsize": 32}
    grid = space(("workflow.passes.0", quarot), search(dimension("w_groupsize", "null", 16)))
    points = [grid.point(grid.parameters(index)).workflow for index in range(2)]
    assert [point.passes[0].w_groupsize for point in points if point] == [None, 16]


def test_each_chain_has_the_parameters_of_its_own_passes() -> None:
    grid = space(
        *ALTERNATIVES,
        search(
            dimension("bits", 4, 8, of="gptq"),
            dimension("duo_scaling", "true", "false", of="awq"),
            chains=[["gptq"], ["awq"], ["quarot", "gptq"]],
        ),
    )
    found = [grid.parameters(index) for index in range(grid.size)]
    assert found == [
        {"passes": "gptq", "gptq.bits": 4},
        {"passes": "gptq", "gptq.bits": 8},
        {"passes": "awq", "awq.duo_scaling": True},
        {"passes": "awq", "awq.duo_scaling": False},
        {"passes": "quarot+gptq", "gptq.bits": 4},
        {"passes": "quarot+gptq", "gptq.bits": 8},
    ]
    last = grid.point(found[-1]).workflow
    assert last is not None
    assert [item.type for item in last.passes] == ["QuaRot", "GptqQuantizer"]


def test_a_combination_that_the_contract_refuses_keeps_the_sentence() -> None:
    grid = space(
        NAMED_PASS,
        ("workflow.passes.0.checkpoint_format", "compressed-tensors"),
        search(dimension("desc_act", "true", "false"), dimension("static_groups", "true", "false")),
    )
    refused = [point for i in range(grid.size) if (point := grid.point(grid.parameters(i))).workflow is None]
    assert [point.name for point in refused] == ["q.desc_act=true,q.static_groups=false"]
    assert "compressed-tensors has no group index" in refused[0].refused


def test_values_that_mean_the_same_are_one_point() -> None:
    assert space(NAMED_PASS, search(dimension("bits", 4, "4", 8))).size == 2
