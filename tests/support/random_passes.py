"""Random passes of every type: values that are allowed one by one, in combinations that often are not."""

import random
from typing import Any

BITS = (2, 3, 4, 5, 8, 16)
GROUPS = (-1, 0, 16, 32, 64, 96, 128, 256)
SWITCH = (False, True)
IMPLEMENTATIONS = ("native", "auto-gptq", "autoawq")

VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "GptqQuantizer": {
        "bits": BITS,
        "group_size": GROUPS,
        "static_groups": SWITCH,
        "true_sequential": SWITCH,
        "desc_act": SWITCH,
        "sym": SWITCH,
        "inside_layer_modules": ([], [[]], [["a", "b"], ["c"]]),
        "checkpoint_format": ("gptq", "gptq_v2", "compressed-tensors"),
        "calibration_dtype": ("auto", "auto", "fp32", "bf16"),
        "experts": ({}, {"few_tokens": "rtn"}),
        "lm_head": SWITCH,
        "implementation": IMPLEMENTATIONS,
    },
    "AutoAWQQuantizer": {
        "w_bit": (3, 4, 4, 4),
        "bits": (4, 4, 4, 8),
        "data_config": ("train",),
        "q_group_size": GROUPS,
        "zero_point": SWITCH,
        "version": ("gemm", "gemv", "gemv_fast", "marlin"),
        "checkpoint_format": ("awq", "compressed-tensors"),
        "duo_scaling": SWITCH,
        "experts": ({"few_tokens": "all"},),
        "modules_to_not_convert": ([], ["down_proj"]),
        "export_compatible": SWITCH,
        "pack_model_for_onnx_conversion": SWITCH,
        "input_model_dtype": ("fp16", "bf16", "fp32", "fp64"),
        "implementation": IMPLEMENTATIONS,
    },
    "QuaRot": {
        "input_model_dtype": ("fp16", "bf16", "fp32", "fp64"),
        "calibration_data_config": ("train",),
        "calibration_nsamples": (64, 128),
        "calibration_batch_size": (16, 8),
        "seed": (42, 43),
        "rotate": SWITCH,
        "rotation_seed": (0, 1),
        "w_rtn": SWITCH,
        "w_gptq": SWITCH,
        "gptq_damping": (0.01, 0.1),
        "experts": ({"few_tokens": "fail"}, {"few_tokens": "all"}),
        "gptq_opt_scales": SWITCH,
        "w_bits": BITS,
        "w_asym": SWITCH,
        "w_groupsize": GROUPS,
        "checkpoint_format": ("gptq", "compressed-tensors"),
        "a_bits": BITS,
        "a_asym": SWITCH,
        "a_clip_ratio": (0.9, 1.0),
        "a_groupsize": GROUPS,
        "k_bits": BITS,
        "k_clip_ratio": (0.9, 1),
        "k_groupsize": GROUPS,
        "v_bits": BITS,
        "v_clip_ratio": (0.9, 1.0),
        "v_groupsize": GROUPS,
        "s_bits": BITS,
    },
    "ModelBuilder": {
        "precision": ("int4", "int4", "int8", "fp16"),
        "int4_block_size": (16, 32, 64, 128, 256),
        "int4_accuracy_level": (1, 2, 3, 4),
        "execution_provider": ("cpu", "cuda", "dml"),
    },
}

PAIRS = (("QuaRot", "GptqQuantizer"), ("QuaRot", "GptqQuantizer"), ("QuaRot", "AutoAWQQuantizer"))


def random_pass(chance: random.Random, kind: str, most: int = 5) -> dict[str, Any]:
    """A pass of the type with at most so many parameters."""
    values = VALUES[kind]
    chosen = chance.sample(sorted(values), chance.randint(0, min(most, len(values))))
    parameters = {name: chance.choice(values[name]) for name in chosen}
    needed = {"data_config": "train"} if kind == "GptqQuantizer" else {}
    return {"type": kind, **needed, **parameters}


def random_passes(chance: random.Random) -> list[dict[str, Any]]:
    """One pass, a rotation and GPTQ, or one of these and a ModelBuilder."""
    kinds = chance.choice(
        (("GptqQuantizer",), ("GptqQuantizer",), ("AutoAWQQuantizer",), ("QuaRot",), ("QuaRot",), *PAIRS)
    )
    if chance.random() < 0.4:
        return [*(random_pass(chance, kind, 3) for kind in kinds), random_pass(chance, "ModelBuilder", 2)]
    return [random_pass(chance, kind, 5 if len(kinds) == 1 else 2) for kind in kinds]
