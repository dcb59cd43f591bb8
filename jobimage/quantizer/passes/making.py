"""The passes that round weights, by their type in the contract; and which of them a workflow asks for."""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer, ModelBuilder, Pass, QuaRot
from quantizer.passes.awq import Awq
from quantizer.passes.gptq import Gptq
from quantizer.passes.quarot import Quarot
from quantizer.passes.rotated import RotatedGptq
from quantizer.passes.weight_pass import WeightPass

PASSES: dict[type, type[WeightPass[Any]]] = {GptqQuantizer: Gptq, AutoAWQQuantizer: Awq, QuaRot: Quarot}

_RECORDED: TypeAdapter[list[Pass]] = TypeAdapter(list[Pass])


def weight_pass(*passes: Pass) -> WeightPass[Any]:
    """What rounds the weights in a workflow of these passes; a ModelBuilder behind it does not.

    Raises:
        ValueError: for passes that the contract does not accept together.
    """
    match [item for item in passes if not isinstance(item, ModelBuilder)]:
        case [QuaRot() as rotation, GptqQuantizer() as rounding]:
            return RotatedGptq(rounding, rotation=Quarot(rotation))
        case [alone]:
            return PASSES[type(alone)](alone)
    raise ValueError(f"not a workflow of the contract: {[item.type for item in passes]}")


def recorded_pass(documents: Sequence[dict[str, Any]]) -> WeightPass[Any]:
    """The same of the passes in a manifest's workflow."""
    return weight_pass(*_RECORDED.validate_python(documents))
