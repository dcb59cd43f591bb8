"""Places where scales fold away are found by trying, and are those that the table of architectures has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.causal_types import small_model
from tests.support.decoder_families import FAMILIES, layer_weights, make_model, open_model

from quantizer.decoder.blocks import load_weights
from quantizer.decoder.families import ARCHITECTURES
from quantizer.decoder.finding import look
from quantizer.decoder.folding import FoldPlace
from quantizer.decoder.found_folds import find_folds
from quantizer.decoder.generic import GenericLayer
from quantizer.decoder.model import DecoderModel

pytestmark = pytest.mark.unit

DENSE = [name for name, (model_type, _) in FAMILIES.items() if ARCHITECTURES[model_type].experts is None]


def found_folds(model: DecoderModel, index: int) -> tuple[FoldPlace, ...]:
    """Those of a layer of any type, found on its weights."""
    module, arguments_of = model.stock_layer(index)
    pattern, found = model.layout.pattern(index), look(model.layout.skeleton)[0][index]
    load_weights(module, layer_weights(model, index), pattern.transposed)
    whole = GenericLayer(module, found.stages, arguments_of)
    with torch.inference_mode():
        return find_folds(whole, found.candidates, model.layout.config, model.layout.stream)


def told(place: FoldPlace) -> dict[str, Any]:
    rows = None if place.rows is None else place.rows.tolist()
    return {"source": place.source, "readers": place.readers, "rows": rows, "unit": place.unit_offset}


@pytest.mark.parametrize("name", DENSE)
def test_the_folds_that_are_found_are_those_of_the_table(name: str, tmp_path: Path) -> None:
    make_model(*FAMILIES[name]).save_pretrained(tmp_path)
    model = open_model(tmp_path)
    for index in range(model.layout.layers):
        known = [told(place) for place in model.layout.folds(index) if place.obstacle is None]
        found = [told(place) for place in found_folds(model, index)]
        assert sorted(found, key=str) == sorted(known, key=str)


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
BOTH = [("self_attn.v_proj", ("self_attn.o_proj",)), ("mlp.up_proj", ("mlp.down_proj",))]
FOUND = {
    "granite": [
        ("input_layernorm", QKV),
        BOTH[0],
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        BOTH[1],
    ],
    "olmo2": BOTH,
    "cohere": [("input_layernorm", (*QKV, "mlp.gate_proj", "mlp.up_proj")), *BOTH],
    "nemotron": [("input_layernorm", QKV), BOTH[0], ("post_attention_layernorm", ("mlp.up_proj",))],
}


@pytest.mark.parametrize("model_type", FOUND)
def test_folds_of_a_type_that_nobody_listed_leave_its_function_alone(model_type: str, tmp_path: Path) -> None:
    small_model(model_type).save_pretrained(tmp_path)
    found = found_folds(open_model(tmp_path), 0)
    assert [(place.source, place.readers) for place in found] == FOUND[model_type]
