"""What is gathered beside the float model before a layer is fitted to it, and the error that is reported then."""

from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.engine import random_batches, run_pass, save_tiny
from tests.support.quantized_models import as_float
from transformers import LlamaForCausalLM

from quantizer.algorithms.half_products import HalfProducts
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import SharedInput, Stage
from quantizer.passes import gptq_layers, reconstruction
from quantizer.passes.reconstruction import gather_with_drift

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
STAGE = Stage((SharedInput(("o_proj",)),))
SHAPES = [(2, 4), (2, 4)]


def walk(rows: int, offset: float) -> Any:
    """A walk whose linear reads so many rows of 8 of each batch."""

    def visit(stages: Any, look: Any, **_: Any) -> None:
        for number in range(len(SHAPES)):
            generator = torch.Generator().manual_seed(number)
            look(number, stages[0].shared_inputs[0], torch.randn(2, rows, 8, generator=generator) + offset)

    return SimpleNamespace(
        shapes=SHAPES,
        side_by_side=1,
        visit=visit,
        finish=lambda _: None,
        linear=lambda _: torch.nn.Linear(8, 3),
    )


@pytest.mark.parametrize(("rows", "drifts"), [(4, True), (12, False)])
def test_a_linear_that_reads_other_rows_than_the_tokens_has_no_drift(
    rows: int, drifts: bool, tmp_path: Path
) -> None:
    def store(name: str, shapes: Any, width: int) -> ActivationStore:
        return ActivationStore(tmp_path / name, shapes, width, torch.float32, CPU)

    layer: Any = SimpleNamespace(walk=walk(rows, 0.0), device=CPU)
    reference: Any = SimpleNamespace(walk=walk(rows, 0.5), store=store)
    found, drift = gather_with_drift(layer, reference, STAGE, every_expert=False)
    assert found[STAGE.shared_inputs[0]].tokens == 2 * 2 * rows
    assert (drift is not None) == drifts


def test_the_error_of_a_fitted_layer_is_that_of_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first linear, which reads what it reads in the float model: nothing before it was rounded."""
    before_and_after = cycle((1.0, 0.5))  # so that what was learned is taken, however little it helps here
    monkeypatch.setattr(reconstruction, "_error", lambda *_: next(before_and_after))
    save_tiny(tmp_path / "model", initializer_range=0.2)
    source, tokens, name = (
        DirectorySource(tmp_path / "model"),
        random_batches(),
        "model.layers.0.self_attn.q_proj",
    )
    report = run_pass(
        source, tokens, tmp_path / "out", tmp_path / "scratch", bits=3, group_size=32, refine="best"
    )
    as_float(tmp_path / "out", tmp_path / "float")
    stored = load_file(tmp_path / "float/model.safetensors")[f"{name}.weight"]
    model = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    linear, read = model.get_submodule(name), list[torch.Tensor]()
    linear.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].flatten(0, 1)))
    with torch.inference_mode():
        model(torch.stack(tokens.sequences))
    inputs = torch.cat(read).double()
    weight = linear.weight.detach()
    whole, changed = weight.double(), (weight - stored).double()
    expected = float((inputs @ changed.t()).square().sum() / (inputs @ whole.t()).square().sum())
    (found,) = [one for one in report.linears if one.name == name]
    assert found.error == pytest.approx(expected, rel=1e-3)


def test_a_layer_that_fitting_made_worse_is_left_as_it_was_for_the_next_layers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path / "model", initializer_range=0.2)

    def made(name: str, steps: int) -> bytes:
        before_and_after = cycle((0.5, 1.0))
        monkeypatch.setattr(reconstruction, "_error", lambda *_: next(before_and_after))
        monkeypatch.setattr(reconstruction, "STEPS", steps)
        source, target = DirectorySource(tmp_path / "model"), tmp_path / name
        run_pass(source, random_batches(), target, tmp_path / "scratch", bits=3, group_size=32, refine="best")
        return (target / "model.safetensors").read_bytes()

    assert made("worse", 8) == made("never fitted", 0)


@pytest.mark.parametrize(
    ("fast", "asked", "products"),
    [
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.float32, "auto", torch.float32),
        (torch.bfloat16, "fp32", torch.float32),
    ],
)
def test_what_is_learned_multiplies_in_what_the_processor_is_fast_in(
    fast: torch.dtype, asked: str, products: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless another type is asked for. Activations and what is measured stay in float32 either way."""
    entered = list[torch.dtype]()

    class Recorded(HalfProducts):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__(dtype)
            entered.append(dtype)

    monkeypatch.setattr(reconstruction, "HalfProducts", Recorded)
    monkeypatch.setattr(gptq_layers, "calibration_dtype", lambda _: fast)
    monkeypatch.setattr(reconstruction, "STEPS", 1)
    save_tiny(tmp_path / "model")
    report = run_pass(
        DirectorySource(tmp_path / "model"), random_batches(), tmp_path / "out", tmp_path / "scratch",
        bits=3, group_size=32, refine="best", calibration_dtype=asked,
    )  # fmt: skip
    assert set(entered) == {products}
    assert report.calibration_dtype == torch.float32
