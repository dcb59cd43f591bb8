"""The pass of a manifest as the streaming loop takes it."""

from dataclasses import fields

import torch

from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer, Pass, QuaRot
from quantizer.algorithms.awq.rounding import AwqConfig
from quantizer.algorithms.gptq.solver import GptqConfig
from quantizer.algorithms.quarot.parameters import QuarotParameters
from quantizer.checkpoint.older_transformers import require_newer
from quantizer.decoder.architecture import ModuleNames
from quantizer.formats.awq import AwqFormat
from quantizer.formats.compressed_tensors import CompressedTensorsFormat
from quantizer.formats.gptq import GptqFormat
from quantizer.formats.interface import WeightFormat
from quantizer.passes.awq import AwqLayerPass
from quantizer.passes.gptq import GptqLayerPass
from quantizer.passes.interface import LayerPass

WeightPass = GptqQuantizer | AutoAWQQuantizer | QuaRot
"""The passes of the contract that round weights layer by layer."""


DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def make_pass(parameters: WeightPass) -> LayerPass:
    """The pass with its parameters.

    Raises:
        QuantizationError: InvalidWorkflow for a combination that its format cannot hold; ModelUnsupported for
            QuaRot, which the transformers of this image cannot compute.
    """
    if isinstance(parameters, GptqQuantizer):
        calibration = None if parameters.calibration_dtype == "auto" else DTYPES[parameters.calibration_dtype]
        return GptqLayerPass(gptq_config(parameters), _gptq_format(parameters), calibration_dtype=calibration)
    if isinstance(parameters, QuaRot):
        require_newer("QuaRot")
        from quantizer.passes.quarot import QuarotLayerPass

        return QuarotLayerPass(quarot_parameters(parameters), DTYPES[parameters.input_model_dtype])
    bits = parameters.w_bit or parameters.bits or 4
    return AwqLayerPass(
        AwqConfig(bits, parameters.q_group_size, parameters.zero_point, parameters.duo_scaling),
        AwqFormat(parameters.version, bits, parameters.q_group_size, parameters.zero_point),
        tuple(parameters.modules_to_not_convert),
        packs=not parameters.export_compatible,
        dtype=DTYPES[parameters.input_model_dtype],
    )


def quarot_parameters(parameters: QuaRot) -> QuarotParameters:
    """What is computed; how the calibration text is cut is the workflow's."""
    names = [field.name for field in fields(QuarotParameters)]
    return QuarotParameters(**{name: getattr(parameters, name) for name in names})


def gptq_config(parameters: GptqQuantizer) -> GptqConfig:
    """The algorithm's parameters from the contract's."""
    return GptqConfig(
        bits=parameters.bits,
        group_size=parameters.group_size,
        damp_percent=parameters.damp_percent,
        desc_act=parameters.desc_act,
        static_groups=parameters.static_groups,
        true_sequential=parameters.true_sequential,
        sym=parameters.sym,
    )


def _gptq_format(parameters: GptqQuantizer) -> WeightFormat:
    if parameters.checkpoint_format == "compressed-tensors":
        return CompressedTensorsFormat(
            parameters.bits,
            parameters.group_size,
            parameters.sym,
            parameters.desc_act,
            parameters.static_groups,
        )
    inside = parameters.inside_layer_modules
    return GptqFormat(
        bits=parameters.bits,
        group_size=parameters.group_size,
        sym=parameters.sym,
        desc_act=parameters.desc_act,
        damp_percent=parameters.damp_percent,
        static_groups=parameters.static_groups,
        true_sequential=parameters.true_sequential,
        version=2 if parameters.checkpoint_format == "gptq_v2" else 1,
        inside_layer_modules=None if inside is None else tuple(tuple(names) for names in inside),
    )


def module_names(parameters: Pass) -> ModuleNames | None:
    """The module names that the pass gives for an architecture that is not in the table."""
    if not isinstance(parameters, GptqQuantizer):
        return None
    inside, outside = parameters.inside_layer_modules, parameters.outside_layer_modules
    if parameters.layers_block_name is None and inside is None and outside is None:
        return None
    return ModuleNames(
        parameters.layers_block_name,
        tuple(tuple(names) for names in inside or ()),
        tuple(outside or ()),
    )


def calibration_of(parameters: WeightPass) -> str | None:
    """The data config that the pass calibrates with; None: the default text, or nothing (see needs_text)."""
    return parameters.calibration_data_config if isinstance(parameters, QuaRot) else parameters.data_config


def needs_text(parameters: WeightPass) -> bool:
    """Whether the pass calibrates at all."""
    return not isinstance(parameters, QuaRot) or parameters.w_gptq
