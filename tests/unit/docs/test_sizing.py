"""The page on sizing has the figures that the shapes give, and the example on a GPU asks for what the page says."""

import re

import pytest
import yaml
from tests.support.engine import EXAMPLES, ROOT
from tests.support.sizing import SHAPES, row, table

from quantization_api.spec import QuantizationJobSpec

pytestmark = pytest.mark.unit


def test_the_table_is_what_the_shapes_give() -> None:
    assert table() in (ROOT / "docs/sizing.md").read_text()


def test_the_example_on_a_gpu_has_room() -> None:
    spec = yaml.safe_load((EXAMPLES / "gptq-8b-gpu.yaml").read_text())["spec"]
    QuantizationJobSpec.model_validate(spec)
    memory, _, scratch, _ = map(float, re.findall(r"([\d.]+) GB", row(SHAPES[1])))
    template = spec["template"]
    assert int(template["resources"]["limits"]["memory"].removesuffix("Gi")) * 1.074 > memory
    assert int(template["scratchSize"].removesuffix("Gi")) * 1.074 > scratch
