"""Experts that transformers holds in fused tensors: linears for each, found by looking, under the file's names."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.causal_types import small_model
from tests.support.choice import mostly_nightly
from tests.support.decoder_families import Stores, layer_weights
from tests.support.engine import CPU, edit_tensors
from tests.support.quantized_inputs import random_mxfp4
from tests.support.walked import walked_error
from torch import Tensor, nn
from transformers.integrations import mxfp4

from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.architecture import FoundLayer, SharedInput, Stage
from quantizer.decoder.expert_finding import described
from quantizer.decoder.expert_stages import expanded
from quantizer.decoder.found_folds import find_folds
from quantizer.decoder.fused_experts import FusedExperts
from quantizer.decoder.generic import GenericWalk
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.linear_experts import all_reading, with_all_experts, with_one_expert
from quantizer.decoder.model import DecoderModel

pytestmark = [pytest.mark.unit, pytest.mark.filterwarnings("ignore")]

KINDS = {
    "deepseek_v3": "model.layers.1.mlp.experts.3.gate_proj",  # dense first, groups, a bias of the router, shared
    "gpt_oss": "model.layers.0.mlp.experts.3.gate_proj",  # fused in the file, transposed, in turn, biases, limits
    "granitemoe": "model.layers.0.block_sparse_moe.experts.3.gate_proj",  # fused in the file under another name
    "minimax_m2": "model.layers.0.block_sparse_moe.experts.3.w1",  # other names all over the module
    "aria_text": "model.layers.0.mlp.experts.3.gate_proj",  # fused in the file, transposed, under another name
    "qwen3_next": "model.layers.0.mlp.experts.3.gate_proj",  # beside linear attention
    "llama4_text": "model.layers.0.feed_forward.experts.3.gate_proj",  # a block of tokens for each expert
    "minimax_m3_vl_text": "model.layers.0.mlp.experts.3.gate_proj",  # an activation of its own
}
"""By type: the name that a linear of an expert has in checkpoint and artifact."""
EVERY_TIME = ("deepseek_v3", "gpt_oss", "minimax_m2", "llama4_text")
LAYER = {"deepseek_v3": 1}


def opened(model_type: str, folder: Path, **changes: Any) -> tuple[Any, DecoderModel]:
    """transformers' model of a type, and ours of what it saved."""
    whole = small_model(model_type, **changes)
    whole.save_pretrained(folder / "model")
    return whole, DecoderModel(DecoderLayout.open(DirectorySource(folder / "model")), CPU)


@pytest.mark.parametrize("model_type", mostly_nightly(KINDS, EVERY_TIME))
def test_each_expert_is_linears_and_the_logits_stay(model_type: str, tmp_path: Path) -> None:
    whole, model = opened(model_type, tmp_path)
    linear, index = KINDS[model_type], LAYER.get(model_type, 0)
    names = [model.layout.layer_prefix(index) + name for name in model.layout.linears(index)]
    assert linear in names
    assert walked_error(whole, model, tmp_path) < 1e-6


@pytest.mark.parametrize("model_type", ["gpt_oss", "granitemoe"])
def test_a_fused_tensor_is_read_in_slices(model_type: str, tmp_path: Path) -> None:
    whole, model = opened(model_type, tmp_path)
    stored = load_file(tmp_path / "model/model.safetensors")
    name, reader = KINDS[model_type], model.layout.reader
    assert not any(key.startswith(name) for key in stored)
    owner = whole.get_submodule(name.rpartition(".")[0].rpartition(".")[0])
    block = owner.gate_up_proj[3]
    expected = block[:, ::2].t() if model_type == "gpt_oss" else block[: len(block) // 2]
    assert torch.equal(reader.tensor(f"{name}.weight"), expected)
    assert reader.tensors[f"{name}.weight"].shape == tuple(expected.shape)


def test_experts_in_mxfp4_are_read_in_slices_too(tmp_path: Path) -> None:
    small_model("gpt_oss", intermediate_size=32).save_pretrained(tmp_path)
    meant: dict[str, Tensor] = {}

    def encode(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(("gate_up_proj", "experts.down_proj"))]:
            blocks, scales = random_mxfp4(4, tensors.pop(name).shape[2], 1)
            meant[name] = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}

    edit_tensors(tmp_path, encode)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}})
    )
    reader = DecoderLayout.open(DirectorySource(tmp_path)).reader
    prefix = "model.layers.1.mlp.experts."
    for expert in range(4):
        up, down = (reader.tensor(f"{prefix}{expert}.{name}.weight") for name in ("up_proj", "down_proj"))
        assert torch.equal(up, meant[f"{prefix}gate_up_proj"][expert][:, 1::2].t())
        assert torch.equal(down, meant[f"{prefix}down_proj"][expert].t())


