"""What calibration computes in: who decides, what it may change, and that a run keeps to it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.support.engine import (
    awq_pass,
    gptq_pass,
    make_pass,
    quarot_pass,
    random_batches,
    run_layers,
    save_tiny,
)
from tests.support.quantized_models import GROUP
from torch import Tensor

from quantizer import machine
from quantizer.algorithms.gptq.config import GptqConfig
from quantizer.algorithms.gptq.solver import Factored
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.source import DirectorySource
from quantizer.passes import gptq_layers as layerwise_gptq
from quantizer.run.finished_layers import FinishedLayers
from quantizer.store.directory import DirectoryStore
from quantizer.store.interface import OUTPUT

pytestmark = pytest.mark.unit

RECIPE = "sha256:" + "7" * 64
LAYERS = 3
READERS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "model", num_hidden_layers=LAYERS)
    return tmp_path


def quantized(
    folder: Path, out: str, asked: str, layers: int = LAYERS, dtype: torch.dtype | None = None
) -> QuantizeReport:
    """One attempt, its state in the folder's store; it is stopped when so many layers are done.

    dtype: what suits the machine; None: find out.
    """

    def on_progress(_stage: str, done: int, _total: int) -> None:
        if done == layers < LAYERS:
            raise InterruptedError

    (folder / "scratch").mkdir(exist_ok=True)
    with FinishedLayers(DirectoryStore(folder / "store", OUTPUT), RECIPE, folder / "scratch") as finished:
        return run_layers(
            DirectorySource(folder / "model"),
            random_batches(),
            make_pass(gptq_pass(group_size=GROUP, true_sequential=True, calibration_dtype=asked)),
            folder / out,
            folder / "scratch",
            finished=finished,
            on_progress=on_progress,
            dtype=dtype,
        )


def forget(folder: Path) -> None:
    """Removes what attempts have finished so far."""
    for path in (folder / "store").rglob("layer-*"):
        path.unlink()


def written(folder: Path, out: str) -> bytes:
    return (folder / out / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("bf16", "amx", "device", "expected"),
    [
        (False, False, "cpu", torch.float32),
        (True, False, "cpu", torch.bfloat16),
        (False, True, "cpu", torch.bfloat16),
        (True, True, "cuda", torch.float32),
    ],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(
    bf16: bool, amx: bool, device: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert machine.calibration_dtype(torch.device(device)) is expected


def test_a_manifest_overrules_the_machine(tiny: Path) -> None:
    assert quantized(tiny, "a", "auto", dtype=torch.float32).calibration_dtype is torch.float32
    forget(tiny)
    assert quantized(tiny, "b", "bf16", dtype=torch.float32).calibration_dtype is torch.bfloat16
    assert written(tiny, "a") != written(tiny, "b")


def test_bfloat16_moves_few_weights_and_by_one_step(tiny: Path) -> None:
    reports = {}
    for asked in ("fp32", "bf16"):
        reports[asked] = quantized(tiny, asked, asked)
        forget(tiny)
    found = {asked: load_file(tiny / asked / "model.safetensors") for asked in reports}
    kept = [name for name in found["fp32"] if not name.endswith(("qweight", "qzeros", "scales", "g_idx"))]
    assert kept
    assert all(torch.equal(found["fp32"][name], found["bf16"][name]) for name in kept)
    one, other = (nibbles(found[asked]) for asked in ("fp32", "bf16"))
    assert 0 < float((one != other).float().mean()) < 0.1
    for exact, rough in zip(reports["fp32"].linears, reports["bf16"].linears, strict=True):
        assert rough.error == pytest.approx(exact.error, rel=0.05), exact.name
        assert rough.error_rtn == pytest.approx(exact.error_rtn, rel=0.02), exact.name


def nibbles(tensors: dict[str, Tensor]) -> Tensor:
    """Every rounded weight of a model of 4 bits."""
    words = torch.cat([value.flatten() for name, value in tensors.items() if name.endswith("qweight")])
    return torch.stack([(words >> shift) & 15 for shift in range(0, 32, 4)])


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_the_weights_that_are_rounded_are_the_checkpoints(
    asked: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded: list[Tensor] = []
    solve = layerwise_gptq.gptq

    def watched(
        weight: Tensor, hessian: Tensor, config: GptqConfig, factored: Factored | None = None
    ) -> tuple[QuantizedWeight, float]:
        rounded.append(weight.clone())
        return solve(weight, hessian, config, factored)

    monkeypatch.setattr(layerwise_gptq, "gptq", watched)
    quantized(tiny, "out", asked)
    stored = load_file(tiny / "model" / "model.safetensors")
    expected = []
    for layer in range(LAYERS):
        names = {name.split(".")[-2]: value for name, value in stored.items() if f"layers.{layer}." in name}
        expected += [torch.cat([names[name] for name in group]) for group in READERS]
    assert len(rounded) == len(expected)
    for ours, theirs in zip(rounded, expected, strict=True):
        assert theirs.dtype is torch.float32
        assert not torch.equal(theirs, theirs.bfloat16().float())
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("first", "later"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]
)
def test_a_run_keeps_to_what_it_began_with_on_another_processor(
    first: torch.dtype, later: torch.dtype, tiny: Path
) -> None:
    quantized(tiny, "whole", "auto", dtype=first)
    forget(tiny)
    with pytest.raises(InterruptedError):
        quantized(tiny, "stopped", "auto", layers=1, dtype=first)
    report = quantized(tiny, "resumed", "auto", dtype=later)
    assert (report.resumed_layers, report.calibration_dtype) == (1, first)
    assert written(tiny, "resumed") == written(tiny, "whole")


@pytest.mark.parametrize("said", ["float32", "int8", None])
def test_a_layer_that_was_computed_otherwise_is_computed_again(said: str | None, tiny: Path) -> None:
    quantized(tiny, "whole", "bf16")
    path = next((tiny / "store").rglob("layer-00001.json"))
    record = json.loads(path.read_text())
    assert record["calibration_dtype"] == "bfloat16"
    path.write_text(json.dumps(record | {"calibration_dtype": said}))
    assert quantized(tiny, "again", "bf16").resumed_layers == 1
    assert written(tiny, "again") == written(tiny, "whole")


def test_a_first_record_that_does_not_say_leaves_it_to_the_machine(tiny: Path) -> None:
    quantized(tiny, "whole", "bf16")
    path = next((tiny / "store").rglob("layer-00000.json"))
    path.write_text("{}")
    report = quantized(tiny, "again", "auto", dtype=torch.float32)
    assert (report.resumed_layers, report.calibration_dtype) == (0, torch.float32)


def test_passes_that_search_scales_or_rotate_compute_in_float32() -> None:
    for parameters in (awq_pass(), quarot_pass()):
        assert make_pass(parameters).calibration_dtype is torch.float32
