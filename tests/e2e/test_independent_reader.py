"""What the passes make of the example model is read by transformers, gptqmodel and compressed-tensors as we read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.engine import (
    CALIBRATION,
    CPU,
    STORIES,
    VALIDATION,
    awq_pass,
    gptq_pass,
    quarot_pass,
    run_layers,
    story_batches,
)
from tests.support.quantized_models import as_read, unpacked, view_logits
from tests.support.reference import interpreter_from, run_reference

from quantization_api.passes import QuaRot
from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view
from quantizer.passes.interface import LayerPass
from quantizer.passes.making import make_pass
from quantizer.passes.weight_pass import WeightParameters

pytestmark = pytest.mark.e2e

GROUP = 32
LINEARS = 6 * 7


@dataclass(frozen=True)
class Case:
    """A pass, the largest shard, and how the result is loaded (see reference/format_reader.py).

    rotation: the pass before it.
    """

    parameters: WeightParameters
    max_shard_bytes: int = 10**9
    loader: str = "transformers"
    rotation: QuaRot | None = None

    @property
    def layer_pass(self) -> LayerPass:
        """The passes as one."""
        return make_pass(*([self.rotation] if self.rotation else []), self.parameters)


def gptq(**parameters: Any) -> WeightParameters:
    """GPTQ in groups of 32 unless said otherwise."""
    return gptq_pass(**{"group_size": GROUP, **parameters})


def chosen(**parameters: Any) -> WeightParameters:
    """GPTQ whose bits are chosen, in groups of 16 or 32."""
    return gptq_pass(candidate_group_sizes=[16, GROUP], **parameters)


ROTATION = quarot_pass(w_gptq=False, w_bits=16, calibration_data_config=None)
CASES: dict[str, Case] = {
    "asymmetric": Case(gptq()),
    "symmetric, act-order": Case(gptq(sym=True, desc_act=True)),
    "3 bits, sharded": Case(gptq(bits=3), 3_000_000),
    "2 bits": Case(gptq(bits=2, true_sequential=True)),
    "8 bits, one group": Case(gptq(bits=8, group_size=-1)),
    "3 bits, one group, act-order": Case(gptq(bits=3, group_size=-1, desc_act=True)),
    "gptq_v2, own loader": Case(gptq(checkpoint_format="gptq_v2"), loader="gptqmodel"),
    "awq": Case(awq_pass(q_group_size=GROUP)),
    "awq, symmetric, own loader": Case(awq_pass(q_group_size=GROUP, zero_point=False), loader="gptqmodel"),
    "quarot, rotated weights": Case(quarot_pass(w_groupsize=GROUP)),
    "quarot, rounded to nearest, 3 bits, asymmetric": Case(
        quarot_pass(w_gptq=False, w_rtn=True, calibration_data_config=None, w_bits=3, w_asym=True)
    ),
    "quarot, then gptq": Case(gptq(), rotation=ROTATION),
    "quarot, then gptq, symmetric, act-order, own loader": Case(
        gptq(sym=True, desc_act=True), loader="gptqmodel", rotation=ROTATION
    ),
    "quarot, then gptq, compressed-tensors": Case(
        gptq(checkpoint_format="compressed-tensors"), loader="dequantized", rotation=ROTATION
    ),
    "compressed-tensors, 3 bits, asymmetric": Case(
        gptq(bits=3, checkpoint_format="compressed-tensors"), loader="dequantized"
    ),
    "bits chosen, own loader": Case(
        gptq(sym=True, target_bits=4.2, candidate_bits=[3, 4]), loader="gptqmodel"
    ),
    "bits chosen, gptq_v2, two groups, own loader": Case(
        chosen(target_bits=5.2, candidate_bits=[4, 8], checkpoint_format="gptq_v2"), loader="gptqmodel"
    ),
    "bits chosen, compressed-tensors": Case(
        gptq(sym=True, target_bits=4.2, checkpoint_format="compressed-tensors")
    ),
    "bits chosen, compressed-tensors, two groups": Case(
        chosen(sym=True, target_bits=4.2, checkpoint_format="compressed-tensors")
    ),
    "compressed-tensors, act-order": Case(
        gptq(checkpoint_format="compressed-tensors", desc_act=True, static_groups=True), loader="dequantized"
    ),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example model, quantized in several ways."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokens = story_batches(CALIBRATION, 8, folder)
    paths = {name: folder / str(number) for number, name in enumerate(CASES)}
    for name, case in CASES.items():
        run_layers(
            DirectorySource(STORIES), tokens, case.layer_pass, paths[name], folder / "scratch",
            max_shard_bytes=case.max_shard_bytes,
        )  # fmt: skip
    return paths


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Two sequences of held-out text."""
    return torch.stack(story_batches(VALIDATION, 2, tmp_path_factory.mktemp("tokens"), 128).sequences)


@pytest.fixture(scope="module")
def readings(
    checkpoints: dict[str, Path], tokens: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the independent reader makes of each checkpoint."""
    requested = [{"directory": str(checkpoints[name]), "loader": case.loader} for name, case in CASES.items()]
    request = {"checkpoints": requested, "tokens": tokens, "plain": True}
    python = interpreter_from("QUANTIZATION_READER_PYTHON")
    results = run_reference(python, "format_reader.py", request, tmp_path_factory.mktemp("reader"))
    return dict(zip(checkpoints, results, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_logits_are_ours_within_a_thousandth(
    name: str, readings: dict[str, Any], checkpoints: dict[str, Path], tokens: torch.Tensor
) -> None:
    assert isinstance(readings[name], dict), readings[name]
    ours = view_logits(open_view(DirectorySource(checkpoints[name]), CPU), tokens)
    difference = (readings[name]["logits"] - ours).abs().max()
    print(f"{name}: max |difference of logits| = {float(difference):.2e}")
    assert difference <= 1e-3


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].loader != "dequantized"])
def test_integers_and_zero_points_are_ours_bit_by_bit(
    name: str, readings: dict[str, Any], checkpoints: dict[str, Path]
) -> None:
    theirs, ours = readings[name]["linears"], unpacked(checkpoints[name])
    assert theirs.keys() == ours.keys()
    assert len(ours) == LINEARS
    for linear, (integers, zeros) in ours.items():
        assert torch.equal(theirs[linear]["integers"], integers), linear
        assert torch.equal(theirs[linear]["zeros"], zeros), linear


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].loader == "dequantized"])
def test_weights_are_ours_bit_by_bit_where_a_reader_keeps_no_integers(
    name: str, readings: dict[str, Any], checkpoints: dict[str, Path]
) -> None:
    theirs, ours = readings[name]["weights"], as_read(checkpoints[name])
    assert len(ours) == LINEARS
    for linear, weight in ours.items():
        assert torch.equal(theirs[linear], weight), linear
