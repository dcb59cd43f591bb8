"""The artifact: packing, the code it carries, loading with and without permission to run it, and its cache."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tests.support.engine import random_batches
from tests.support.quarot import run_in_place, save_artifact
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    StaticCache,
)

from quantizer.algorithms.quarot.parameters import QuarotParameters
from quantizer.algorithms.quarot.weights import round_weights
from quantizer.formats.quarot.artifact import modeling_code
from quantizer.formats.quarot.modeling_quarot import dequantize, pack, quantize, unpack, words
from quantizer.kernels.bit_packing import pack_bits
from quantizer.passes.quarot_layers import QuarotLayerPass

pytestmark = pytest.mark.unit

SIZES: dict[str, Any] = {
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
    "tie_word_embeddings": True,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama, biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**SIZES, sliding_window=8),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
}
W4A4KV4: dict[str, Any] = {
    "w_rtn": True,
    "w_bits": 4,
    "a_bits": 4,
    "a_clip_ratio": 0.9,
    "k_bits": 4,
    "k_clip_ratio": 0.95,
    "v_bits": 4,
    "v_clip_ratio": 0.95,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "w4a4kv4": W4A4KV4,
    "groups, asymmetric": {
        **W4A4KV4,
        "w_asym": True,
        "w_groupsize": 8,
        "a_asym": True,
        "a_groupsize": 8,
        "k_groupsize": 4,
        "v_groupsize": 6,
    },
    "three bits, small scales": {
        **W4A4KV4,
        "w_bits": 3,
        "k_bits": 3,
        "v_bits": 5,
        "s_bits": 8,
        "w_groupsize": 8,
    },
    "keys alone": {"k_bits": 4},
    "not rotated": {**W4A4KV4, "rotate": False},
}


def tiny(name: str, seed: int = 0) -> PreTrainedModel:
    """A random model with weights large enough to matter."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        CONFIGS[name].__class__(**CONFIGS[name].to_dict())
    )
    model.float().train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def load(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=dtype)
    return model


def tokens(length: int = 20, sequences: int = 2) -> Tensor:
    return torch.stack(random_batches(sequences, length).sequences)


def fake(x: Tensor, bits: int, symmetric: bool, clip: float, size: int | None) -> Tensor:
    """Rounding by the definition, one group after another, in plain words; float32, whatever x is."""
    rows = x.float().reshape(-1, size or x.shape[-1])
    result = torch.empty_like(rows)
    for number, row in enumerate(rows):
        if symmetric:
            step, low, high, zero = (
                clip * row.abs().max() / (2 ** (bits - 1) - 1),
                -(2 ** (bits - 1)),
                2 ** (bits - 1) - 1,
                0,
            )
        else:
            least, most = clip * row.min().clamp(max=0), clip * row.max().clamp(min=0)
            step, low, high = (most - least) / (2**bits - 1), 0, 2**bits - 1
            zero = int(torch.round(-least / step))
        integers = torch.clamp(torch.round(row / step) + zero, low, high)
        result[number] = (integers - zero) * step
    return result.reshape(x.shape).to(x.dtype)


