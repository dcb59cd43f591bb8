"""Scales that are folded away as the table says leave a layer's function alone, on every architecture."""

import json
from pathlib import Path

import pytest
import torch
from tests.support.decoder_families import FAMILIES, WIDTH, layer_weights, make_model, open_model, relative
from torch import Tensor

from quantizer.decoder.folding import FoldPlace
from quantizer.decoder.model import DecoderModel

pytestmark = pytest.mark.unit


def fold(
    model: DecoderModel, place: FoldPlace, weights: dict[str, Tensor], generator: torch.Generator
) -> None:
    """Puts random scales into the readers' input channels and takes them out of the source."""

    def scaled(name: str, rows: Tensor | None, columns: Tensor | None) -> None:
        key = f"{name}.weight"
        weight = model.layout.transposed(index, key, weights[key])
        if rows is not None:
            weight = weight / rows[:, None]
            if f"{name}.bias" in weights:
                weights[f"{name}.bias"] = weights[f"{name}.bias"] / rows
        if columns is not None:
            weight = weight * columns
        weights[key] = model.layout.transposed(index, key, weight)

    index = 0
    if place.kind == "norm":
        scales = torch.rand(weights[f"{place.source}.weight"].shape, generator=generator) + 0.5
        if model.layout.architecture.norm == "rms_plus_one":
            weights[f"{place.source}.weight"] = (1 + weights[f"{place.source}.weight"]) / scales - 1
        else:
            for leaf in ("weight", "bias"):
                if f"{place.source}.{leaf}" in weights:
                    weights[f"{place.source}.{leaf}"] = weights[f"{place.source}.{leaf}"] / scales
    else:
        assert place.rows is not None
        source = model.layout.transposed(index, f"{place.source}.weight", weights[f"{place.source}.weight"])
        rows = torch.ones(source.shape[0])
        made = torch.unique(place.rows)
        rows[made] = torch.rand(len(made), generator=generator) + 0.5
        scaled(place.source, rows, None)
        scales = rows[place.rows]
    for reader in place.readers:
        scaled(reader, None, scales)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_place_that_is_said_to_be_usable_is(name: str, tmp_path: Path) -> None:
    model_type, fields = FAMILIES[name]
    make_model(model_type, fields).save_pretrained(tmp_path)
    model = open_model(tmp_path)
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(2, 11, model.layout.width, generator=generator)
    with torch.inference_mode():
        plain = model.layer(0, layer_weights(model, 0)).forward(hidden)
        usable = [place for place in model.layout.folds(0) if place.obstacle is None]
        assert len(usable) >= 3
        for place in usable:
            weights = layer_weights(model, 0)
            fold(model, place, weights, generator)
            assert relative(model.layer(0, weights).forward(hidden), plain) < 1e-5, place
            weights = layer_weights(model, 0)  # the test sees scales that are only put in
            for reader in place.readers:
                weight = weights[f"{reader}.weight"]
                weights[f"{reader}.weight"] = weight * torch.linspace(0.5, 2, weight.shape[-1])
            assert relative(model.layer(0, weights).forward(hidden), plain) > 1e-4, place


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gpt2", "the activation gelu_new lies between"),
        ("gpt_neox, parallel", "the activation gelu lies between"),
        ("opt, untied, no bias, gelu", "the activation gelu lies between"),
        ("bloom", "GELU"),
    ],
)
def test_an_activation_that_no_scale_passes_is_an_obstacle(name: str, sentence: str, tmp_path: Path) -> None:
    model_type, fields = FAMILIES[name]
    make_model(model_type, fields).save_pretrained(tmp_path)
    obstacles = [place.obstacle for place in open_model(tmp_path).layout.folds(0) if place.obstacle]
    assert len(obstacles) == 1
    assert sentence in obstacles[0]


def test_every_linear_that_reads_a_scaled_input_is_a_reader(tmp_path: Path) -> None:
    for name, (model_type, fields) in FAMILIES.items():
        make_model(model_type, fields).save_pretrained(tmp_path / name)
        model = open_model(tmp_path / name)
        for index in range(model.layout.layers):
            readers = [reader for place in model.layout.folds(index) for reader in place.readers]
            assert len(readers) == len(set(readers)), name
            assert set(model.layout.linears(index)) <= set(readers), name


def test_grouped_heads_share_the_row_that_makes_them(tmp_path: Path) -> None:
    model_type, fields = FAMILIES["llama"]
    make_model(model_type, fields).save_pretrained(tmp_path)
    place = next(p for p in open_model(tmp_path).layout.folds(0) if p.source == "self_attn.v_proj")
    assert place.rows is not None
    head = WIDTH // 4
    assert place.rows.tolist() == [*range(head), *range(head), *range(head, 2 * head), *range(head, 2 * head)]


@pytest.mark.parametrize("heads", [2, 1_000_000])
def test_heads_of_values_that_the_architecture_does_not_look_at_change_no_fold(
    heads: int, tmp_path: Path
) -> None:
    """gpt2 has a head of values for each head, whatever config.json says beside it."""
    make_model(*FAMILIES["gpt2, scaled by layer"]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"

    def rows() -> list[list[int]]:
        places = open_model(tmp_path).layout.folds(0)
        return [place.rows.tolist() for place in places if place.rows is not None]

    before = rows()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_key_value_heads": heads}))
    assert rows() == before
