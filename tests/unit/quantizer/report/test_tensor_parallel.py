"""Degrees of tensor parallelism: what a group that is cut in two, heads that do not come out even, and words forbid."""

from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.engine import tiny_config

from quantizer.algorithms.grid import Scheme
from quantizer.decoder.layout import DecoderLayout
from quantizer.report.tensor_parallel import degrees

pytestmark = pytest.mark.unit

LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_hidden_layers": 1,
    "vocab_size": 32,
}


@pytest.mark.parametrize(
    ("changes", "bits", "group_size", "expected"),
    [
        ({}, 4, 128, [1, 2]),  # 11008 / 4 is 21.5 groups
        ({}, 4, 32, [1, 2, 4, 8]),
        ({}, 4, -1, [1, 2, 4, 8, 16]),
        (
            {"intermediate_size": 14336, "num_key_value_heads": 8},
            4,
            128,
            [1, 2, 4, 8, 16],
        ),  # keys are replicated
        ({"hidden_size": 768, "num_attention_heads": 6, "num_key_value_heads": 6}, 4, -1, [1, 2]),
        ({"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 4}, 4, -1, [1]),
    ],
)
def test_degrees(changes: dict[str, int], bits: int, group_size: int, expected: list[int]) -> None:
    reader: Any = SimpleNamespace(tensors={"model.layers.0.mlp.up_proj.weight": None})
    layout = DecoderLayout(reader, tiny_config(**{**LLAMA, **changes}).to_dict())
    assert degrees(layout, [Scheme(bits, group_size)]) == expected


def test_every_scheme_that_occurs_must_allow_a_degree() -> None:
    reader: Any = SimpleNamespace(tensors={"model.layers.0.mlp.up_proj.weight": None})
    layout = DecoderLayout(reader, tiny_config(**LLAMA).to_dict())
    assert degrees(layout, [Scheme(4, 32), Scheme(8, 128)]) == [1, 2]


def test_a_quantized_head_fills_words_on_each_device() -> None:
    reader: Any = SimpleNamespace(tensors={"model.layers.0.mlp.up_proj.weight": None})
    layout = DecoderLayout(reader, tiny_config(**LLAMA).to_dict())
    assert degrees(layout, [Scheme(4, -1)]) == [1, 2, 4, 8, 16]
    assert degrees(layout, [Scheme(4, -1)], head=True) == [1, 2, 4]


@pytest.mark.parametrize("value", [[1, 2], {"": None}, "8", 0, -1, True, None])
def test_a_number_of_heads_that_the_class_does_not_know_may_be_anything(value: Any) -> None:
    reader: Any = SimpleNamespace(tensors={"model.layers.0.mlp.up_proj.weight": None})
    layout = DecoderLayout(reader, tiny_config(**LLAMA).to_dict())
    vars(layout.config).update(
        num_key_value_heads=value, sliding_window=value
    )  # as a class without them has it
    assert degrees(layout, [Scheme(4, -1)])[0] == 1
    assert layout.windowed in (False, True)
