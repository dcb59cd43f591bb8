"""QuaRot's parameters of calibration, damping and data type: each has the effect that it says."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.engine import CPU, make_pass, quarot_pass, random_batches, run_layers, save_tiny
from tests.support.quantizer_requests import Request
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import RunRequest
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.source import DirectorySource
from quantizer.progress.tracker import Tracker
from quantizer.run.checks import Job, check
from quantizer.run.setting import Setting

pytestmark = pytest.mark.unit

SEQUENCES = 12


def numbered(lengths: list[int]) -> TokenBatches:
    """Sequences whose every token is their number."""
    return TokenBatches(tuple(torch.full((length,), number) for number, length in enumerate(lengths)))


def numbers(tokens: TokenBatches) -> list[int]:
    return [int(sequence[0]) for sequence in tokens.sequences]


def test_a_sample_is_as_many_sequences_as_asked_for_in_their_order() -> None:
    whole = numbered([8] * 40)
    chosen = numbers(whole.sample(10, seed=42, batch_size=4))
    assert len(chosen) == len(set(chosen)) == 10
    assert chosen == sorted(chosen)
    assert chosen != list(range(10))  # chosen, not the first ones
    assert numbers(whole.sample(40, seed=42, batch_size=4)) == list(range(40))


def test_the_seed_chooses_them_and_the_same_seed_the_same_ones() -> None:
    whole = numbered([8] * 40)
    by_seed = [numbers(whole.sample(10, seed, batch_size=4)) for seed in (42, 42, 43)]
    assert by_seed[0] == by_seed[1] != by_seed[2]


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 10), (4, [4, 4, 2]), (16, [10])])
def test_batches_hold_as_many_sequences_as_asked_for(batch_size: int, sizes: list[int]) -> None:
    batches = numbered([8] * 40).sample(10, seed=0, batch_size=batch_size).batches()
    assert [len(batch) for batch in batches] == sizes


def test_sequences_of_different_lengths_never_share_a_batch() -> None:
    batches = numbered([8, 8, 6, 6, 8]).sample(5, seed=0, batch_size=4).batches()
    assert [tuple(batch.shape) for batch in batches] == [(2, 8), (2, 6), (1, 8)]


def checked(folder: Path, **parameters: Any) -> Job:
    """The checked job of a QuaRot request on the example model, whose data config makes SEQUENCES sequences."""
    layer_pass = {"type": "QuaRot", "w_gptq": True, "w_bits": 4, "calibration_data_config": "calibration"}
    asked = Request(
        f"file://{folder / 'out'}", layer_pass={**layer_pass, **parameters}, samples=SEQUENCES, metrics=[]
    )
    request = RunRequest.model_validate(asked.document())
    return check(request, Setting(folder, CPU, Tracker(), lambda: None, lambda: datetime.now(UTC)))


def test_a_job_calibrates_with_what_its_parameters_choose(tmp_path: Path) -> None:
    parameters = {"calibration_nsamples": 5, "seed": 7, "calibration_batch_size": 2}
    job = checked(tmp_path, **parameters)
    whole = job.tokens["calibration"]
    assert len(whole.sequences) == SEQUENCES
    expected, found = whole.sample(5, 7, 2), job.calibration
    assert len(found.sequences) == 5
    for ours, theirs in zip(found.sequences, expected.sequences, strict=True):
        assert torch.equal(ours, theirs)
    assert [len(batch) for batch in found.batches()] == [2, 2, 1]


def test_fewer_sequences_than_calibration_nsamples_are_refused_with_how_many_there_are(
    tmp_path: Path,
) -> None:
    assert len(checked(tmp_path, calibration_nsamples=SEQUENCES).calibration.sequences) == SEQUENCES
    with pytest.raises(QuantizationError) as caught:
        checked(tmp_path, calibration_nsamples=SEQUENCES + 1)
    assert caught.value.category is Category.DATA_INSUFFICIENT
    assert caught.value.message == (
        f"data config calibration yields {SEQUENCES} sequences, but calibration_nsamples is {SEQUENCES + 1}"
    )
    assert f"Lower calibration_nsamples to {SEQUENCES}" in str(caught.value.hint)


def test_without_gptq_no_number_of_sequences_is_needed(tmp_path: Path) -> None:
    rounded = {"w_gptq": False, "w_rtn": True, "calibration_data_config": None}
    assert checked(tmp_path, **rounded).calibration.sequences == ()


Made = tuple[QuantizeReport, dict[str, Tensor], dict[str, Any]]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """Report, tensors and config.json of a QuaRot pass with these parameters over a tiny model."""
    save_tiny(tmp_path / "model", initializer_range=0.1)

    def run(name: str, **parameters: Any) -> Made:
        out = tmp_path / name
        layer_pass = make_pass(quarot_pass(**{"w_groupsize": 32, **parameters}))
        report = run_layers(
            DirectorySource(tmp_path / "model"), random_batches(), layer_pass, out, tmp_path / "s"
        )
        return report, load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())

    return run


def test_damping_is_reported_as_asked_and_changes_what_is_rounded(make: Callable[..., Made]) -> None:
    little, much = make("little"), make("much", gptq_damping=0.9)
    assert {module.damping for module in little[0].linears} == {0.01}
    assert {module.damping for module in much[0].linears} == {0.9}
    assert (
        little[2]["quantization_config"]["damp_percent"],
        much[2]["quantization_config"]["damp_percent"],
    ) == (0.01, 0.9)
    name = "model.layers.1.mlp.up_proj.qweight"
    assert not torch.equal(little[1][name], much[1][name])
    errors = [sum(module.error for module in report.linears) for report in (little[0], much[0])]
    assert errors[0] < errors[1]  # heavy damping is close to RTN


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("fp32", torch.float32)])
@pytest.mark.parametrize(
    "online", [{}, {"a_bits": 8}, {"w_gptq": False, "w_bits": 16, "calibration_data_config": None}]
)
def test_input_model_dtype_is_what_stays_unquantized(
    online: dict[str, Any], name: str, dtype: torch.dtype, make: Callable[..., Made]
) -> None:
    if online.get("w_bits") == 16:
        online = {**online, "w_groupsize": None}
    _, tensors, config = make("out", input_model_dtype=name, **online)
    kept = {key: tensor for key, tensor in tensors.items() if key.endswith(".weight")}
    assert {"model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"} <= set(kept)
    assert ("model.layers.0.mlp.up_proj.weight" in kept) is (online.get("w_bits") == 16)
    assert {tensor.dtype for tensor in kept.values()} == {dtype}
    assert config["dtype"] == name.replace("fp", "float")
