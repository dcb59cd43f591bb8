"""The passes that round weights, by their type in the contract."""

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer, Pass, QuaRot
from quantizer.passes.awq import Awq
from quantizer.passes.gptq import Gptq
from quantizer.passes.interface import LayerPass
from quantizer.passes.quarot import Quarot
from quantizer.passes.weight_pass import WeightParameters, WeightPass

PASSES: dict[type, type[WeightPass[Any]]] = {GptqQuantizer: Gptq, AutoAWQQuantizer: Awq, QuaRot: Quarot}

_PARAMETERS: TypeAdapter[WeightParameters] = TypeAdapter(
    Annotated[WeightParameters, Field(discriminator="type")]
)


def weight_pass(parameters: Pass) -> WeightPass[Any] | None:
    """The pass with its parameters; None for one that rounds no weights."""
    made = PASSES.get(type(parameters))
    return made(parameters) if made else None


def recorded_pass(document: dict[str, Any]) -> WeightPass[Any]:
    """The pass of a manifest's workflow."""
    parameters = _PARAMETERS.validate_python(document)
    return PASSES[type(parameters)](parameters)


def make_pass(parameters: WeightParameters) -> LayerPass:
    """The pass as the streaming loop runs it; see WeightPass.layer_pass."""
    return PASSES[type(parameters)](parameters).layer_pass