class Reference:
    """The job's side of the artifact: the ordinary model with online operations as dense products and hooks.

    It shares no code with the artifact but for the matrices of the rotations, and computes in float64.
    """

    def __init__(self, model: PreTrainedModel, parameters: QuarotParameters, batches: list[Tensor]) -> None:
        p = parameters
        run, _, linears = run_in_place(model, p, batches)
        self.model = model.double()
        for name, result in linears.items():
            stored = result.stored if result.quantized is None else result.quantized.dequantized()
            assert stored is not None
            linear = model.get_submodule(name)
            linear.weight = torch.nn.Parameter(stored.double())
            online = run._online.get(name.split(".", 3)[3])
            dense = None if online is None else online.apply(torch.eye(online.size, dtype=torch.float64))

            def before(_module: Any, inputs: tuple[Tensor], dense: Tensor | None = dense) -> tuple[Tensor]:
                x = inputs[0] if dense is None else inputs[0] @ dense
                return (
                    x if p.a_bits == 16 else fake(x, p.a_bits, not p.a_asym, p.a_clip_ratio, p.a_groupsize),
                )

            linear.register_forward_pre_hook(before)
        if p.k_bits < 16 or p.v_bits < 16:
            self._wrap_attention(p, run.sites.get("keys"))

    def _wrap_attention(self, p: QuarotParameters, seed: str | None) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        from quantizer.algorithms.quarot.hadamard import Rotation

        plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

        def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
            if seed is not None:
                dense = Rotation(module.head_dim, seed).apply(torch.eye(module.head_dim, dtype=torch.float64))
                query, key = query @ dense, key @ dense
            if p.k_bits < 16:
                key = fake(key, p.k_bits, False, p.k_clip_ratio, p.k_groupsize)
            if p.v_bits < 16:
                value = fake(value, p.v_bits, False, p.v_clip_ratio, p.v_groupsize)
            return plain(module, query, key, value, mask, **kwargs)

        ALL_ATTENTION_FUNCTIONS.register("quarot_reference", attend)
        self.model.config._attn_implementation = "quarot_reference"

    def logits(self, ids: Tensor) -> Tensor:
        mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        window = getattr(self.model.config, "sliding_window", None)
        if window:
            mask = mask.triu(1 - window)
        mask = mask.expand(len(ids), 1, -1, -1)
        with torch.inference_mode():
            result: Tensor = self.model(ids, attention_mask=mask, use_cache=False).logits
        return result


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", CONFIGS)
def test_the_loaded_artifact_computes_what_the_job_computed(
    family: str, setting: str, tmp_path: Path
) -> None:
    parameters = QuarotParameters(**SETTINGS[setting])
    save_artifact(tmp_path, tiny(family), parameters)
    reference = Reference(tiny(family), parameters, []).logits(tokens())
    with torch.inference_mode():
        seen = load(tmp_path, torch.float64)(tokens()).logits
    difference = float((seen - reference).abs().max())
    print(f"max |difference of logits| = {difference:.2e}")
    assert difference < 1e-3


def test_generation_with_the_cache_is_generation_by_full_recomputation(tmp_path: Path) -> None:
    save_artifact(tmp_path, tiny("llama"), QuarotParameters(**W4A4KV4))
    model, prompt = load(tmp_path), tokens(6)
    with torch.inference_mode():
        seen = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=None,
        )
        ids = prompt
        for _ in range(16):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(seen, ids)


def test_left_padding_does_not_change_what_is_generated(tmp_path: Path) -> None:
    save_artifact(tmp_path, tiny("qwen2"), QuarotParameters(**W4A4KV4))
    model, prompt = load(tmp_path), tokens(6, 1)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), prompt], dim=1)
    arguments: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    with torch.inference_mode():
        plain = model.generate(prompt, attention_mask=torch.ones_like(prompt), **arguments)
        shifted = model.generate(padded, attention_mask=(padded > 0).long(), **arguments)
    assert torch.equal(plain[:, 6:], shifted[:, 9:])


def test_the_cache_holds_packed_integers_scales_and_zero_points(tmp_path: Path) -> None:
    save_artifact(tmp_path, tiny("llama"), QuarotParameters(**W4A4KV4, k_groupsize=6))
    with torch.inference_mode():
        cache = load(tmp_path)(tokens(20)).past_key_values
    for layer in cache.layers:
        assert layer.keys is None
        assert layer.values is None
        keys, values = layer.stored
        held = [(tensor.dtype, tuple(tensor.shape)) for tensor in (*keys.tensors, *values.tensors)]
        assert held == [
            (torch.int32, (2, 2, 20, 2)),  # 12 keys of 4 bits in two words
            (torch.float32, (2, 2, 20, 2)),
            (torch.uint8, (2, 2, 20, 2)),
            (torch.int32, (2, 2, 20, 2)),
            (torch.float32, (2, 2, 20, 1)),
            (torch.uint8, (2, 2, 20, 1)),
        ]


