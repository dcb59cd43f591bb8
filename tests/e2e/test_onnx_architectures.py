"""Every architecture through the model builder: what is refused beforehand is what it does not do, or does wrongly."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.choice import chosen, mostly_nightly
from tests.support.engine import gptq_pass, make_pass, run_layers
from tests.support.quantized_models import CASE_OF, family_batches, save_wide

from quantization_api.failures import QuantizationError
from quantization_api.passes import ModelBuilder
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.families import ARCHITECTURES
from quantizer.decoder.layout import DecoderLayout, read_config
from quantizer.export.builder import ENVIRONMENT
from quantizer.export.graph import check_integers
from quantizer.export.logits import compare_logits, require_agreement
from quantizer.export.model_builder import show_checkpoint
from quantizer.export.plan import MODEL_TYPES, PROVIDERS, check_model, plan_build
from quantizer.export.quantized import QuantizedCheckpoint

pytestmark = pytest.mark.e2e

BUILD = """
import json, sys
from quantizer.export.builder_process import build
answers = {}
for name, request in json.load(open(sys.argv[1])).items():
    try:
        build(request)
        answers[name] = None
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
json.dump(answers, open(sys.argv[2], "w"))
"""
"""Many models in one process of the builder, whose start takes longer than a tiny model."""
WITHOUT_WINDOW: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "phi3": {"original_max_position_embeddings": 64},
    "gemma2": {"sliding_window": 64},
    "gemma3_text": {"sliding_window": 64},
}
STRETCHED = {"rope_theta": 10_000.0, "factor": 4.0}
ROPES: dict[str, dict[str, Any]] = {
    "linear": STRETCHED,
    "dynamic": {**STRETCHED, "original_max_position_embeddings": 16},
    "yarn": {**STRETCHED, "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0},
    "llama3": {
        **STRETCHED, "original_max_position_embeddings": 16, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    },
    "longrope": {
        **STRETCHED, "original_max_position_embeddings": 16, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
    },
    "default": {"rope_theta": 10_000.0},
}  # fmt: skip
"""Ways to stretch positions, with their parameters."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (CASE_OF.get(name, name), WITHOUT_WINDOW.get(name, {})) for name in ARCHITECTURES},
    "mistral, window": ("mistral, short window", {}),
    "phi3, window": ("phi3", {"original_max_position_embeddings": 64, "sliding_window": 5}),
    "phi3, stretched positions": ("phi3", {}),
    **{
        f"{name}, {kind}": (
            CASE_OF.get(name, name),
            {**WITHOUT_WINDOW.get(name, {}), "rope_parameters": {"rope_type": kind, **parameters}},
        )
        for name in sorted(MODEL_TYPES)
        for kind, parameters in ROPES.items()
        if name != "phi3"  # its positions are longrope or plain
    },
    "qwen2, window": ("qwen2, window in the last layers", {"num_hidden_layers": 2}),
}
EVERY_TIME = ("llama", "llama, llama3", "qwen3", "phi3", "gpt2", "mistral, window")


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, checkpoints and what the builder made of each."""
    place, requests = tmp_path_factory.mktemp("onnx"), {}
    layer_pass = make_pass(gptq_pass(group_size=32))
    for name in chosen(request, "name"):
        case, changes = CASES[name]
        home = place / name
        save_wide(case, home / "model", **changes)
        source = DirectorySource(home / "model")
        run_layers(source, family_batches(), layer_pass, home / "checkpoint", place / "scratch")
        config = read_config(DirectorySource(home / "checkpoint"))
        plan = plan_build(config, ModelBuilder(type="ModelBuilder"), tuple(PROVIDERS.values()))
        show_checkpoint(home / "checkpoint", config, home / "shown")
        requests[name] = {
            "checkpoint": str(home / "shown"),
            "target": str(home / "onnx"),
            "cache": str(place / "cache"),
            "precision": plan.precision,
            "execution_provider": plan.execution_provider,
            "options": plan.options(),
        }
    (place / "requests.json").write_text(json.dumps(requests))
    command = [sys.executable, "-c", BUILD, str(place / "requests.json"), str(place / "answers.json")]
    environment = {**os.environ, **ENVIRONMENT, "HF_HOME": str(place / "cache")}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return place


def works(home: Path, answer: str | None) -> str | None:
    """What is wrong with the graph, or None."""
    if answer is not None:
        return answer
    checkpoint = QuantizedCheckpoint(DirectorySource(home / "checkpoint"))
    plan = plan_build(
        read_config(DirectorySource(home / "checkpoint")),
        ModelBuilder(type="ModelBuilder"),
        [*PROVIDERS.values()],
    )
    try:
        check_integers(home / "onnx", checkpoint)
        sequences = family_batches(4, length=19, seed=4).sequences
        require_agreement(compare_logits(home / "onnx", checkpoint, sequences, PROVIDERS["cpu"]), plan.bound)
    except QuantizationError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", mostly_nightly(CASES, EVERY_TIME))
def test_a_graph_that_works_is_made_of_exactly_the_models_that_are_not_refused(
    name: str, folder: Path
) -> None:
    wrong = works(folder / name, json.loads((folder / "answers.json").read_text())[name])
    print(f"{name}: {wrong or 'works'}")
    try:
        check_model(DecoderLayout.open(DirectorySource(folder / name / "model")))
        refused = False
    except QuantizationError:
        refused = True
    assert refused is (wrong is not None), wrong
