"""Every format as transformers reads it (with gptqmodel, optimum, compressed-tensors) and gptqmodel's own loader.

On a tiny Llama, whose weights are large, so that its logits follow every one of them: rounding alone moves them
by tenths at 8 bits and by units below.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
import torch
from tests.support.choice import chosen, mostly_nightly
from tests.support.formats import compute_in_half, logits, save_quantized
from tests.support.reference import interpreter_from, run_reference

from quantizer.algorithms.grid import GridRule
from quantizer.formats.awq import AwqFormat
from quantizer.formats.compressed_tensors import CompressedTensorsFormat
from quantizer.formats.gptq import GptqFormat
from quantizer.formats.interface import WeightFormat

pytestmark = pytest.mark.e2e

ODD_ONES = ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj")
ATTENTION = (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),)
FEED_FORWARD = tuple(
    f"model.layers.{layer}.mlp.{name}_proj" for layer in (0, 1) for name in ("gate", "up", "down")
)
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_key_value_heads": 4}


@dataclass(frozen=True)
class Case:
    """A checkpoint: its format, its grid, what else save_quantized takes, and how it is loaded (format_reader.py)."""

    written: WeightFormat
    rule: GridRule
    group_size: int
    options: dict[str, Any]
    loader: str = "transformers"


@dataclass(frozen=True)
class Reading:
    """What the reader makes of a checkpoint, our logits, the float model's, and the integers that we packed."""

    theirs: dict[str, Any] | str
    ours: torch.Tensor
    plain: torch.Tensor
    codes: dict[str, tuple[torch.Tensor, torch.Tensor]]


def rule(bits: int, sym: bool) -> GridRule:
    """Grids with the scales that are stored."""
    return GridRule(bits, sym, torch.float16)


def gptq_cases() -> dict[str, Case]:
    """Both versions, with all bits, groups, symmetries and group indices; and layers quantized in part.

    gptqmodel's own loader takes no zero points of version 1.
    """
    cases = {}
    for version, bits, (group_size, act_order), sym in product(
        (1, 2), (2, 3, 4, 8), ((32, False), (32, True), (-1, False), (-1, True)), (True, False)
    ):
        written = GptqFormat(bits, group_size, sym, act_order, version=version)
        name = f"gptq version {version}, {bits} bits, group {group_size}, sym {sym}, act-order {act_order}"
        cases[name] = case = Case(written, rule(bits, sym), group_size, {"act_order": act_order})
        if sym or version == 2:
            cases[f"{name}, own loader"] = replace(case, loader="gptqmodel")
    part = GptqFormat(4, 32, inside_layer_modules=ATTENTION)
    cases["gptq, attention only"] = Case(part, rule(4, False), 32, {"not_converted": FEED_FORWARD})
    cases["gptq, group 16"] = Case(GptqFormat(4, 16), rule(4, False), 16, {})
    return cases


def awq_cases() -> dict[str, Case]:
    """Version gemm: the only one that runs without a GPU; through both loaders."""
    cases = {
        f"awq gemm, group {group_size}, zero points {zero_point}": Case(
            AwqFormat("gemm", 4, group_size, zero_point), rule(4, not zero_point), group_size, {}
        )
        for group_size, zero_point in product((16, 32, -1), (True, False))
    }
    own = {f"{name}, own loader": replace(case, loader="gptqmodel") for name, case in cases.items()}
    exceptions = {"not_converted": ODD_ONES}
    part = Case(AwqFormat("gemm", 4, 32), rule(4, False), 32, exceptions)
    return {**cases, **own, "awq gemm, exceptions": part}


def compressed_tensors_cases() -> dict[str, Case]:
    """All bits, groups and symmetries, dequantized while loading; symmetric ones also as they are."""
    cases = {}
    for bits, group_size, sym in product((2, 3, 4, 8), (32, -1), (True, False)):
        case = Case(
            CompressedTensorsFormat(bits, group_size, sym), rule(bits, sym), group_size, {}, "dequantized"
        )
        cases[f"compressed-tensors, {bits} bits, group {group_size}, sym {sym}, dequantized"] = case
        if sym:
            kept = Case(case.written, case.rule, group_size, {"exact": True})
            cases[f"compressed-tensors, {bits} bits, group {group_size}, sym {sym}"] = kept
    ordered = CompressedTensorsFormat(4, 32, desc_act=True)
    cases["compressed-tensors, act-order"] = Case(ordered, rule(4, False), 32, {}, "dequantized")
    exceptions = {"not_converted": ODD_ONES}
    cases["compressed-tensors, exceptions"] = Case(
        CompressedTensorsFormat(4, 32), rule(4, False), 32, exceptions, "dequantized"
    )
    odd = {"hidden_size": 72, "intermediate_size": 100}
    cases["compressed-tensors, sizes that fill no words"] = Case(
        CompressedTensorsFormat(3, -1), rule(3, False), -1, odd, "dequantized"
    )
    return cases


