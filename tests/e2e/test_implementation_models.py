"""Each model type of the packages' table: quantized by the package, and evaluated alike on both transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import CPU, ignore_progress
from tests.support.packages import run_requests
from tests.support.quantized_models import family_batches, save_family

from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.streamed import evaluate
from quantizer.implementations.model_types import MODEL_TYPES

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

INNER = {"intermediate_size": 64}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox": ("gpt_neox, one after the other", INNER),
    "llama": ("llama, tied, biases", INNER),
    "mistral": ("mistral, short window", INNER),
    "opt": ("opt, untied, no bias, gelu", {"ffn_dim": 64}),
    "phi3": ("phi3, partial rotary, window", INNER),
    "qwen2": ("qwen2", INNER),
    "qwen3": ("qwen3", {**INNER, "head_dim": 16}),
    "qwen2, two kinds of attention": ("qwen2, window in the last layers", INNER),
}
"""Family of tests.support.decoder_families, and what makes its sizes multiples of a packed word's 32 values."""
PASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "auto-gptq": ("GptqQuantizer", {"group_size": 32}),
    "autoawq": ("AutoAWQQuantizer", {"q_group_size": 32, "input_model_dtype": "fp32"}),
}
CASES = [(name, model) for name, models in MODEL_TYPES.items() for model in models]
REFUSED = [(name, "qwen2, two kinds of attention") for name in MODEL_TYPES]


class Runs:
    """What the packages made of tiny random models."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tokens = folder, TokenBatches(family_batches().sequences)
        for name, (family, changes) in MODELS.items():
            save_family(family, folder / name, hidden_size=64, **changes)
        self.results = dict(
            zip(
                [*CASES, *REFUSED],
                run_requests([self._request(*case) for case in (*CASES, *REFUSED)], folder),
                strict=True,
            )
        )

    def _request(self, implementation: str, model: str) -> dict[str, Any]:
        kind, parameters = PASSES[implementation]
        return {
            "model": str(self.folder / model),
            "sequences": list(self.tokens.sequences),
            "type": kind,
            "parameters": {"implementation": implementation, **parameters},
            "target": str(self.target(implementation, model)),
            "without": None,
            "evaluated": True,
        }

    def target(self, implementation: str, model: str) -> Path:
        """Where an artifact is."""
        return self.folder / f"{model}-{implementation}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All of them, in one process of the packages' environment."""
    return Runs(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(("implementation", "model"), CASES)
def test_the_package_quantizes_it_and_both_transformers_measure_the_same(
    runs: Runs, implementation: str, model: str, tmp_path: Path
) -> None:
    result = runs.results[implementation, model]
    assert result["error"] is None
    assert sum(module[2] for module in result["modules"]) < sum(module[3] for module in result["modules"])
    ours = evaluate(
        DecoderLayout.open(DirectorySource(runs.folder / model)),
        DirectorySource(runs.target(implementation, model)),
        runs.tokens, CPU, ignore_progress, tmp_path,
    )  # fmt: skip
    assert 0 < ours.kl_divergence < 0.3
    assert result["kl_divergence"] == pytest.approx(ours.kl_divergence, rel=1e-3)


@pytest.mark.parametrize(("implementation", "model"), REFUSED)
def test_layers_of_several_kinds_are_refused(runs: Runs, implementation: str, model: str) -> None:
    _, category, message = runs.results[implementation, model]["error"]
    assert category == "ModelUnsupported"
    assert "full_attention, sliding_attention" in message