def test_what_chooses_experts_stays_as_it_is(tmp_path: Path) -> None:
    """A router, and the gate of a shared expert, are linears that read what experts read."""
    _, model = opened("qwen3_next", tmp_path)
    linears = model.layout.linears(0)
    assert "mlp.shared_expert_gate" not in linears
    assert "mlp.shared_expert.gate_proj" in linears
    assert "mlp.shared_expert_gate" in model.layout.ignored_linears(0)


class Watched:
    """What a walk was told of each input."""

    def __init__(self) -> None:
        self.read: dict[str, Tensor] = {}
        self.sent: dict[str, int] = {}

    def look(self, _number: int, shared: SharedInput, read: Tensor) -> None:
        self.read[shared.names[0]] = read.clone()

    def count(self, _number: int, shared: SharedInput, tokens: int) -> None:
        self.sent[shared.names[0]] = tokens


def walked(model: DecoderModel, folder: Path, every: bool) -> tuple[Watched, Tensor]:
    """One batch through layer 1, and what it makes."""
    folder.mkdir()
    stores, watched = Stores(folder), Watched()
    states = torch.randn((2, 9, model.layout.width), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), stores("hidden", [(2, 9)], model.layout.width) as hidden:
        hidden.write(0, states)
        with model.walk(1, layer_weights(model, 1), hidden, stores) as walk:
            walk.visit(
                walk.stages,
                watched.look,
                propagate_unrounded=True,
                every_expert=watched.count if every else None,
            )
        return watched, hidden.read(0).clone()


def test_each_expert_reads_the_tokens_that_it_is_sent_or_all(tmp_path: Path) -> None:
    _, model = opened("deepseek_v3", tmp_path)
    (few, made), (every, also_made) = (walked(model, tmp_path / f"{on}", on) for on in (False, True))
    experts = [f"mlp.experts.{expert}.gate_proj" for expert in range(4)]
    assert sum(len(few.read[name]) for name in experts) == 18 * 2
    assert all(len(every.read[name]) == 18 for name in experts)
    assert [every.sent[name] for name in experts] == [len(few.read[name]) for name in experts]
    assert every.sent["mlp.shared_experts.gate_proj"] == 18
    assert torch.equal(made, also_made)


