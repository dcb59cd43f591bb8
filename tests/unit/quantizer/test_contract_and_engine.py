"""What the contract accepts, the parts of the engine accept: nothing is refused in the pod that could be before."""

import random
from itertools import product
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.engine import make_pass
from tests.support.manifests import manifest
from tests.support.random_passes import GROUPS, random_pass, random_passes

from quantization_api.failures import QuantizationError
from quantization_api.passes import AutoAWQQuantizer, Experts, GptqQuantizer, ModelBuilder
from quantization_api.spec import QuantizationJobSpec
from quantizer.export.plan import plan_build
from quantizer.formats.awq import GROUP_SIZES, AwqFormat
from quantizer.passes.making import weight_pass

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
    experts = {"experts": Experts.model_validate(item["experts"])} if "experts" in item else {}
    return kind.model_construct(**item | experts)


def refused_by(action: Any, *arguments: Any) -> str | None:
    """The engine's sentence."""
    try:
        action(*arguments)
    except QuantizationError as error:
        return error.message
    except ValueError as error:
        return str(error)
    return None


def native(item: dict[str, Any]) -> dict[str, Any]:
    """A pass that the engine computes."""
    if "implementation" not in TYPES[item["type"]].model_fields:
        return item
    return {**item, "implementation": "native"}


@pytest.mark.parametrize("kind", TYPES)
def test_the_contract_accepts_many_of_the_passes_that_are_drawn(kind: str) -> None:
    drawn = [native(random_pass(random.Random(seed), kind)) for seed in range(100)]
    assert sum(not sentences(item) for item in drawn) > 30  # else the tests below say nothing


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("seed", range(100))
def test_a_pass_that_the_contract_accepts_can_be_made(kind: str, seed: int) -> None:
    item = native(random_pass(random.Random(seed), kind))
    if not sentences(item):
        assert refused_by(make_pass, parameters_of(item)) is None


@pytest.mark.parametrize("seed", range(200))
def test_a_sequence_that_the_contract_accepts_can_be_made(seed: int) -> None:
    passes = random_passes(random.Random(seed))
    try:
        spec = QuantizationJobSpec.model_validate(manifest(("workflow.passes", passes))["spec"])
    except ValidationError:
        return
    chosen = weight_pass(*spec.workflow.passes)
    if chosen.package is None:
        assert chosen.layer_pass.format is not None
    assert len(chosen.methods) == len([item for item in passes if item["type"] != "ModelBuilder"])


@pytest.mark.parametrize("version", ["exllama", *GROUP_SIZES])
def test_an_awq_format_that_cannot_be_made_is_refused_by_the_contract(version: str) -> None:
    for bits, group_size, zero_point in product((2, 3, 4, 8), GROUPS, (True, False)):
        item = {"version": version, "w_bit": bits, "q_group_size": group_size, "zero_point": zero_point}
        made = refused_by(AwqFormat, version, bits, group_size, zero_point) is None
        assert made is not bool(sentences({"type": "AutoAWQQuantizer", **item})), item


GPTQ = {"type": "GptqQuantizer", "data_config": "train"}
COMPRESSED = {**GPTQ, "checkpoint_format": "compressed-tensors", "desc_act": True}


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ({**GPTQ, "bits": 5}, "bits must be 2, 3, 4 or 8"),
        ({**GPTQ, "group_size": 0}, "group_size is -1"),
        ({**GPTQ, "group_size": -2}, "greater than or equal to -1"),
        ({**GPTQ, "damp_percent": 0}, "greater than 0"),
        ({**GPTQ, "damp_percent": 1}, "less than 1"),
        (COMPRESSED, "write static_groups: true"),
        ({"type": "AutoAWQQuantizer", "w_bit": 5}, "the awq format holds 4 bits only"),
        ({"type": "AutoAWQQuantizer", "bits": 8}, "the awq format holds 4 bits only"),
        ({"type": "AutoAWQQuantizer", "checkpoint_format": "gptq"}, "must be awq or compressed-tensors"),
        ({"type": "AutoAWQQuantizer", "q_group_size": -2}, "greater than or equal to -1"),
    ],
)
def test_what_the_algorithms_cannot_compute_is_refused_by_the_contract(
    item: dict[str, Any], sentence: str
) -> None:
    (refused,) = sentences(item)
    assert sentence in refused


def test_act_order_in_compressed_tensors_needs_groups_that_are_known_beforehand() -> None:
    for enough in ({"static_groups": True}, {"group_size": -1}, {"desc_act": False}):
        assert not sentences({**COMPRESSED, **enough})


@pytest.mark.parametrize("seed", range(200))
def test_a_model_builder_is_refused_by_the_contract_where_it_is_by_the_engine(seed: int) -> None:
    chance = random.Random(seed)
    kind = chance.choice(sorted(TYPES))
    before = native(random_pass(chance, kind, 3))
    step = random_pass(chance, "ModelBuilder", 2)
    if sentences(before):
        return
    try:
        builder = ModelBuilder.model_validate(step)
    except ValidationError:  # of its parameters alone: the engine never sees such a step
        return
    made = make_pass(parameters_of(before))
    packs = before.get("export_compatible") is not True
    config = {"quantization_config": made.format.quantization_config()} if packs else {}
    engine = refused_by(plan_build, config, builder, PROVIDERS)
    contract = sentences(before, step)
    if engine:
        assert contract, engine
    elif contract:  # only what shows in the tensors, or in the image, may be refused on top
        assert any(word in contract[0] for word in ("lie one after another", "single linears"))
