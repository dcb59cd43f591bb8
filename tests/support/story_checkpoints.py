"""The example model, quantized in the ways that other software is asked to read: one table, whoever reads."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.engine import (
    CALIBRATION,
    STORIES,
    awq_pass,
    gptq_pass,
    quarot_pass,
    run_layers,
    story_batches,
)

from quantization_api.passes import Pass
from quantizer.checkpoint.source import DirectorySource
from quantizer.passes.making import weight_pass
from quantizer.passes.weight_pass import WeightParameters, WeightPass

GROUP = 32
SEQUENCES = 4
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True)
class StoryCase:
    """The passes of a workflow, and the largest shard of what they make."""

    passes: tuple[WeightParameters, ...]
    max_shard_bytes: int = 10**9

    @property
    def chosen(self) -> WeightPass[Any]:
        """What rounds the weights."""
        return weight_pass(*self.passes)


def gptq(**parameters: Any) -> Pass:
    """GPTQ in groups of 32, unless they are chosen, symmetric unless said otherwise."""
    groups = {} if "candidate_group_sizes" in parameters else {"group_size": GROUP}
    return gptq_pass(**{"sym": True, **groups, **parameters})


def awq(**parameters: Any) -> Pass:
    """AWQ in groups of 32."""
    return awq_pass(q_group_size=GROUP, **parameters)


def tensors(**parameters: Any) -> Pass:
    """GPTQ in the format of compressed-tensors."""
    return gptq(checkpoint_format="compressed-tensors", **parameters)


def groups_chosen(**parameters: Any) -> Pass:
    """GPTQ with 4 bits whose groups are chosen: of 32, or whole rows."""
    return gptq(candidate_bits=[4], candidate_group_sizes=[GROUP, -1], **parameters)


ROTATION = quarot_pass(w_gptq=False, w_bits=16, calibration_data_config=None)
STORY_CASES: dict[str, StoryCase] = {
    "gptq": StoryCase((gptq(),)),
    "gptq, asymmetric": StoryCase((gptq(sym=False),)),
    "gptq, act order": StoryCase((gptq(desc_act=True),)),
    "gptq, act order, static groups": StoryCase((gptq(desc_act=True, static_groups=True),)),
    "gptq, 2 bits": StoryCase((gptq(sym=False, bits=2, true_sequential=True),)),
    "gptq, 3 bits, sharded": StoryCase((gptq(sym=False, bits=3),), 3_000_000),
    "gptq, 3 bits, one group, act order": StoryCase((gptq(sym=False, bits=3, group_size=-1, desc_act=True),)),
    "gptq, 8 bits, one group": StoryCase((gptq(sym=False, bits=8, group_size=-1),)),
    "gptq_v2": StoryCase((gptq(sym=False, checkpoint_format="gptq_v2"),)),
    "compressed-tensors": StoryCase((tensors(),)),
    "compressed-tensors, asymmetric": StoryCase((tensors(sym=False),)),
    "compressed-tensors, 3 bits, asymmetric": StoryCase((tensors(sym=False, bits=3),)),
    "compressed-tensors, act order": StoryCase((tensors(desc_act=True, static_groups=True),)),
    "compressed-tensors, asymmetric, act order": StoryCase(
        (tensors(sym=False, desc_act=True, static_groups=True),)
    ),
    "compressed-tensors, the attention alone": StoryCase(
        (tensors(inside_layer_modules=[[*QKV], ["self_attn.o_proj"]]),)
    ),
    "compressed-tensors, q_proj alone": StoryCase((tensors(inside_layer_modules=[["self_attn.q_proj"]]),)),
    "gptq, groups chosen": StoryCase((groups_chosen(target_bits=4.6),)),
    "gptq, bits chosen": StoryCase((gptq(target_bits=6, candidate_bits=[4, 8]),)),
    "gptq, bits chosen, 3 and 4": StoryCase((gptq(target_bits=4.2, candidate_bits=[3, 4]),)),
    "gptq_v2, bits and groups chosen": StoryCase(
        (
            gptq(
                sym=False,
                target_bits=5.2,
                candidate_bits=[4, 8],
                candidate_group_sizes=[16, GROUP],
                checkpoint_format="gptq_v2",
            ),
        )
    ),
    "compressed-tensors, bits chosen": StoryCase((tensors(target_bits=4.2),)),
    "compressed-tensors, bits and groups chosen": StoryCase(
        (tensors(target_bits=4.2, candidate_group_sizes=[16, GROUP]),)
    ),
    "compressed-tensors, groups chosen": StoryCase(
        (groups_chosen(target_bits=4.3, checkpoint_format="compressed-tensors"),)
    ),
    "compressed-tensors, 4 and 8 bits chosen": StoryCase((tensors(target_bits=6, candidate_bits=[4, 8]),)),
    "awq": StoryCase((awq(),)),
    "awq, symmetric": StoryCase((awq(zero_point=False),)),
    "awq without the MLP": StoryCase((awq(modules_to_not_convert=["mlp"]),)),
    "awq without q_proj": StoryCase((awq(modules_to_not_convert=["q_proj"]),)),
    "awq, compressed-tensors": StoryCase((awq(checkpoint_format="compressed-tensors"),)),
    "awq, compressed-tensors, 3 bits": StoryCase(
        (awq(checkpoint_format="compressed-tensors", bits=3, zero_point=False),)
    ),
    "quarot": StoryCase((quarot_pass(w_groupsize=GROUP),)),
    "quarot, compressed-tensors": StoryCase(
        (quarot_pass(w_groupsize=GROUP, checkpoint_format="compressed-tensors"),)
    ),
    "quarot, RTN, 3 bits, asymmetric": StoryCase(
        (quarot_pass(w_gptq=False, w_rtn=True, calibration_data_config=None, w_bits=3, w_asym=True),)
    ),
    "quarot, rotation alone": StoryCase((ROTATION,)),
    "quarot, then gptq": StoryCase((ROTATION, gptq())),
    "quarot, then gptq, asymmetric": StoryCase((ROTATION, gptq(sym=False))),
    "quarot, then gptq, act order": StoryCase((ROTATION, gptq(desc_act=True))),
    "quarot, then gptq, compressed-tensors": StoryCase((ROTATION, tensors(sym=False))),
}


def quantize_stories(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """Quantizes the example model in these ways; where each checkpoint is."""
    tokens = story_batches(CALIBRATION, SEQUENCES, folder)
    paths = {name: folder / str(number) for number, name in enumerate(names)}
    for name, path in paths.items():
        case = STORY_CASES[name]
        run_layers(
            DirectorySource(STORIES), tokens, case.chosen.layer_pass, path, folder / "scratch",
            modules=case.chosen.modules, max_shard_bytes=case.max_shard_bytes,
        )  # fmt: skip
    return paths
