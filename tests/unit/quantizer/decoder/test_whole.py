"""Text that a whole model writes, against transformers' own greedy generation."""

from pathlib import Path

import pytest
import torch
from tests.support.engine import CPU, save_tiny

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.whole import WholeModel, require_room, whole_bytes, write
from quantizer.evaluation.views import FloatView

pytestmark = pytest.mark.unit


def test_a_model_writes_what_transformers_generates(tmp_path: Path) -> None:
    theirs = save_tiny(tmp_path, initializer_range=0.3)
    view = FloatView(DecoderLayout.open(DirectorySource(tmp_path)), CPU)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 96, (length,), generator=generator).tolist() for length in (5, 9, 5, 3, 9)]
    news = [6, 4, 6, 1, 8]
    found = write(WholeModel(view.model, view.layers()), list(zip(prompts, news, strict=True)), frozenset())
    for prompt, new, written in zip(prompts, news, found, strict=True):
        whole = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert written == whole[0, len(prompt) :].tolist()


def test_an_end_is_not_written_and_nothing_behind_it(tmp_path: Path) -> None:
    save_tiny(tmp_path, initializer_range=0.3)
    view = FloatView(DecoderLayout.open(DirectorySource(tmp_path)), CPU)
    model = WholeModel(view.model, view.layers())
    (whole,) = write(model, [([5, 6, 7], 8)], frozenset())
    end = whole[3]
    (cut,) = write(model, [([5, 6, 7], 8)], frozenset([end]))
    assert cut == whole[: whole.index(end)]


def test_a_model_that_does_not_fit_is_refused_with_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path)
    layout = DecoderLayout.open(DirectorySource(tmp_path))
    needed = whole_bytes(layout, torch.float32)
    monkeypatch.setattr("quantizer.decoder.whole.free_memory", lambda _: needed)
    require_room(layout, torch.float32, CPU)
    monkeypatch.setattr("quantizer.decoder.whole.free_memory", lambda _: needed - 1)
    with pytest.raises(QuantizationError, match="all of it must be in memory") as caught:
        require_room(layout, torch.float32, CPU)
    assert caught.value.category is Category.HOST_OUT_OF_MEMORY
