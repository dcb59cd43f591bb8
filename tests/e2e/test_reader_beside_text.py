"""Models that take images beside text, quantized, as transformers loads them: only the decoder of text is packed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.causal_types import VOCABULARY, small_model
from tests.support.engine import CPU, awq_pass, gptq_pass, make_pass, random_batches, run_layers
from tests.support.quantized_models import to_half, unpacked, view_logits
from tests.support.reference import interpreter_from, run_reference
from transformers import AutoModelForImageTextToText

from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.views import open_view
from quantizer.passes.weight_pass import WeightParameters

pytestmark = pytest.mark.e2e

GROUP = 16
PASSES: dict[str, WeightParameters] = {
    "gptq": gptq_pass(group_size=GROUP),
    "awq": awq_pass(q_group_size=GROUP),
    "compressed-tensors": gptq_pass(group_size=GROUP, checkpoint_format="compressed-tensors", sym=True),
}
TRIED = [
    *((model_type, way) for model_type in ("gemma3", "qwen2_5_vl", "llava") for way in PASSES),
]


def test_transformers_computes_what_we_do(tmp_path: Path) -> None:
    tokens = torch.arange(3, 41).reshape(2, 19)
    ours, checkpoints = [], []
    for model_type, way in TRIED:
        source, target = tmp_path / model_type, tmp_path / f"{model_type}-{way}"
        if not source.exists():
            small_model(model_type, auto=AutoModelForImageTextToText).save_pretrained(source)
            to_half(source)
        batches = random_batches(vocabulary=VOCABULARY)
        run_layers(DirectorySource(source), batches, make_pass(PASSES[way]), target, tmp_path / "scratch")
        ours.append((view_logits(open_view(DirectorySource(target), CPU), tokens), unpacked(target)))
        checkpoints.append({"directory": str(target), "loader": "transformers"})
    asked = {"checkpoints": checkpoints, "tokens": tokens, "plain": True}
    theirs: list[Any] = run_reference(
        interpreter_from("QUANTIZATION_READER_PYTHON"), "format_reader.py", asked, tmp_path
    )
    for case, read, (logits, linears) in zip(TRIED, theirs, ours, strict=True):
        assert not isinstance(read, str), (case, read)
        difference = float((read["logits"] - logits).abs().max())
        print(f"{case}: max |difference of logits| = {difference:.2e}, {len(linears)} packed linears")
        assert difference < 1e-3, case
        assert len(read["linears"]) in (0, len(linears)), case  # names differ: modules', and the checkpoint's
