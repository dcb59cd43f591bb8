"""ModelUnsupported has many causes, and no cure that fits all: each place that raises it says what to do there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantization_api.failures import QuantizationError
from quantizer.decoder.model_config import find_architecture
from quantizer.formats.awq import AwqFormat
from quantizer.formats.gptq import GptqFormat
from quantizer.formats.interface import WeightFormat

pytestmark = pytest.mark.unit

ROOM = Path(__file__).parents[3] / "jobimage/quantizer"
HINT_BEHIND = 2
"""Positions from the category to the hint: what is wrong lies between."""
NOT_RAISED = ("Place",)
"""Calls that only name the category."""


def _is_category(node: ast.expr) -> bool:
    return ast.unparse(node) == "Category.MODEL_UNSUPPORTED"


def _calls() -> Iterator[tuple[str, ast.Call]]:
    """Each call that is given the category, with its place."""
    for path in sorted(ROOM.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) in NOT_RAISED:
                continue
            if any(map(_is_category, node.args)):
                yield f"{path.relative_to(ROOM)}:{node.lineno}", node


def _has_hint(call: ast.Call) -> bool:
    if any(keyword.arg == "hint" for keyword in call.keywords):
        return True
    return len(call.args) > next(i for i, item in enumerate(call.args) if _is_category(item)) + HINT_BEHIND


def test_every_place_that_raises_it_has_a_cure_of_its_own() -> None:
    calls = list(_calls())
    assert len(calls) > 20
    assert [place for place, call in calls if not _has_hint(call)] == []


@pytest.mark.parametrize(
    ("layout", "shape", "cure"),
    [
        (
            GptqFormat(3, -1),
            (48, 48),
            "Use bits that fit it (8, 4, 2), or a GptqQuantizer with checkpoint_format: ",
        ),
        (
            GptqFormat(4, -1),
            (64, 66),
            "Use a GptqQuantizer with checkpoint_format: compressed-tensors, which pads.",
        ),
        (AwqFormat("gemm", 4, 16), (66, 64), "Name it in modules_to_not_convert, or use a GptqQuantizer."),
        (
            AwqFormat("gemv", 4, 64),
            (66, 64),
            "Name it in modules_to_not_convert, write version: gemm, or use a ",
        ),
    ],
    ids=["gptq, other bits", "gptq, no bits", "awq gemm", "awq gemv"],
)
def test_a_linear_that_a_format_cannot_pack_comes_with_what_can(
    layout: WeightFormat, shape: tuple[int, int], cure: str
) -> None:
    with pytest.raises(QuantizationError) as caught:
        layout.check_shape("down_proj", *shape)
    assert caught.value.hint.startswith(cure)


@pytest.mark.parametrize(
    ("config", "cure"),
    [
        (
            {"model_type": "gemma3", "architectures": ["Gemma3Model"], "text_config": {}},
            "alone",
        ),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForCausalLM"], "text_config": {}}, "alone"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "ends with ForCausalLM"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "ends with ForCausalLM"),
        ({"model_type": "nobodys"}, "of a type that is exact in docs/models.md"),
        ({"architectures": ["LlamaForCausalLM"]}, "Point model_path at the folder of a language model"),
    ],
)
def test_a_model_of_another_kind_is_told_what_kind_it_has_to_be(config: dict[str, object], cure: str) -> None:
    with pytest.raises(QuantizationError) as caught:
        find_architecture(config)
    assert cure in caught.value.hint
