"""A model's folder that holds more than the model: what is taken, what is said of the rest, and that it loads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.engine import edit_tensors, save_tiny_reader
from tests.support.quantizer_requests import Ended, Request, run_here
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.unit

ROTATED = {"type": "QuaRot", "input_model_dtype": "fp32"}
CODE = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}
VALUE_HEAD, FURTHER = "v_head.summary.weight", "model.layers.2.eh_proj.weight"


def run(folder: Path, layer_pass: dict[str, Any] | None = None) -> Ended:
    """A run of the model in a folder; the artifact is in `out` beside it."""
    request = Request(
        f"file://{folder.parent / 'out'}",
        f"file://{folder}",
        pass_options={"group_size": 16},
        layer_pass=layer_pass,
        metrics=[],
    )
    ended = run_here(request, folder.parent / "scratch")
    assert ended.code == 0, ended.log
    return ended


def said(folder: Path, ended: Ended) -> str:
    """What log, manifest and card say of the rest."""
    remarks: list[str] = json.loads((folder.parent / "out/manifest.json").read_text())["input"]["remarks"]
    card = (folder.parent / "out/README.md").read_text()
    for remark in remarks:
        assert remark in ended.log
        assert remark.split(".")[0].replace("_", "\\_") in card or remark.split(".")[0] in card
    return " ".join(remarks)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_tiny_reader(tmp_path / "model")
    return tmp_path / "model"


def add_adapter(folder: Path) -> None:
    """What peft leaves beside a model: the base model is named by where it was."""
    config = {"peft_type": "LORA", "base_model_name_or_path": "/not/here", "task_type": "CAUSAL_LM", "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj"]}))
    save_file({"a": torch.ones(2)}, folder / "adapter_model.safetensors")


def add_code(folder: Path) -> None:
    """A model that brings its own classes."""
    for name, code in (
        ("config.json", CODE),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_x.X", None]}),
    ):
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, "auto_map": code}))
    for name in ("configuration_x", "modeling_x", "tokenization_x"):
        (folder / f"{name}.py").write_text("raise RuntimeError")


def test_an_ordinary_folder_needs_no_remark(model: Path) -> None:
    assert said(model, run(model, ROTATED)) == ""


def test_an_adapter_beside_a_model_is_neither_applied_nor_copied(model: Path) -> None:
    add_adapter(model)
    sentences = said(model, run(model, ROTATED))
    assert "(adapter_config.json and adapter_model.safetensors)" in sentences
    assert "the weights are those of model.safetensors" in sentences
    assert "merge it first" in sentences
    assert not list((model.parent / "out").rglob("adapter_*"))


def test_weights_in_other_formats_are_named(model: Path) -> None:
    shutil.copy(model / "model.safetensors", model / "consolidated.safetensors")
    (model / "pytorch_model.bin").write_bytes(b"x")
    (model / "training_args.bin").write_bytes(b"x")
    sentences = said(model, run(model, ROTATED))
    assert "consolidated.safetensors and pytorch_model.bin were not read" in sentences
    assert "training_args" not in sentences


@pytest.mark.parametrize("trust", [True, False])
def test_an_artifact_of_a_model_with_code_loads_with_and_without_trust_in_code(
    model: Path, trust: bool
) -> None:
    add_code(model)
    sentences = said(model, run(model, ROTATED))
    assert "config.json names code of the model (auto_map)" in sentences
    stored = model.parent / "out/model"
    loaded = AutoModelForCausalLM.from_pretrained(stored, trust_remote_code=trust, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(stored, trust_remote_code=trust, local_files_only=True)
    assert type(loaded).__name__ == "LlamaForCausalLM"
    assert tokenizer("one two")["input_ids"]


def add_unused(tensors: dict[str, Tensor]) -> None:
    """A value head, half of a layer that predicts a further token, and what old checkpoints stored."""
    tensors[VALUE_HEAD] = torch.arange(64, dtype=torch.int64).view(1, 64)
    tensors[FURTHER] = torch.full((64, 128), torch.nan, dtype=torch.float64)
    tensors["model.layers.2.self_attn.q_proj.weight"] = torch.ones(64, 64)
    tensors["mtp.fc.weight"] = torch.ones(())
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    tensors["model.layers.0.self_attn.masked_bias"] = torch.tensor(-1e4)
    tensors["model.layers.1.mlp.down_proj.bias"] = torch.zeros(64)


def test_tensors_that_the_model_does_not_use_are_copied_and_computed_ones_are_not(model: Path) -> None:
    edit_tensors(model, add_unused)
    before = load_file(model / "model.safetensors")
    sentences = said(model, run(model))
    after = load_file(model.parent / "out/model/model.safetensors")
    for name in (VALUE_HEAD, FURTHER, "mtp.fc.weight", "model.layers.2.self_attn.q_proj.weight"):
        assert after[name].dtype == before[name].dtype
        assert torch.equal(after[name].nan_to_num(), before[name].nan_to_num())
    assert not any("inv_freq" in name or "masked_bias" in name or name.endswith(".bias") for name in after)
    assert "mtp.fc.weight and 1 more) were copied as they are" in sentences
    assert "model.layers.1.mlp.down_proj.bias were left out: values that are computed today" in sentences


def test_what_reads_hidden_states_beside_the_model_is_left_out_where_they_are_rotated(model: Path) -> None:
    edit_tensors(model, add_unused)
    sentences = said(model, run(model, ROTATED))
    after = load_file(model.parent / "out/model/model.safetensors")
    assert VALUE_HEAD not in after
    assert FURTHER not in after
    assert "were left out: the hidden states that they read are rotated" in sentences