def test_a_norm_folds_into_experts_and_their_router(tmp_path: Path) -> None:
    _, model = opened("deepseek_v3", tmp_path)
    stores = Stores(tmp_path)
    with stores("hidden", [(1, 1)], model.layout.width) as hidden, torch.inference_mode():
        walk = model.walk(1, layer_weights(model, 1), hidden, stores)
        assert isinstance(walk, GenericWalk)
        before = [value.clone() for _, value in walk.layer.parameters()]
        places = find_folds(
            walk.layer, model.layout.found(1).candidates, model.layout.config, model.layout.stream
        )
        after = [value for _, value in walk.layer.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    [norm] = [place for place in places if place.source == "post_attention_layernorm"]
    assert {"mlp.gate", "mlp.experts.3.up_proj", "mlp.shared_experts.up_proj"} <= set(norm.readers)
    assert [place.source for place in places if place.source.startswith("mlp.experts")] == [
        f"mlp.experts.{expert}.up_proj" for expert in range(4)
    ]


def test_scales_do_not_fold_where_the_activation_has_limits(tmp_path: Path) -> None:
    _, model = opened("gpt_oss", tmp_path)
    stores = Stores(tmp_path)
    with stores("hidden", [(1, 1)], model.layout.width) as hidden, torch.inference_mode():
        places = model.folds(0, model.walk(0, layer_weights(model, 0), hidden, stores))
    assert not [place.source for place in places if ".experts." in place.source]


class Doubled(nn.Module):
    """Experts whose gate is used twice: no linear for each does that."""

    def __init__(self) -> None:
        super().__init__()
        self.num_experts = 5
        self.gate_up_proj = nn.Parameter(torch.empty(5, 24, 8, device="meta"))
        self.down_proj = nn.Parameter(torch.empty(5, 8, 12, device="meta"))
        self.act_fn = nn.SiLU()

    def forward(self, hidden: Tensor, _chosen: Tensor, weights: Tensor) -> Tensor:
        """Sends every token to expert 0."""
        gate, up = nn.functional.linear(hidden, self.gate_up_proj[0]).chunk(2, dim=-1)
        return nn.functional.linear(self.act_fn(gate) * gate * up, self.down_proj[0]) * weights[:, :1]


def test_experts_that_compute_something_else_are_told_apart() -> None:
    assert described(Doubled()) is None


def test_many_wide_experts_are_calibrated_in_batches() -> None:
    """Statistics of 256 experts of width 7168 are 52 GB; the experts of a batch follow each other in both halves."""
    fused = FusedExperts(256, 7168, 2048, {})
    found = expanded(
        _of_one_expert(), {"mlp.experts": fused}, {"mlp.gate": 256, "mlp.shared_experts.up_proj": 2048}
    )
    sizes = [sum(shared.expert for shared in stage.shared_inputs) for stage in found.stages]
    assert sizes[0] == 0
    assert sum(sizes) == 2 * 256
    assert sizes[1] == sizes[2] < 20
    firsts = [stage.shared_inputs[-1].names for stage in found.stages]
    assert firsts[1][-1] == f"mlp.experts.{sizes[1] - 1}.up_proj"
    assert firsts[2] == (f"mlp.experts.{sizes[1] - 1}.down_proj",)
    assert "mlp.gate" not in {name for stage in found.stages for name in stage.names}


def _of_one_expert() -> Any:
    first = ("mlp.gate", "mlp.experts.0.gate_proj", "mlp.experts.0.up_proj", "mlp.shared_experts.up_proj")
    attention = Stage((SharedInput(("self_attn.q_proj",)),))
    second = Stage((SharedInput(("mlp.experts.0.down_proj",)),))
    return FoundLayer((attention, Stage((SharedInput(first),)), second), ())


@pytest.mark.parametrize("sent_to", [1, 2])
def test_of_blocks_every_expert_reads_each_token_as_those_do_that_it_is_sent_to(sent_to: int) -> None:
    count, tokens = 4, torch.randn((9, 32), generator=torch.Generator().manual_seed(0))
    whole = small_model("llama4_text", num_local_experts=count, num_experts_per_tok=sent_to)
    experts = whole.model.layers[0].feed_forward.experts
    fused, tensors = described(experts), dict(experts.named_parameters())
    assert fused is not None
    weights = torch.zeros((count, len(tokens)))
    for token in range(len(tokens)):
        weights[torch.arange(token, token + sent_to) % count, token] = 0.25
    blocks = (weights[:, :, None] * tokens).flatten(0, 1)
    expected = experts(blocks)
    with_one_expert(experts, fused)
    with_all_experts(experts)
    for expert, (name, place) in itertools.product(range(count), fused.places.items()):
        weight = place.cut(tensors[place.tensor][expert])
        experts.get_submodule(f"{expert}.{name.partition('.')[0]}")._parameters["weight"] = weight
    read: list[Tensor] = []
    for expert in range(count):
        experts.get_submodule(f"{expert}.up_proj").register_forward_pre_hook(lambda _, x: read.append(x[0]))
    with all_reading(experts, on=True):
        made = experts(blocks)
    assert torch.allclose(made, expected, atol=1e-5)
    assert experts.sent == tuple((weights > 0).sum(dim=1).tolist())
    assert len(read) == count
    for seen in read:
        assert torch.allclose(seen, tokens * 0.25, atol=1e-6)
