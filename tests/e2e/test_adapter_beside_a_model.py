"""The artifact of a model with an adapter and code beside it loads where peft is installed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.support.engine import CPU, make_pass, quarot_pass, random_batches, run_layers, save_tiny
from tests.support.quantized_models import view_logits
from tests.support.reference import interpreter_from, run_reference

from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view

pytestmark = pytest.mark.e2e


def add_adapter_and_code(folder: Path) -> None:
    """What peft left beside the model that it merged the adapter into, and classes of the model's own."""
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "/not/here",
        "r": 2,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "CAUSAL_LM"}))
    shapes = {"A": (2, 64), "B": (64, 2)}
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{module}.lora_{key}.weight": torch.ones(shape) for key, shape in shapes.items()},
        folder / "adapter_model.safetensors",
    )
    said = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    (folder / "config.json").write_text(json.dumps({**said, "auto_map": code}))


def test_it_loads_with_and_without_trust_in_code_and_computes_what_was_quantized(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    add_adapter_and_code(tmp_path / "model")
    layer_pass = make_pass(
        quarot_pass(w_gptq=False, w_bits=16, calibration_data_config=None, input_model_dtype="fp32")
    )
    run_layers(
        DirectorySource(tmp_path / "model"),
        random_batches(),
        layer_pass,
        tmp_path / "out",
        tmp_path / "scratch",
    )
    tokens = torch.stack(random_batches(2, 16).sequences)
    request = {"directories": [str(tmp_path / "out")], "tokens": tokens}
    python = interpreter_from("QUANTIZATION_READER_PYTHON")
    (answers,) = run_reference(python, "adapter_reader.py", request, tmp_path)
    ours = view_logits(open_view(DirectorySource(tmp_path / "out"), CPU), tokens)
    for theirs in answers:
        assert isinstance(theirs, torch.Tensor), theirs
        assert (theirs - ours).abs().max() < 1e-4
