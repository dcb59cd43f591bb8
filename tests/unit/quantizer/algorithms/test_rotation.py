"""Rotations leave a model's function as it is, on RMSNorm and LayerNorm architectures, with outliers planted."""

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quarot.hadamard import Rotation
from quantizer.algorithms.quarot.parameters import QuarotParameters
from quantizer.algorithms.quarot.rotation import (
    MeanPreserving,
    Turned,
    folded_bias,
    fuse_norm,
    restore_input,
    rotate_hessian,
    rotate_input,
)
from quantizer.algorithms.quarot.rotation_layout import (
    HeadSite,
    LayerLayout,
    ModelLayout,
    NormSite,
    llama_layout,
    residual_obstacle,
)
from quantizer.algorithms.quarot.stages import QuarotPass

pytestmark = pytest.mark.unit

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def gemma_layout(config: dict[str, Any]) -> ModelLayout:
    plain = llama_layout(config)
    norms = tuple(NormSite(norm.name, "rms_plus_one", norm.readers) for norm in plain.layer.norms)
    layer = LayerLayout(
        norms, plain.layer.writers, plain.layer.attention, plain.layer.down, plain.layer.down_width
    )
    final = NormSite("model.norm", "rms_plus_one", ("lm_head",))
    return ModelLayout(plain.width, plain.tables, final, "lm_head", True, layer)


def opt_layout(config: dict[str, Any]) -> ModelLayout:
    heads, width = config["num_attention_heads"], config["hidden_size"]
    head_dim = width // heads
    attention = HeadSite(
        "self_attn.v_proj",
        tuple(range(0, width, head_dim)),
        "self_attn.out_proj",
        heads,
        head_dim,
    )
    qkv = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    layer = LayerLayout(
        (NormSite("self_attn_layer_norm", "layer", qkv), NormSite("final_layer_norm", "layer", ("fc1",))),
        ("self_attn.out_proj", "fc2"),
        attention,
        "fc2",
        config["ffn_dim"],
    )
    tables = ("model.decoder.embed_tokens", "model.decoder.embed_positions")
    final = NormSite("model.decoder.final_layer_norm", "layer", ("lm_head",))
    return ModelLayout(width, tables, final, "lm_head", True, layer)


def neox_layout(config: dict[str, Any]) -> ModelLayout:
    heads, width = config["num_attention_heads"], config["hidden_size"]
    head_dim = width // heads
    rows = tuple(head * 3 * head_dim + 2 * head_dim for head in range(heads))
    attention = HeadSite("attention.query_key_value", rows, "attention.dense", heads, head_dim)
    layer = LayerLayout(
        (
            NormSite("input_layernorm", "layer", ("attention.query_key_value",)),
            NormSite("post_attention_layernorm", "layer", ("mlp.dense_h_to_4h",)),
        ),
        ("attention.dense", "mlp.dense_4h_to_h"),
        attention,
        "mlp.dense_4h_to_h",
        config["intermediate_size"],
    )
    final = NormSite("gpt_neox.final_layer_norm", "layer", ("lm_head",))
    return ModelLayout(width, ("gpt_neox.embed_in",), final, "lm_head", False, layer)


@dataclass(frozen=True)
class Family:
    """A tiny configuration and where its layers are."""

    config: PreTrainedConfig
    layout: Callable[[dict[str, Any]], ModelLayout]
    layers: str = "model.layers"


FAMILIES = {
    "llama, grouped queries": Family(LlamaConfig(**SMALL), llama_layout),
    "llama, biases": Family(LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True), llama_layout),
    "llama, tied": Family(LlamaConfig(**{**SMALL, "tie_word_embeddings": True}), llama_layout),
    "mistral": Family(MistralConfig(**SMALL, sliding_window=8), llama_layout),
    "qwen2": Family(Qwen2Config(**{**SMALL, "hidden_size": 72}), llama_layout),
    "qwen3": Family(Qwen3Config(**SMALL), llama_layout),
    "gemma": Family(GemmaConfig(**{**SMALL, "tie_word_embeddings": True}), gemma_layout),
    "opt": Family(
        OPTConfig(**{**SMALL, "tie_word_embeddings": True}, ffn_dim=80, word_embed_proj_dim=48),
        opt_layout,
        "model.decoder.layers",
    ),
    "gpt_neox": Family(GPTNeoXConfig(**SMALL), neox_layout, "gpt_neox.layers"),
}


