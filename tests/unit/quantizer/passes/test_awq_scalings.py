"""AWQ's scalings alone, without rounding: the function stays, on every architecture."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.support.decoder_families import FAMILIES, open_model
from tests.support.engine import run_layers
from tests.support.quantized_models import GROUP, family_batches, save_family, transformers_logits
from torch import Tensor

from quantizer.algorithms.awq.rounding import AwqConfig
from quantizer.algorithms.awq.scales import ScaleChoice
from quantizer.checkpoint.source import DirectorySource
from quantizer.formats.awq import AwqFormat
from quantizer.passes import awq
from quantizer.passes.awq import AwqLayerPass

pytestmark = pytest.mark.unit


def scale(model: Path, out: Path, scratch: Path, clip: bool = False) -> None:
    """Applies scales, and limits where `clip` says so, to a float32 model."""
    config = AwqConfig(4, GROUP) if clip else AwqConfig(4, GROUP, clip="none")
    layer_pass = AwqLayerPass(config, AwqFormat("gemm", 4, GROUP), packs=False, dtype=torch.float32)
    run_layers(DirectorySource(model), family_batches(), layer_pass, out, scratch)


def check_function(name: str, folder: Path) -> None:
    """The scaled model computes the logits of the model, which are of ordinary size, within 1e-4."""
    before, after = (load_file(folder / part / "model.safetensors") for part in ("model", "out"))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert len(changed) > len(before) / 3  # or nothing was tested
    tokens = family_batches(4, seed=4).batches()[0]
    plain = transformers_logits(folder / "model", tokens)
    assert "final_logit_softcapping" in FAMILIES[name][1] or float(plain.abs().max()) > 2.0
    assert float((transformers_logits(folder / "out", tokens) - plain).abs().max()) <= 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_scales_alone_leave_the_function_of_a_model_alone(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path / "model")
    scale(tmp_path / "model", tmp_path / "out", tmp_path / "scratch")
    check_function(name, tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_scales_far_from_one_do_so_too(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales from 1/16 to 16 in every place; those that are found for a random model are near 1."""
    generator = torch.Generator().manual_seed(6)
    places: list[int] = []

    def far(
        weight: Tensor, _gram: Tensor, _magnitude: Tensor, _config: AwqConfig, rows: Tensor | None
    ) -> ScaleChoice:
        places.append(weight.shape[1])
        made_by = torch.arange(weight.shape[1]) if rows is None else rows
        scales = 16 ** (2 * torch.rand(int(made_by.max()) + 1, generator=generator) - 1)
        return ScaleChoice(scales[made_by], 0.5, 1.0, 1.0, ())

    monkeypatch.setattr(awq, "search_scales", far)
    monkeypatch.setattr(awq, "check_quality", lambda *_: None)  # such scales are no good for rounding
    save_family(name, tmp_path / "model")
    scale(tmp_path / "model", tmp_path / "out", tmp_path / "scratch")
    model = open_model(tmp_path / "model")
    usable = [
        place
        for index in range(model.layout.layers)
        for place in model.layout.folds(index)
        if place.obstacle is None
    ]
    assert len(places) == len(usable)
    check_function(name, tmp_path)


def test_every_scale_is_put_in_where_it_is_taken_out(tmp_path: Path) -> None:
    """Weights are W s / s': columns times the scale of what they read, rows by the scale of what they make."""
    save_family("llama", tmp_path / "model")
    scale(tmp_path / "model", tmp_path / "out", tmp_path / "scratch")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("model", "out"))
    layer = "model.layers.1."
    read = before[f"{layer}input_layernorm.weight"] / after[f"{layer}input_layernorm.weight"]
    for name in ("q_proj", "k_proj"):
        weight = before[f"{layer}self_attn.{name}.weight"] * read
        assert torch.allclose(after[f"{layer}self_attn.{name}.weight"], weight, rtol=1e-5)
    value = before[f"{layer}self_attn.v_proj.weight"] * read / after[f"{layer}self_attn.v_proj.weight"]
    assert torch.allclose(value, value[:, :1].expand_as(value), rtol=1e-4)  # one divisor a row
    assert not torch.allclose(value[:, 0], torch.ones(len(value)), rtol=1e-2)


def test_clipping_limits_are_put_into_the_weights_of_all_but_queries_and_keys(tmp_path: Path) -> None:
    save_family("llama", tmp_path / "model")
    scale(tmp_path / "model", tmp_path / "plain", tmp_path / "scratch")
    scale(tmp_path / "model", tmp_path / "clipped", tmp_path / "scratch", clip=True)
    plain, clipped = (load_file(tmp_path / folder / "model.safetensors") for folder in ("plain", "clipped"))
    assert plain.keys() == clipped.keys()
    differing = {name.split(".")[-2] for name in plain if not torch.equal(plain[name], clipped[name])}
    assert differing == {"v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    for name, tensor in clipped.items():
        assert bool((tensor.abs() <= plain[name].abs()).all()), name
        assert int((tensor != plain[name]).sum()) < tensor.numel() / 3, name  # the largest of a group are cut
