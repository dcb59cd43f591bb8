"""A QuaRot artifact of a whole run, loaded by transformers in a process that does not have the engine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.support.engine import CPU, EXAMPLES, STORIES, VALIDATION, story_batches
from tests.support.quantized_models import transformers_logits, view_logits

from quantizer.checkpoint.source import DirectorySource
from quantizer.cli import parser
from quantizer.evaluation.quarot_view import QuarotView
from quantizer.evaluation.views import open_view

pytestmark = pytest.mark.integration

SECONDS = 240
PASS = {
    "type": "QuaRot",
    "rotate": True,
    "w_gptq": True,
    "calibration_data_config": "text",
    "calibration_nsamples": 8,
    "w_bits": 4,
    "a_bits": 8,
    "k_bits": 4,
    "v_bits": 4,
    "input_model_dtype": "fp32",
}
READER = """
import json, sys, torch
sys.modules["quantizer"] = None  # an import of the engine is an error here
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, tokens, target, trusted = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trusted == "trusted", dtype=torch.float32)
with torch.inference_mode():
    save_file({"logits": model(load_file(tokens)["tokens"]).logits.contiguous()}, target)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    written = model.generate(
        **prompt, max_new_tokens=24, do_sample=False, return_dict_in_generate=True, use_cache=True
    )
layer = written.past_key_values.layers[0]
print(json.dumps({
    "text": tokenizer.decode(written.sequences[0], skip_special_tokens=True),
    "cache": type(layer).__name__,
    "plain keys": layer.keys is not None,
    "stored": [str(tensor.dtype) for tensor in layer.stored[0].tensors],
    "class": type(model).__name__,
}))
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `quantizer run -f` published for a manifest."""
    folder = tmp_path_factory.mktemp("run")

    def text(name: str, file: str, samples: int) -> dict[str, Any]:
        return {
            "name": name,
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": f"file://{EXAMPLES}/text/{file}"},
            "pre_process_data_config": {"max_seq_len": 64, "max_samples": samples},
        }

    document = {
        "apiVersion": "quantization.dev/v1alpha1",
        "kind": "QuantizationJob",
        "metadata": {"name": "loaded"},
        "spec": {
            "workflow": {
                "input_model": {"type": "HfModel", "model_path": f"file://{STORIES}"},
                "data_configs": [
                    text("text", "tinystories-calibration.txt", 8),
                    text("held_out", "tinystories-validation.txt", 4),
                ],
                "passes": [PASS],
                "evaluators": [
                    {
                        "name": "quality",
                        "metrics": [{"name": "ppl", "type": "perplexity", "data_config": "held_out"}],
                    }
                ],
                "evaluator": "quality",
            },
            "output": {"uri": f"file://{folder}/out"},
        },
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    scratch = folder / "scratch"
    scratch.mkdir()
    code = parser.main(["run", "-f", str(folder / "job.yaml"), "--device", "cpu", "--scratch", str(scratch)])
    assert code == 0
    return folder / "out"


@pytest.fixture(scope="module")
def reader_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No network, and a cache of its own for the code that transformers copies from the artifact."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return {**os.environ, "HF_HOME": cache, "HF_MODULES_CACHE": cache, "HF_HUB_OFFLINE": "1"}


def held_out(scratch: Path) -> torch.Tensor:
    scratch.mkdir(exist_ok=True)
    return torch.stack(story_batches(VALIDATION, 2, scratch, length=48).sequences)


def read(
    artifact: Path, environment: dict[str, str], folder: Path, trusted: bool
) -> subprocess.CompletedProcess[str]:
    """transformers in a process of its own; logits go to folder/logits.safetensors."""
    save_file({"tokens": held_out(folder / "tokens")}, folder / "tokens.safetensors")
    return subprocess.run(
        [
            sys.executable,
            "-c",
            READER,
            str(artifact / "model"),
            str(folder / "tokens.safetensors"),
            str(folder / "logits.safetensors"),
            "trusted" if trusted else "not trusted",
        ],
        env=environment,
        cwd=folder,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=SECONDS,
        check=False,
    )


def test_its_logits_are_the_jobs_own_and_it_generates_with_its_quantized_cache(
    artifact: Path, reader_environment: dict[str, str], tmp_path: Path
) -> None:
    ended = read(artifact, reader_environment, tmp_path, trusted=True)
    assert ended.returncode == 0, ended.stderr
    view = open_view(DirectorySource(artifact / "model"), CPU)
    assert isinstance(view, QuarotView)
    ours = view_logits(view, held_out(tmp_path / "tokens"))
    theirs = load_file(tmp_path / "logits.safetensors")["logits"]
    print("largest difference", float((theirs - ours).abs().max()))
    assert float((theirs - ours).abs().max()) < 1e-3
    plain = transformers_logits(STORIES, held_out(tmp_path / "tokens"))
    assert float((plain - ours).abs().max()) > 1e-2  # or nothing was rounded
    said = json.loads(ended.stdout.splitlines()[-1])
    print(said)
    assert said["text"].startswith("Once upon a time")
    assert len(said["text"].split()) > 12
    assert said["class"] == "QuarotLlamaForCausalLM"
    assert said["plain keys"] is False
    assert said["stored"] == ["torch.int32", "torch.float32", "torch.uint8"]


def test_the_model_card_gives_that_permission_for_model_and_tokenizer(artifact: Path) -> None:
    loading = [
        line for line in (artifact / "README.md").read_text().splitlines() if "from_pretrained" in line
    ]
    assert len(loading) == 2
    assert all("trust_remote_code=True" in line for line in loading)


@pytest.mark.nightly
def test_without_permission_to_run_its_code_it_stops(
    artifact: Path, reader_environment: dict[str, str], tmp_path: Path
) -> None:
    ended = read(artifact, reader_environment, tmp_path, trusted=False)
    assert ended.returncode != 0
    assert "trust_remote_code=True" in ended.stderr
    assert not (tmp_path / "logits.safetensors").exists()
