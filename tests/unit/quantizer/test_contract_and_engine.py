"""What the contract accepts, the parts of the engine accept: nothing is refused in the pod that could be before."""

import random
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.manifests import manifest
from tests.support.random_passes import random_pass

from quantization_api.failures import QuantizationError
from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer, ModelBuilder
from quantization_api.spec import QuantizationJobSpec
from quantizer.export.plan import plan_build
from quantizer.formats import awq
from quantizer.passes.making import make_pass

pytestmark = pytest.mark.unit

PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider")
TYPES = {"GptqQuantizer": GptqQuantizer, "AutoAWQQuantizer": AutoAWQQuantizer}


def sentences(*passes: dict[str, Any]) -> list[str]:
    """What the contract refuses; a pass that names data has it."""
    try:
        QuantizationJobSpec.model_validate(manifest(("workflow.passes", list(passes)))["spec"])
    except ValidationError as error:
        return [item["msg"] for item in error.errors()]
    return []


def parameters_of(item: dict[str, Any]) -> GptqQuantizer | AutoAWQQuantizer:
    """The pass as the engine gets it, unchecked."""
    kind = TYPES[item["type"]]
    return kind.model_construct(**item)


def refused_by(action: Any, *arguments: Any) -> str | None:
    """The engine's sentence."""
    try:
        action(*arguments)
    except QuantizationError as error:
        return error.message
    return None


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("seed", range(100))
def test_a_pass_that_the_contract_accepts_can_be_made(kind: str, seed: int) -> None:
    item = {**random_pass(random.Random(seed), kind), "implementation": "native"}
    if not sentences(item):
        assert refused_by(make_pass, parameters_of(item)) is None


def test_the_contract_has_the_sentences_of_the_awq_format() -> None:
    engine = {sentence for _, sentence in awq.REFUSALS} - {"version must be gemm, gemv, gemv_fast or marlin"}
    assert engine <= {rule.message for rule in AutoAWQQuantizer.rules()}


@pytest.mark.parametrize("seed", range(200))
def test_a_model_builder_is_refused_by_the_contract_where_it_is_by_the_engine(seed: int) -> None:
    chance = random.Random(seed)
    kind = chance.choice(sorted(TYPES))
    before = {**random_pass(chance, kind, 3), "implementation": "native"}
    step = random_pass(chance, "ModelBuilder", 2)
    if sentences(before):
        return
    made = make_pass(parameters_of(before))
    packs = before.get("export_compatible") is not True
    config = {"quantization_config": made.format.quantization_config()} if packs else {}
    engine = refused_by(plan_build, config, ModelBuilder.model_construct(**step), PROVIDERS)
    contract = sentences(before, step)
    if engine:
        assert contract, engine
    elif contract:  # only what shows in the tensors, or in the image, may be refused on top
        assert any(word in contract[0] for word in ("lie one after another", "single linears"))