def random_model(family: Family, seed: int) -> PreTrainedModel:
    """Weights of every kind are random, norms' and biases too; some channels of norms and embeddings stand out."""
    model = AutoModelForCausalLM.from_config(copy.deepcopy(family.config)).float()
    model.train(False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.add_(0.3 * drawn)
                parameter[3] *= 20.0
            else:
                parameter.copy_(0.15 * drawn)
        model.get_input_embeddings().weight[:, 5] *= 30.0
    return model


def rotate(model: PreTrainedModel, family: Family, parameters: QuarotParameters) -> QuarotPass:
    """The offline part of the pass on a whole model."""
    layout = family.layout(model.config.to_dict())
    run = QuarotPass(parameters, layout)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    head = state[f"{layout.tables[0]}.weight" if layout.tied else f"{layout.head}.weight"]
    norm = state[f"{layout.final_norm.name}.weight"]
    bias = state.get(f"{layout.final_norm.name}.bias")
    weight, new_bias = run.final_norm(norm, bias)
    changed = {f"{layout.final_norm.name}.weight": weight}
    if new_bias is not None:
        changed[f"{layout.final_norm.name}.bias"] = new_bias
    if run.unties:
        model.config.tie_word_embeddings = False
        model.get_output_embeddings().weight = torch.nn.Parameter(head.clone())
    if run.unties or not layout.tied:
        changed[f"{layout.head}.weight"] = run.head_rows(head, norm)
    for table in layout.tables:
        changed[f"{table}.weight"] = run.table_rows(state[f"{table}.weight"])
    assert set(changed) <= set(model.state_dict())
    model.load_state_dict(changed, strict=False)
    for index, layer in enumerate(model.get_submodule(family.layers)):
        layer.load_state_dict(run.rotate_layer(index, layer.state_dict()))
    return run


def logits(model: PreTrainedModel) -> Tensor:
    tokens = torch.randint(3, 96, (2, 24), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        result: Tensor = model(tokens).logits
    return result


def exact_logits(model: PreTrainedModel) -> Tensor:
    """Those of the float32 weights, computed in float64: float32 itself is off by up to 2e-4 on such outliers."""
    return logits(copy.deepcopy(model).double())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_rotated_model_computes_what_it_did(name: str, seed: int) -> None:
    model = random_model(FAMILIES[name], seed)
    expected, exact = logits(model), exact_logits(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = rotate(model, FAMILIES[name], QuarotParameters(rotation_seed=seed))
    assert residual_obstacle(run.layout) is None
    assert float((exact_logits(model) - exact).abs().max()) <= 1e-4
    assert float((logits(model) - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()))
    unchanged = [
        name
        for name, tensor in model.state_dict().items()
        if "norm" not in name and torch.equal(tensor, before[name])
    ]
    assert unchanged == [name for name in unchanged if "bias" in name]  # every matrix was turned


@pytest.mark.parametrize("name", ["llama, tied", "opt"])
def test_a_tied_head_gets_weights_of_its_own(name: str) -> None:
    model = random_model(FAMILIES[name], 0)
    run = rotate(model, FAMILIES[name], QuarotParameters())
    assert run.unties
    assert not torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)


def test_planted_outliers_are_gone_after_the_rotation() -> None:
    model = random_model(FAMILIES["llama, grouped queries"], 0)
    rotate(model, FAMILIES["llama, grouped queries"], QuarotParameters())
    rows = model.get_input_embeddings().weight.detach()
    assert float((rows.abs().amax(1) / rows.square().mean(1).sqrt()).median()) < 3.0  # of a lone outlier: 6.9


def test_another_seed_turns_otherwise_and_the_same_seed_alike() -> None:
    tables = []
    for seed in (0, 0, 1):
        model = random_model(FAMILIES["qwen3"], 0)
        rotate(model, FAMILIES["qwen3"], QuarotParameters(rotation_seed=seed))
        tables.append(torch.cat([tensor.flatten() for tensor in model.state_dict().values()]))
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_without_rotation_nothing_changes() -> None:
    model = random_model(FAMILIES["qwen2"], 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = rotate(model, FAMILIES["qwen2"], QuarotParameters(rotate=False, w_bits=4, w_rtn=True))
    assert not run.unties
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def sandwich(**changes: Any) -> ModelLayout:
    plain = llama_layout(SMALL)
    layer = LayerLayout(
        plain.layer.norms,
        plain.layer.writers,
        plain.layer.attention,
        plain.layer.down,
        plain.layer.down_width,
        changes.get("post_norms", ()),
    )
    tables = plain.tables
    return ModelLayout(
        plain.width, tables, plain.final_norm, "lm_head", True, layer, changes.get("embedding_norm")
    )


@pytest.mark.parametrize(
    "layout",
    [
        sandwich(post_norms=("post_feedforward_layernorm",)),
        sandwich(embedding_norm="word_embeddings_layernorm"),
    ],
)
def test_a_norm_on_the_way_into_the_stream_is_told(layout: ModelLayout) -> None:
    obstacle = residual_obstacle(layout)
    assert obstacle is not None
    assert "cannot be rotated" in obstacle


def test_a_llama_has_nothing_in_the_way() -> None:
    assert residual_obstacle(llama_layout(SMALL)) is None


@settings(max_examples=30, deadline=None)
@given(size=st.integers(2, 130), seed=st.integers(0, 1000))
def test_mean_preserving_matrices_are_orthogonal_and_keep_layer_norms(size: int, seed: int) -> None:
    turn = MeanPreserving(size, str(seed))
    identity, ones = torch.eye(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    matrix = turn.apply(identity)
    assert torch.allclose(matrix @ matrix.t(), identity, atol=1e-10)
    assert torch.allclose(turn.apply(ones), ones, atol=1e-10)
    assert torch.allclose(turn.apply_transposed(matrix), identity, atol=1e-10)
    x = torch.randn(3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[:, seed % size] *= 100.0
    before = torch.nn.functional.layer_norm(x, (size,))
    after = torch.nn.functional.layer_norm(turn.apply(x), (size,))
    assert torch.allclose(after, turn.apply(before), atol=1e-8)


@pytest.mark.parametrize("size", [288, 768, 4096])
def test_mean_preserving_matrices_spread_an_outlier(size: int) -> None:
    x = torch.zeros(size, dtype=torch.float64)
    x[size // 2] = 1.0
    assert float(MeanPreserving(size, "0").apply(x).abs().max()) < 6.0 * size**-0.5


@settings(max_examples=25, deadline=None)
@given(size=st.sampled_from([12, 28, 30, 48]), inner=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_a_hessian_turns_with_its_input_and_a_weight_comes_back(size: int, inner: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    online = Rotation(size, str(seed), inner)
    x = torch.randn(64, size, generator=generator)
    x[:, seed % size] *= 30.0
    turned = online.apply(x)
    expected = turned.t() @ turned
    assert torch.allclose(
        rotate_hessian(x.t() @ x, online), expected, atol=1e-3 * float(expected.abs().max())
    )
    weight = torch.randn(5, size, generator=generator)
    assert torch.allclose(turned @ rotate_input(weight, online).t(), x @ weight.t(), atol=1e-3)
    assert torch.allclose(restore_input(rotate_input(weight, online), online), weight, atol=1e-6)


def norm_tensors(weight: list[float], bias: list[float]) -> dict[str, Tensor]:
    return {
        "norm.weight": torch.tensor(weight),
        "norm.bias": torch.tensor(bias),
        "reader.weight": torch.eye(3) + 0.5,
    }


def test_one_tensor_at_a_time_is_in_float64() -> None:
    living: list[weakref.ref[Tensor]] = []

    def doubled(tensor: Tensor) -> Tensor:
        assert tensor.dtype == torch.float64
        assert not any(one() is not None for one in living)
        living.append(weakref.ref(made := tensor * 2))
        return made

    weights = Turned({f"{index}.weight": torch.ones(3, 3) for index in range(4)})
    for index in range(4):
        weights.then(f"{index}.weight", doubled)
    made = [weights[f"{index}.weight"].float() for index in range(4)]
    assert len(living) == len(made) == 4
    assert all(torch.equal(tensor, torch.full((3, 3), 2.0)) for tensor in made)


def test_a_layer_norms_bias_stays_in_the_norm_when_its_reader_has_none() -> None:
    before = norm_tensors([2.0, 0.0, -4.0], [1.0, 0.0, 2.0])
    weights = Turned(before)
    fuse_norm(weights, NormSite("norm", "layer", ("reader",)))
    assert weights["norm.bias"].tolist() == [0.5, 0.0, -0.5]
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    expected = (x * before["norm.weight"] + before["norm.bias"]) @ before["reader.weight"].t()
    seen = (x + weights["norm.bias"].float()) @ weights["reader.weight"].float().t()
    assert torch.allclose(seen, expected, atol=1e-6)


def test_a_bias_that_no_weight_can_carry_is_refused_by_name() -> None:
    with pytest.raises(QuantizationError, match=r"^final has a weight that is zero") as caught:
        folded_bias("final", torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
    assert caught.value.category is Category.MODEL_UNSUPPORTED


def test_a_layer_with_a_number_that_is_not_finite_is_named() -> None:
    family = FAMILIES["llama, grouped queries"]
    state = random_model(family, 0).model.layers[0].state_dict()
    state["mlp.up_proj.weight"][0, 0] = torch.nan
    with pytest.raises(QuantizationError, match=r"layer 7: mlp.up_proj.weight is not finite"):
        QuarotPass(QuarotParameters(), llama_layout(SMALL)).rotate_layer(7, state)
