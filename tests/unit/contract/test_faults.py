"""What is wrong with a manifest is said once for each field, at the path that a user wrote."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.manifests import VALID

from quantization_api.faults import sentences
from quantization_api.search import NOT_A_VALUE, SearchDimension
from quantization_api.spec import QuantizationJobSpec

pytestmark = pytest.mark.unit

AMOUNT = 'must be a whole number, or an amount such as "500m" or "16Gi" of at most 32 characters'


def requests(cpu: Any) -> Callable[[dict[str, Any]], None]:
    return lambda spec: spec["template"].update(resources={"requests": {"cpu": cpu}})


def scratch(size: Any) -> Callable[[dict[str, Any]], None]:
    return lambda spec: spec["template"].update(scratchSize=size)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (requests("abc"), f"spec.template.resources.requests.cpu: {AMOUNT}"),
        (requests([1]), f"spec.template.resources.requests.cpu: {AMOUNT}"),
        (requests(0.5), f"spec.template.resources.requests.cpu: {AMOUNT}"),
        (scratch(True), f"spec.template.scratchSize: {AMOUNT}"),
        (scratch("1 GB"), f"spec.template.scratchSize: {AMOUNT}"),
        (
            lambda spec: spec["template"].update(nodeSelector={"x" * 400: "v"}),
            f"spec.template.nodeSelector.{'x' * 400}: the key must have at most 317 characters",
        ),
    ],
    ids=["a word", "a list", "a fraction", "true", "with a space", "a long key"],
)
def test_a_value_that_is_none_of_several_kinds_is_one_fault(
    change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    spec = copy.deepcopy(VALID["spec"])
    spec.setdefault("template", {})
    change(spec)
    with pytest.raises(ValidationError) as caught:
        QuantizationJobSpec.model_validate(spec)
    assert sentences(caught.value, "spec") == [expected]


@pytest.mark.parametrize("amount", [0, 2, "500m", "1.5", "16Gi", "1e3"])
def test_amounts_are_taken_as_they_are(amount: int | str) -> None:
    spec = copy.deepcopy(VALID["spec"])
    requests(amount)(spec | {"template": spec.setdefault("template", {})})
    read = QuantizationJobSpec.model_validate(spec)
    assert read.template.resources.requests == {"cpu": amount}


def test_a_value_of_a_search_is_one_fault() -> None:
    with pytest.raises(ValidationError) as caught:
        SearchDimension.model_validate({"pass": "gptq", "parameter": "bits", "values": [4, 0.5]})
    assert sentences(caught.value) == ["values[1]: " + NOT_A_VALUE]
