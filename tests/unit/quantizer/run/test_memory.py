"""Before a weight is read: what a run needs of memory is told, and where it cannot suffice nothing is begun."""

from pathlib import Path

import pytest
import torch
from tests.support.engine import save_tiny_reader
from tests.support.quantizer_requests import Request, run_here
from tests.support.sizing import SHAPES

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import RunResult
from quantizer.decoder.layout import DecoderLayout
from quantizer.run import memory
from quantizer.run.memory import check_memory, parts

pytestmark = pytest.mark.unit

GB = 10**9


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: shape.name)
def layout(request: pytest.FixtureRequest) -> DecoderLayout:
    made: DecoderLayout = request.param.layout()
    return made


@pytest.mark.parametrize(
    ("device", "category", "cure"),
    [
        ("cpu", Category.HOST_OUT_OF_MEMORY, "spec.template.resources.limits.memory"),
        ("cuda", Category.GPU_OUT_OF_MEMORY, "a GPU with"),
    ],
)
def test_a_class_that_is_too_small_is_refused_with_what_is_needed(
    layout: DecoderLayout, device: str, category: Category, cure: str
) -> None:
    found = parts(layout)
    with pytest.raises(QuantizationError) as error:
        check_memory(layout, torch.device(device), free=lambda _: found.least - 1)
    assert error.value.category is category
    assert f"about {found.needed() / GB:.1f} GB in all" in error.value.message
    assert "spec.resourceClass" in error.value.hint
    assert cure in error.value.hint


def test_what_may_not_suffice_is_tried_and_told(layout: DecoderLayout) -> None:
    found = parts(layout)
    assert "will be needed" in check_memory(layout, torch.device("cpu"), free=lambda _: found.least)
    assert check_memory(layout, torch.device("cpu"), free=lambda _: found.needed()) == ""


def test_a_stock_package_needs_the_whole_model_in_the_hosts_memory(tmp_path: Path) -> None:
    from quantizer.checkpoint.source import DirectorySource

    save_tiny_reader(tmp_path)
    layout, asked = DecoderLayout.open(DirectorySource(tmp_path)), list[str]()

    def free(device: torch.device) -> int:
        asked.append(device.type)
        return layout.reader.bytes - 1

    with pytest.raises(QuantizationError) as error:
        check_memory(layout, torch.device("cuda"), whole=True, free=free)
    assert error.value.category is Category.HOST_OUT_OF_MEMORY
    assert asked == ["cpu"]


def test_a_run_ends_before_it_reads_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_reader(tmp_path / "model")
    monkeypatch.setattr(memory, "free_memory", lambda _: 1000)
    ended = run_here(
        Request(f"file://{tmp_path / 'out'}", f"file://{tmp_path / 'model'}"), tmp_path / "scratch"
    )
    assert ended.code == 71
    assert isinstance(ended.result, RunResult)
    assert ended.result.failure is not None
    assert ended.result.failure.category is Category.HOST_OUT_OF_MEMORY
    assert "GB of memory at the least" in ended.result.failure.message
