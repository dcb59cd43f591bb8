"""Tensors of a model that a checkpoint holds in parts: read together, and written as they came."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.support.causal_types import small_model
from tests.support.choice import mostly_nightly
from tests.support.decoder_families import open_model
from tests.support.engine import save_checkpoint
from tests.support.walked import walked_error

pytestmark = pytest.mark.unit

TYPES = ("bailing_hybrid", "kimi_linear", "olmo_hybrid")
PARTS = ("q_conv1d", "k_conv1d", "v_conv1d")


@pytest.mark.filterwarnings("ignore")  # classes of transformers warn of what they are given
@pytest.mark.parametrize("model_type", mostly_nightly(TYPES, ("olmo_hybrid",)))
def test_a_tensor_in_parts_is_joined_as_transformers_joins_it(model_type: str, tmp_path: Path) -> None:
    whole = small_model(model_type)
    whole.save_pretrained(tmp_path / "model")
    model = open_model(tmp_path / "model")
    held = model.layout.layer_shapes(0)
    assert [name for name in held if "conv1d" in name] == [
        name for part in PARTS for name in held if f".{part}." in name
    ]
    assert walked_error(whole, model, tmp_path) < 1e-6


def test_parts_have_the_sizes_that_the_checkpoint_gives_them(tmp_path: Path) -> None:
    """Whatever the conversion would cut: v may be wider than q and k."""
    small_model("olmo_hybrid").save_pretrained(tmp_path / "in")
    tensors = load_file(tmp_path / "in/model.safetensors")
    parts = [f"model.layers.0.linear_attn.{part}.weight" for part in PARTS]
    joined = torch.cat([tensors[name] for name in parts])
    sizes = (2, 2, joined.shape[0] - 4)
    tensors |= dict(zip(parts, (part.clone() for part in joined.split(sizes)), strict=True))
    save_checkpoint(tmp_path / "out", json.loads((tmp_path / "in/config.json").read_text()), tensors)
    shapes = open_model(tmp_path / "out").layout.layer_shapes(0)
    assert [shapes[name.removeprefix("model.layers.0.")][0] for name in parts] == list(sizes)
