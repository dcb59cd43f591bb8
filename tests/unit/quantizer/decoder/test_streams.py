"""What layers take and make beside hidden states goes along from layer to layer, in rows of tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.causal_types import small_model
from tests.support.choice import mostly_nightly
from tests.support.decoder_families import open_model
from tests.support.engine import CPU
from tests.support.walked import walked_error

from quantization_api.failures import Category, QuantizationError
from quantizer.decoder.model import DecoderModel
from quantizer.decoder.stream import Rows

pytestmark = pytest.mark.unit

SHARED = {"num_hidden_layers": 6, "num_kv_shared_layers": 2}
FROM_2 = {"layer_types": ["sliding_attention", "full_attention"] * 3, **SHARED}
STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "an input for each layer that the text makes": ("gemma4_text", {}),
    "keys and values that later layers read": ("gemma4_text", FROM_2),
    "the first hidden states, which layers read again": (
        "zamba2",
        {"num_mem_blocks": 2, "hybrid_layer_ids": [1, 3]},
    ),
    "states of the router before": ("zaya", {}),
    "tokens that an earlier layer chose": ("glm_moe_dsa", {}),
    "tokens that an earlier layer chose and others handed on": ("hy_v4", {}),
    "several hidden states for each token": ("deepseek_v4", {}),
    "an axis before the batch": ("gemma3n_text", {}),
    "tokens before the batch": ("xlnet", {}),
}
"""What goes through the layers -> a type that does it, and changes of its fields."""


@pytest.mark.filterwarnings("ignore")  # classes of transformers warn of what they are given
@pytest.mark.parametrize(
    "what", mostly_nightly(STREAMS, ("keys and values that later layers read", "an axis before the batch"))
)
def test_what_layers_take_beside_hidden_states_is_walked_exactly(what: str, tmp_path: Path) -> None:
    model_type, fields = STREAMS[what]
    whole = small_model(model_type, **fields)
    whole.save_pretrained(tmp_path / "model")
    model = DecoderModel(open_model(tmp_path / "model").layout, CPU, torch.float64)
    assert walked_error(whole, model, tmp_path) < 1e-6


SHAPES = {
    "hidden states": (Rows((0, 1, 2), (8,)), (2, 5, 8)),
    "tokens first": (Rows((1, 0, 2), (8,)), (5, 2, 8)),
    "heads": (Rows((0, 2, 1, 3), (3, 4)), (2, 3, 5, 4)),
    "one number for each token": (Rows((0, 1), ()), (2, 5)),
    "as long as the text": (Rows((0, 1, 2), (), grows=True), (2, 5, 5)),
    "shorter than the text": (Rows((0, 1, 2), (), grows=True), (2, 5, 3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_tensor_comes_back_out_of_its_rows(shape: str, dtype: torch.dtype) -> None:
    rows, size = SHAPES[shape]
    value = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    stored = rows.stored(value, value)
    assert stored.shape == (2, 5, rows.width(5))
    assert torch.equal(rows.value(stored), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("whole", [torch.int64, torch.int32, torch.bool])
def test_whole_numbers_come_back_in_every_type_of_activations(whole: torch.dtype, dtype: torch.dtype) -> None:
    """Positions of tokens are larger than what bfloat16 counts to."""
    rows = Rows((0, 1, 2), (), grows=True, dtype=whole)
    value = torch.tensor([[[0, -1, 257], [131071, 2**31 - 1, -(2**31)], [1, 2, 3]]]).to(whole)
    stored = rows.stored(value, torch.zeros(1, dtype=dtype))
    assert stored.dtype == dtype
    assert float(stored.max()) < 1
    assert torch.equal(rows.value(stored), value)


def test_what_the_layers_before_make_in_another_shape_is_refused(tmp_path: Path) -> None:
    small_model("prophetnet").save_pretrained(tmp_path)
    with pytest.raises(QuantizationError) as caught:
        open_model(tmp_path)
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert "its layers take hidden states [1, 18, 32] for 6 tokens" in caught.value.message