def test_a_cache_can_be_cropped_reordered_and_emptied(tmp_path: Path) -> None:
    save_artifact(tmp_path, tiny("llama"), QuarotParameters(**W4A4KV4))
    model, ids = load(tmp_path), tokens(12)
    with torch.inference_mode():
        expected = model(ids, use_cache=False).logits
        cache = model(ids[:, :10]).past_key_values
        cache.crop(-4)
        cache.reorder_cache(torch.tensor([1, 0]))
        assert cache.get_seq_length() == 6
        swapped = model(ids[[1, 0], 6:], past_key_values=cache).logits
        assert torch.allclose(swapped[[1, 0]], expected[:, 6:], atol=1e-4)
        cache.reset()
        assert cache.get_seq_length() == 0
        assert torch.allclose(model(ids, past_key_values=cache).logits, expected, atol=1e-4)


def test_beams_follow_their_caches(tmp_path: Path) -> None:
    save_artifact(tmp_path, tiny("llama"), QuarotParameters(**W4A4KV4))
    model, prompt = load(tmp_path), tokens(6)
    arguments: dict[str, Any] = {
        "max_new_tokens": 8,
        "num_beams": 3,
        "do_sample": False,
        "eos_token_id": None,
    }
    with torch.inference_mode():
        mask = torch.ones_like(prompt)
        cached = model.generate(prompt, attention_mask=mask, **arguments)
        again = model.generate(prompt, attention_mask=mask, use_cache=False, **arguments)
    assert torch.equal(cached, again)


@pytest.mark.parametrize("kind", ["static", "filled"])
def test_another_kind_of_cache_is_refused(kind: str, tmp_path: Path) -> None:
    save_artifact(tmp_path, tiny("llama"), QuarotParameters(k_bits=4))
    model = load(tmp_path)
    cache: Any = StaticCache(config=model.config, max_cache_len=32)
    if kind == "filled":
        cache = DynamicCache()
        cache.update(torch.zeros(1, 2, 3, 12), torch.zeros(1, 2, 3, 12), 0)
    with pytest.raises(ValueError, match="keeps its own quantized cache"):
        model(tokens(), past_key_values=cache)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_loads_in_half_precision_with_its_scales_unchanged(dtype: torch.dtype, tmp_path: Path) -> None:
    save_artifact(
        tmp_path, tiny("llama"), QuarotParameters(**SETTINGS["groups, asymmetric"]), dtype=torch.float16
    )
    model, exact = load(tmp_path, dtype), load(tmp_path)
    linear, same = model.model.layers[0].mlp.up_proj, exact.model.layers[0].mlp.up_proj
    assert linear.scales.dtype == torch.float16
    assert torch.equal(linear.weight(torch.float32), same.weight(torch.float32))
    with torch.inference_mode():
        output = model(tokens())
    assert output.logits.dtype == dtype
    assert bool(torch.isfinite(output.logits).all())


def test_without_permission_to_run_its_code_it_does_not_load(tmp_path: Path) -> None:
    save_artifact(tmp_path, tiny("llama"), QuarotParameters(**W4A4KV4))
    with pytest.raises(ValueError, match="contains custom code"):
        AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)


