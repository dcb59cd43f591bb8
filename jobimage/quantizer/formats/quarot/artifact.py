"""Tensors, config.json and modelling code of a QuaRot artifact that computes online.

The layout of tensors is told at modeling_quarot.QuarotLinear and modeling_quarot.pack. The code that the
artifact carries is modeling_quarot with passes.hadamard in the place of its import: one file that needs
torch and transformers only. model_type is one of its own ("quarot_llama"), so a reader that does not run
the code stops instead of computing nonsense.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.formats.quarot.modeling_quarot import pack, unpack, words
from quantizer.passes.quarot import StageResult
from quantizer.passes.quarot_parameters import FULL, QuarotParameters, group
from quantizer.passes.quarot_weights import RoundedWeight

CODE_FILE = "modeling_quarot.py"
IMPORT = "from quantizer.passes.hadamard import Rotation\n"
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def modeling_code() -> str:
    """The text of modeling_quarot.py as the artifact carries it."""
    code = (files("quantizer.formats.quarot") / CODE_FILE).read_text(encoding="utf-8")
    rotations = (files("quantizer.passes") / "hadamard.py").read_text(encoding="utf-8")
    before, _, after = code.partition(IMPORT)
    return before + rotations + "\n" + after


def artifact_config(
    config: Mapping[str, Any],
    parameters: QuarotParameters,
    sites: Mapping[str, str],
    unties: bool,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """config.json: the input's, with a model type of its own, the code's classes and what the code reads.

    Args:
        config: of the input, model_type one of CLASSES.
        sites, unties: of QuarotPass.
        dtype: of the tensors that are not quantized.
    """
    family = CLASSES[config["model_type"]]
    module = CODE_FILE.removesuffix(".py")
    p = parameters
    return {
        **{key: value for key, value in config.items() if key != "torch_dtype"},
        "model_type": f"quarot_{config['model_type']}",
        "architectures": [f"Quarot{family}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.Quarot{family}Config",
            "AutoModelForCausalLM": f"{module}.Quarot{family}ForCausalLM",
        },
        "dtype": str(dtype).removeprefix("torch."),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)) and not unties,
        "quarot": {
            "w_bits": p.w_bits,
            "w_asym": p.w_asym,
            "w_groupsize": group(p.w_groupsize),
            "s_bits": p.s_bits,
            "a_bits": p.a_bits,
            "a_asym": p.a_asym,
            "a_clip_ratio": p.a_clip_ratio,
            "a_groupsize": group(p.a_groupsize),
            "k_bits": p.k_bits,
            "k_clip_ratio": p.k_clip_ratio,
            "k_groupsize": group(p.k_groupsize),
            "v_bits": p.v_bits,
            "v_clip_ratio": p.v_clip_ratio,
            "v_groupsize": group(p.v_groupsize),
            "rotations": dict(sites),
        },
    }


def tensor_shapes(
    rows: int, columns: int, parameters: QuarotParameters, dtype: torch.dtype
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of the tensors of a linear [rows (N), columns (K)], without its bias."""
    if parameters.w_bits == FULL:
        return {"weight": (dtype, (rows, columns))}
    groups = columns // (group(parameters.w_groupsize) or columns)
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "qweight": (torch.int32, (rows, words(columns, parameters.w_bits)))
    }
    if parameters.s_bits == FULL:
        shapes["scales"] = (torch.float16, (rows, groups))
    else:
        shapes |= {"scale_codes": (torch.uint8, (rows, groups)), "scale_unit": (torch.float32, (1,))}
    if parameters.w_asym:
        shapes["qzeros"] = (torch.uint8, (rows, groups))
    return shapes


def pack_linear(
    name: str, result: StageResult, parameters: QuarotParameters, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of a linear by their suffixes.

    Raises:
        QuantizationError: NumericalFailure naming a linear that does not fit float16.
    """
    rounded = result.rounded
    if rounded is None:
        assert result.stored is not None
        tensors = {"weight": result.stored.to(dtype)}
    else:
        tensors = {"qweight": pack(rounded.integers, parameters.w_bits)}
        if rounded.scale_codes is None:
            tensors["scales"] = rounded.scales.half()
        else:
            tensors["scale_codes"] = rounded.scale_codes
            tensors["scale_unit"] = torch.tensor([rounded.scale_unit], dtype=torch.float32)
        if parameters.w_asym:
            tensors["qzeros"] = rounded.zeros.to(torch.uint8)
    for suffix, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE, f"{name}.{suffix} has values that {tensor.dtype} cannot hold"
            )
    return {suffix: tensor.contiguous() for suffix, tensor in tensors.items()}


def unpack_linear(tensors: Mapping[str, Tensor], columns: int, parameters: QuarotParameters) -> RoundedWeight:
    """The inverse of pack_linear for a quantized linear with that many inputs."""
    codes = tensors.get("scale_codes")
    unit = float(tensors["scale_unit"]) if codes is not None else 0.0
    scales = tensors["scales"].float() if codes is None else codes.float() * unit
    zeros = (
        tensors["qzeros"].float()
        if parameters.w_asym
        else torch.full_like(scales, 2 ** (parameters.w_bits - 1))
    )
    group_of = torch.arange(columns) // (columns // scales.shape[1])
    integers = unpack(tensors["qweight"], parameters.w_bits, columns).to(torch.uint8)
    return RoundedWeight(integers, scales, zeros, group_of.to(torch.int32), codes, unit)
