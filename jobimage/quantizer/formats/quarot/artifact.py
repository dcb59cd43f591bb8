"""config.json and modelling code of a QuaRot artifact that computes online; weights.py has its tensors.

The code that the artifact carries is modeling_quarot with algorithms.quarot.hadamard in the place of its import: one
file that needs torch and transformers only. model_type is one of its own ("quarot_llama"), so a reader that
does not run the code stops instead of computing nonsense.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import torch

from quantizer.algorithms.quarot.parameters import FULL, QuarotParameters, group
from quantizer.checkpoint.data_types import word

CODE_FILE = "modeling_quarot.py"
IMPORT = "from quantizer.algorithms.quarot.hadamard import Rotation\n"
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def modeling_code() -> str:
    """The text of modeling_quarot.py as the artifact carries it."""
    code = (files("quantizer.formats.quarot") / CODE_FILE).read_text(encoding="utf-8")
    rotations = (files("quantizer.algorithms.quarot") / "hadamard.py").read_text(encoding="utf-8")
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
    return {
        **{key: value for key, value in config.items() if key != "torch_dtype"},
        "model_type": f"quarot_{config['model_type']}",
        "architectures": [f"Quarot{family}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.Quarot{family}Config",
            "AutoModelForCausalLM": f"{module}.Quarot{family}ForCausalLM",
        },
        "dtype": word(dtype),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)) and not unties,
        "quarot": code_settings(parameters, sites),
    }


def code_settings(p: QuarotParameters, sites: Mapping[str, str]) -> dict[str, Any]:
    """What the code reads of config.json: how weights, activations, keys and values are rounded, and the rotations."""
    return {
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
    }


def rounding_settings(p: QuarotParameters) -> dict[str, Any] | None:
    """The same for a model whose weights are plain and unrotated; None where only weights are rounded."""
    if min(p.a_bits, p.k_bits, p.v_bits) >= FULL:
        return None
    return {**code_settings(p, {}), "w_bits": FULL}