def test_a_reader_that_ignores_the_code_does_not_know_the_model_type(tmp_path: Path) -> None:
    save_artifact(tmp_path, tiny("llama"), QuarotParameters(**W4A4KV4))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["auto_map"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="quarot_llama"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_the_config_says_what_the_code_reads_and_the_head_is_untied(tmp_path: Path) -> None:
    save_artifact(tmp_path, tiny("llama"), QuarotParameters(**W4A4KV4, rotation_seed=7))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "quarot_llama"
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_quarot.QuarotLlamaForCausalLM"
    assert config["tie_word_embeddings"] is False
    assert config["quarot"]["rotations"] == {"keys": "7:keys", "heads": "7:heads", "down": "7:down"}
    assert config["quarot"]["w_groupsize"] is None


def test_every_tensor_has_the_announced_dtype_and_shape(tmp_path: Path) -> None:
    parameters = QuarotParameters(**SETTINGS["three bits, small scales"])
    save_artifact(tmp_path, tiny("llama"), parameters)
    prefix = "model.layers.1.mlp.down_proj."
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    seen = {name.removeprefix(prefix): (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()}
    assert seen == QuarotLayerPass(parameters, torch.float32).format.tensor_shapes(48, 80, groups=10)


@pytest.mark.parametrize("setting", ["w4a4kv4", "groups, asymmetric", "three bits, small scales"])
def test_a_packed_linear_reads_back_as_it_was(setting: str) -> None:
    parameters = QuarotParameters(**SETTINGS[setting])
    weight = torch.randn(24, 80, generator=torch.Generator().manual_seed(0))
    (rounded,), _ = round_weights([weight], None, parameters.weight_rule)
    layout = QuarotLayerPass(parameters, torch.float16).format
    back = layout.unpack("x", layout.pack(rounded))
    assert torch.equal(back.integers, rounded.integers)
    assert torch.equal(back.g_idx, rounded.g_idx)
    assert torch.equal(back.dequantized(), rounded.dequantized())


@settings(max_examples=60, deadline=None)
@given(scale_bits=st.sampled_from([4, 5, 6, 7, 8]), seed=st.integers(0, 9999))
def test_scales_of_few_bits_are_read_back_bit_by_bit(scale_bits: int, seed: int) -> None:
    parameters = QuarotParameters(w_rtn=True, w_bits=4, w_groupsize=8, s_bits=scale_bits)
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 5 - 3)
    (rounded,), _ = round_weights([weight], None, parameters.weight_rule)
    layout = QuarotLayerPass(parameters, torch.float16).format
    assert torch.equal(layout.unpack("x", layout.pack(rounded)).scales, rounded.scales)


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(2, 8), count=st.integers(1, 90), seed=st.integers(0, 99))
def test_packing_is_undone_and_is_the_continuous_stream_of_the_other_formats(
    bits: int, count: int, seed: int
) -> None:
    values = torch.randint(
        0, 2**bits, (3, count), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    packed = pack(values, bits)
    assert packed.shape == (3, words(count, bits))
    assert torch.equal(unpack(packed, bits, count).to(torch.uint8), values)
    whole = torch.zeros(3, -(-count // 32) * 32, dtype=torch.uint8)
    whole[:, :count] = values
    assert torch.equal(pack_bits(whole.t(), bits).t()[:, : words(count, bits)], packed)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    symmetric=st.booleans(),
    clip=st.sampled_from([0.8, 0.95, 1.0]),
    group=st.sampled_from([None, 4, 12]),
    seed=st.integers(0, 99),
)
def test_online_rounding_is_the_definition(
    bits: int, symmetric: bool, clip: float, group: int | None, seed: int
) -> None:
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(seed))
    expected = fake(x, bits, symmetric, clip, group)
    q, scale, zero = quantize(x, bits, symmetric, clip, group)
    assert int(q.max()) < 2**bits
    seen = dequantize(q, scale, zero)
    apart = (seen - expected).abs() > 1e-5  # a value on the edge of two integers may fall either way
    assert float(apart.float().mean()) < 0.02


@pytest.mark.parametrize("symmetric", [False, True])
def test_zeros_are_rounded_to_zeros(symmetric: bool) -> None:
    assert torch.equal(dequantize(*quantize(torch.zeros(2, 8), 4, symmetric, 0.9, None)), torch.zeros(2, 8))


def test_the_code_needs_torch_and_transformers_only() -> None:
    imported = set()
    for node in ast.walk(ast.parse(modeling_code())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported == {"functools", "math", "random", "typing", "torch", "transformers"}


def test_an_ordinary_checkpoint_is_read_by_transformers_alone(tmp_path: Path) -> None:
    model = tiny("llama")
    with torch.inference_mode():
        expected = model(tokens()).logits
    _, plain, linears = run_in_place(model, QuarotParameters())
    model.save_pretrained(tmp_path)
    read = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert not torch.equal(read.lm_head.weight, read.model.embed_tokens.weight)
    assert set(plain) | {f"{name}.weight" for name in linears} == set(read.state_dict())
    with torch.inference_mode():
        assert torch.allclose(read(tokens()).logits, expected, atol=1e-4)