READ = {**gptq_cases(), **awq_cases(), **compressed_tensors_cases()}
REFUSED: dict[str, tuple[Case, str | None]] = {
    "compressed-tensors, asymmetric": (
        Case(CompressedTensorsFormat(4, 32), rule(4, False), 32, {}),
        "RuntimeError",  # transformers 5.23 expects zero points that are not packed unless it dequantizes
    ),
    "gptq with zero points, own loader": (
        Case(GptqFormat(4, 32), rule(4, False), 32, {}, "gptqmodel"),
        "sym=False",  # what other software wrote so had zero points that wrapped
    ),
    "gptq, attention only, own loader": (
        Case(
            GptqFormat(4, 32, sym=True, inside_layer_modules=ATTENTION),
            rule(4, True),
            32,
            {"not_converted": FEED_FORWARD},
            "gptqmodel",
        ),
        "Missing required quantized weights",
    ),
    "awq gemm, exceptions, own loader": (replace(READ["awq gemm, exceptions"], loader="gptqmodel"), None),
    "gptq, group 8": (Case(GptqFormat(4, 8), rule(4, False), 8, {}), "only supports"),
    "awq gemv": (Case(AwqFormat("gemv", 4, 64), rule(4, False), 64, WIDE), "Unsupported backend"),
    "awq gemv_fast": (Case(AwqFormat("gemv_fast"), rule(4, False), 128, WIDE), "Unsupported backend"),
    "awq marlin": (
        Case(AwqFormat("marlin", zero_point=False), rule(4, True), 128, WIDE),
        "Invalid format 'marlin'",
    ),
}


"""With what the error says; None where there is none, and what is computed is something else."""
KEEP_INTEGERS = [name for name in READ if not name.startswith("compressed-tensors")]
USUAL = ("group 32, sym False, act-order False", "group 32, sym False, dequantized")
OTHER_BITS = ("2 bits", "3 bits", "8 bits")
EVERY_TIME = {
    name for name in (*READ, *REFUSED) if not any(bits in name for bits in OTHER_BITS) or name.endswith(USUAL)
}
"""Every layout in 4 bits, the other widths once."""


@pytest.fixture(scope="module")
def readings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reading]:
    """Each checkpoint, as one process of the readers' environment reads all of them."""
    folder = tmp_path_factory.mktemp("formats")
    tokens = torch.randint(0, 96, (2, 32), generator=torch.Generator().manual_seed(5))
    every = {**READ, **{name: case for name, (case, _) in REFUSED.items()}}
    cases = {name: every[name] for name in chosen(request, "name")}
    ours, checkpoints = [], []
    for number, case in enumerate(cases.values()):
        directory = folder / str(number)
        saved = save_quantized(directory, case.written, case.rule, case.group_size, **case.options)
        if isinstance(case.written, AwqFormat):
            compute_in_half(saved.as_read, case.options.get("not_converted", ()))
        ours.append((logits(saved.as_read, tokens), logits(saved.plain, tokens), saved.codes))
        checkpoints.append({"directory": str(directory), "loader": case.loader})
    asked = {"checkpoints": checkpoints, "tokens": tokens, "plain": False}
    python = interpreter_from("QUANTIZATION_READER_PYTHON")
    theirs = run_reference(python, "format_reader.py", asked, folder)
    return {name: Reading(read, *rest) for name, read, rest in zip(cases, theirs, ours, strict=True)}


@pytest.mark.parametrize("name", mostly_nightly(READ, EVERY_TIME.intersection(READ)))
def test_logits_are_ours_within_a_thousandth(name: str, readings: dict[str, Reading]) -> None:
    reading = readings[name]
    assert isinstance(reading.theirs, dict), reading.theirs
    difference = float((reading.theirs["logits"] - reading.ours).abs().max())
    effect = float((reading.plain - reading.ours).abs().max())
    print(f"{name}: max |difference of logits| = {difference:.2e}, of rounding {effect:.2e}")
    assert difference <= 1e-3
    assert effect >= 0.1


@pytest.mark.parametrize("name", mostly_nightly(KEEP_INTEGERS, EVERY_TIME.intersection(KEEP_INTEGERS)))
def test_integers_and_zero_points_are_those_that_were_packed(name: str, readings: dict[str, Reading]) -> None:
    reading = readings[name]
    assert isinstance(reading.theirs, dict), reading.theirs
    theirs = reading.theirs["linears"]
    assert theirs.keys() == reading.codes.keys()
    for linear, (integers, zeros) in reading.codes.items():
        assert torch.equal(theirs[linear]["integers"], integers), linear
        assert torch.equal(theirs[linear]["zeros"], zeros), linear


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_list_of_readers_leaves_out_does_not_work(name: str, readings: dict[str, Reading]) -> None:
    theirs, said = readings[name].theirs, REFUSED[name][1]
    if said is not None:
        assert isinstance(theirs, str)
        assert said in theirs
    else:
        assert isinstance(theirs, dict)
        assert not bool((theirs["logits"] - readings[name].ours).abs().max() <= 1e-3)
