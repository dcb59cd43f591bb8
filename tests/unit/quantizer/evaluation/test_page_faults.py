"""Memory goes back to the kernel between the layers of an evaluation, not between slices of the head.

The kernel zeroes every page that comes back: with a head of 32,000 entries that was half of a run's page faults.
"""

from pathlib import Path

import pytest
from tests.support.engine import CPU, ignore_progress, random_batches, save_tiny

from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation import streamed

pytestmark = pytest.mark.unit

SLICES = 8


def test_memory_is_given_back_once_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path / "model", vocab_size=SLICES * streamed.HEAD_ROWS)
    given_back: list[None] = []
    monkeypatch.setattr(streamed, "trim_memory", lambda: given_back.append(None))
    layout = DecoderLayout.open(DirectorySource(tmp_path / "model"))
    streamed.evaluate(layout, None, random_batches(2), CPU, ignore_progress, tmp_path)
    assert len(given_back) == layout.layers
