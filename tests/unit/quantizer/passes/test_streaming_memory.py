"""The streaming loop holds the weights of one decoder layer, whatever the depth."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.engine import (
    awq_pass,
    gptq_pass,
    make_pass,
    quarot_pass,
    random_batches,
    run_layers,
    save_tiny,
)
from tests.support.quantized_models import GROUP
from torch import nn

from quantizer.checkpoint.source import DirectorySource
from quantizer.passes.awq import AwqLayerPass
from quantizer.passes.finished import NothingFinished
from quantizer.passes.gptq_layers import GptqLayerPass
from quantizer.passes.interface import FinishedLayer, LayerContext, LayerPass

pytestmark = pytest.mark.unit

LAYERS = 4


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """Takes what exists before the test out of the garbage collector's sight."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def parameter_bytes() -> int:
    """Bytes of all parameters that have memory, without collecting garbage first: cycles would count."""
    return sum(
        item.numel() * item.element_size()
        for item in gc.get_objects()
        if type(item) is nn.Parameter and item.device.type != "meta"
    )


PASSES: dict[str, LayerPass] = {
    "gptq, staged": make_pass(gptq_pass(group_size=GROUP, true_sequential=True, calibration_dtype="fp32")),
    "gptq, at once": make_pass(gptq_pass(group_size=GROUP, calibration_dtype="fp32")),
    "gptq, in bfloat16": make_pass(gptq_pass(group_size=GROUP, calibration_dtype="bf16")),
    "quarot, then gptq": make_pass(
        quarot_pass(w_gptq=False, w_bits=16, calibration_data_config=None),
        gptq_pass(group_size=GROUP, calibration_dtype="fp32"),
    ),
    "awq": make_pass(awq_pass(q_group_size=GROUP)),
}


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.parametrize("kind", PASSES)
def test_one_layers_weights_are_alive_inside_a_layer_and_none_between(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_tiny(tmp_path / "model", num_hidden_layers=LAYERS)
    itemsize = 2 if kind == "gptq, in bfloat16" else 4
    layer = sum(itemsize * value.numel() for value in model.model.layers[0].parameters())
    del model
    gc.collect()
    source, tokens = DirectorySource(tmp_path / "model"), random_batches()
    inside: list[int] = []
    between: list[int] = []

    class Watching(NothingFinished):
        def save(self, index: int, layer: FinishedLayer) -> None:  # noqa: ARG002 - see Finished
            between.append(parameter_bytes())

    for which in (GptqLayerPass, AwqLayerPass):
        run_one = which.run

        def watched(self: LayerPass, context: LayerContext, run_one=run_one) -> FinishedLayer:  # type: ignore[no-untyped-def]
            finished: FinishedLayer = run_one(self, context)
            inside.append(parameter_bytes())
            return finished

        monkeypatch.setattr(which, "run", watched)
    run_layers(source, tokens, PASSES[kind], tmp_path / "out", tmp_path / "scratch", finished=Watching())
    assert len(inside) == len(between) == LAYERS
    outside = between[0]  # the rows of the embedding that occur, the last norm
    assert outside <= 4 * (96 + 1) * 64
    assert between == [outside] * LAYERS
    assert inside == [outside + layer] * LAYERS
