"""The example that continues a text: it reads what was written in each of the formats, as the demo's last step does."""

from pathlib import Path

import pytest
import torch
from tests.support.formats import logits, save_quantized

from deploy.examples import generate
from quantizer.algorithms.grid import GridRule
from quantizer.formats.awq import AwqFormat
from quantizer.formats.compressed_tensors import CompressedTensorsFormat
from quantizer.formats.gptq import GptqFormat
from quantizer.formats.interface import WeightFormat

pytestmark = pytest.mark.unit

TOKENS = torch.arange(1, 9).unsqueeze(0)


@pytest.mark.parametrize(
    "written",
    [GptqFormat(4, 32), AwqFormat("gemm", 4, 32, True), CompressedTensorsFormat(4, 32)],
    ids=["gptq", "awq", "compressed-tensors"],
)
def test_an_artifact_is_read_as_its_format_is_computed(written: WeightFormat, tmp_path: Path) -> None:
    saved = save_quantized(tmp_path, written, GridRule(4, False, torch.float16), 32)
    assert torch.equal(logits(generate.load(tmp_path), TOKENS), logits(saved.as_read, TOKENS))
