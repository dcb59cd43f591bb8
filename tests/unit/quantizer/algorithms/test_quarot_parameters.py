"""What QuaRot's parameters need: code of the artifact's own, and a model that they fit."""

from typing import Any

import pytest

from quantization_api.failures import QuantizationError
from quantization_api.passes import QuaRot
from quantizer.algorithms.quarot.parameters import (
    QuarotParameters,
    check_model,
    needs_own_code,
    online_sites,
)
from quantizer.algorithms.quarot.rotation_layout import llama_layout

pytestmark = pytest.mark.unit

GPTQ = {"w_gptq": True, "w_bits": 4}
LAYOUT = llama_layout(
    {"num_attention_heads": 4, "hidden_size": 64, "num_key_value_heads": 2, "intermediate_size": 96}
)
WIDTHS = {"self_attn.q_proj": 64, "mlp.down_proj": 96}


@pytest.mark.parametrize(
    ("parameters", "own_code", "sites"),
    [
        ({}, False, ()),
        (GPTQ, False, ()),
        ({"w_rtn": True, "w_bits": 3, "w_groupsize": -1, "w_asym": True}, False, ()),
        ({**GPTQ, "s_bits": 8}, True, ()),
        ({"a_bits": 8}, True, ("heads", "down")),
        ({"k_bits": 4}, True, ("keys",)),
        ({"v_bits": 4}, True, ()),
        ({"a_bits": 4, "k_bits": 4, "v_bits": 4}, True, ("keys", "heads", "down")),
        ({"a_bits": 4, "k_bits": 4, "rotate": False}, True, ()),
    ],
)
def test_what_is_computed_online_decides_about_own_code(
    parameters: dict[str, Any], own_code: bool, sites: tuple[str, ...]
) -> None:
    made = QuarotParameters(**parameters)
    assert needs_own_code(made) is own_code
    assert online_sites(made) == sites


def test_defaults_are_those_of_the_contract() -> None:
    for name, field in QuarotParameters.__dataclass_fields__.items():
        assert field.default == QuaRot.model_fields[name].default, name


def test_a_group_of_minus_one_is_a_whole_row() -> None:
    assert QuarotParameters(w_rtn=True, w_bits=4).weight_rule.group_size == -1
    assert QuarotParameters(w_rtn=True, w_bits=4, w_groupsize=-1).weight_rule.group_size == -1
    assert QuarotParameters(w_rtn=True, w_bits=4, w_groupsize=32).weight_rule.group_size == 32


@pytest.mark.parametrize(
    ("parameters", "model_type", "sentence"),
    [
        ({"a_bits": 8}, "opt", "exists only for llama, mistral, qwen2, qwen3; this model is opt"),
        (
            {"w_rtn": True, "w_bits": 4, "w_groupsize": 64},
            "opt",
            "w_groupsize 64 does not divide the 96 inputs of mlp",
        ),
        (
            {"a_bits": 8, "a_groupsize": 64},
            "llama",
            "a_groupsize 64 does not divide the 96 inputs of mlp.down_proj",
        ),
        ({"k_bits": 4, "k_groupsize": 12}, "qwen3", "k_groupsize 12 does not divide the head size 16"),
        ({"v_bits": 4, "v_groupsize": 32}, "qwen2", "v_groupsize 32 does not divide the head size 16"),
    ],
)
def test_what_does_not_fit_a_model_is_refused(
    parameters: dict[str, Any], model_type: str, sentence: str
) -> None:
    with pytest.raises(QuantizationError) as caught:
        check_model(QuarotParameters(**parameters), LAYOUT, model_type, WIDTHS)
    assert sentence in caught.value.message


def test_what_fits_a_model_is_accepted() -> None:
    fitting = QuarotParameters(
        **GPTQ, w_groupsize=32, a_bits=4, a_groupsize=32, k_bits=4, k_groupsize=8, v_bits=4
    )
    check_model(fitting, LAYOUT, "llama", WIDTHS)
    check_model(QuarotParameters(), LAYOUT, "opt", WIDTHS)
