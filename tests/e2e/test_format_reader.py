"""Every format as transformers reads it (with gptqmodel, optimum, compressed-tensors), on a tiny Llama.

The model's weights are large, so that its logits follow every one of them: rounding alone moves them by
tenths at 8 bits and by units below.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from tests.support.formats import compute_in_half, logits, save_quantized
from tests.support.reference import interpreter_from, run_reference

from quantizer.formats.awq import AwqFormat
from quantizer.formats.compressed_tensors import CompressedTensorsFormat
from quantizer.formats.gptq import GptqFormat
from quantizer.formats.interface import WeightFormat
from quantizer.passes.grid import GridRule

pytestmark = pytest.mark.e2e

ODD_ONES = ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj")
ATTENTION = (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),)
FEED_FORWARD = tuple(
    f"model.layers.{layer}.mlp.{name}_proj" for layer in (0, 1) for name in ("gate", "up", "down")
)
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_key_value_heads": 4}


@dataclass(frozen=True)
class Case:
    """A checkpoint: its format, its grid, and what else save_quantized takes."""

    written: WeightFormat
    rule: GridRule
    group_size: int
    options: dict[str, Any]
    dequantize: bool = False  # compressed-tensors: while loading


def rule(bits: int, sym: bool) -> GridRule:
    """Grids with the scales that are stored."""
    return GridRule(bits, sym, torch.float16)


def gptq_cases() -> dict[str, Case]:
    """Both versions, with all bits, groups, symmetries and group indices; and layers quantized in part."""
    cases = {}
    for version, bits, (group_size, act_order), sym in product(
        (1, 2), (2, 3, 4, 8), ((32, False), (32, True), (-1, False)), (True, False)
    ):
        written = GptqFormat(bits, group_size, sym, act_order, version=version)
        name = f"gptq version {version}, {bits} bits, group {group_size}, sym {sym}, act-order {act_order}"
        cases[name] = Case(written, rule(bits, sym), group_size, {"act_order": act_order})
    part = GptqFormat(4, 32, inside_layer_modules=ATTENTION)
    cases["gptq, attention only"] = Case(part, rule(4, False), 32, {"not_converted": FEED_FORWARD})
    cases["gptq, group 16"] = Case(GptqFormat(4, 16), rule(4, False), 16, {})
    return cases


def awq_cases() -> dict[str, Case]:
    """Version gemm: the only one that runs without a GPU."""
    cases = {
        f"awq gemm, group {group_size}, zero points {zero_point}": Case(
            AwqFormat("gemm", 4, group_size, zero_point), rule(4, not zero_point), group_size, {}
        )
        for group_size, zero_point in product((16, 32, -1), (True, False))
    }
    exceptions = {"not_converted": ODD_ONES}
    return {**cases, "awq gemm, exceptions": Case(AwqFormat("gemm", 4, 32), rule(4, False), 32, exceptions)}


def compressed_tensors_cases() -> dict[str, Case]:
    """All bits, groups and symmetries, dequantized while loading; symmetric ones also as they are."""
    cases = {}
    for bits, group_size, sym in product((2, 3, 4, 8), (32, -1), (True, False)):
        case = Case(CompressedTensorsFormat(bits, group_size, sym), rule(bits, sym), group_size, {}, True)
        cases[f"compressed-tensors, {bits} bits, group {group_size}, sym {sym}, dequantized"] = case
        if sym:
            kept = Case(case.written, case.rule, group_size, {"exact": True})
            cases[f"compressed-tensors, {bits} bits, group {group_size}, sym {sym}"] = kept
    ordered = CompressedTensorsFormat(4, 32, desc_act=True, static_groups=True)
    cases["compressed-tensors, act-order"] = Case(ordered, rule(4, False), 32, {}, True)
    exceptions = {"not_converted": ODD_ONES}
    cases["compressed-tensors, exceptions"] = Case(
        CompressedTensorsFormat(4, 32), rule(4, False), 32, exceptions, True
    )
    odd = {"hidden_size": 72, "intermediate_size": 100}
    cases["compressed-tensors, sizes that fill no words"] = Case(
        CompressedTensorsFormat(3, -1), rule(3, False), -1, odd, True
    )
    return cases


READ = {**gptq_cases(), **awq_cases(), **compressed_tensors_cases()}
REFUSED = {
    "compressed-tensors, asymmetric": (
        Case(CompressedTensorsFormat(4, 32), rule(4, False), 32, {}),
        "RuntimeError",  # transformers 5.23 expects zero points that are not packed unless it dequantizes
    ),
    "gptq, group 8": (Case(GptqFormat(4, 8), rule(4, False), 8, {}), "only supports"),
    "awq gemv": (Case(AwqFormat("gemv", 4, 64), rule(4, False), 64, WIDE), "Unsupported backend"),
    "awq gemv_fast": (Case(AwqFormat("gemv_fast"), rule(4, False), 128, WIDE), "Unsupported backend"),
    "awq marlin": (
        Case(AwqFormat("marlin", zero_point=False), rule(4, True), 128, WIDE),
        "Invalid format 'marlin'",
    ),
}


@pytest.fixture(scope="module")
def readings(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[torch.Tensor | str, torch.Tensor, torch.Tensor]]:
    """For each checkpoint what the reader makes of it, our logits, and the float model's."""
    folder = tmp_path_factory.mktemp("formats")
    tokens = torch.randint(0, 96, (2, 32), generator=torch.Generator().manual_seed(5))
    cases = {**READ, **{name: case for name, (case, _) in REFUSED.items()}}
    ours, directories, dequantized = [], [], []
    for number, case in enumerate(cases.values()):
        directory = folder / str(number)
        plain, model = save_quantized(directory, case.written, case.rule, case.group_size, **case.options)
        if isinstance(case.written, AwqFormat):
            compute_in_half(model, case.options.get("not_converted", ()))
        ours.append((logits(model, tokens), logits(plain, tokens)))
        directories.append(str(directory))
        if case.dequantize:
            dequantized.append(str(directory))
    request = {"directories": directories, "tokens": tokens, "dequantize": dequantized}
    python = interpreter_from("QUANTIZATION_READER_PYTHON")
    theirs = run_reference(python, "format_reader.py", request, folder)
    return {name: (read, *both) for name, read, both in zip(cases, theirs, ours, strict=True)}


@pytest.mark.parametrize("name", READ)
def test_logits_are_ours_within_a_thousandth(name: str, readings: dict[str, Any]) -> None:
    theirs, ours, plain = readings[name]
    assert isinstance(theirs, torch.Tensor), theirs
    difference, effect = float((theirs - ours).abs().max()), float((plain - ours).abs().max())
    print(f"{name}: max |difference of logits| = {difference:.2e}, of rounding {effect:.2e}")
    assert difference <= 1e-3
    assert effect >= 0.1


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_list_of_readers_leaves_out_is_refused(name: str, readings: dict[str, Any]) -> None:
    theirs, _, _ = readings[name]
    assert isinstance(theirs, str)
    assert REFUSED[name][1] in theirs
