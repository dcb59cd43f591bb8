"""What is gathered beside the float model, before a layer is fitted to it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import SharedInput, Stage
from quantizer.passes.reconstruction import gather_with_drift

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
STAGE = Stage((SharedInput(("o_proj",)),))
SHAPES = [(2, 4), (2, 4)]


def walk(rows: int, offset: float) -> Any:
    """A walk whose linear reads so many rows of 8 of each batch."""

    def visit(stages: Any, look: Any, **_: Any) -> None:
        for number in range(len(SHAPES)):
            generator = torch.Generator().manual_seed(number)
            look(number, stages[0].shared_inputs[0], torch.randn(2, rows, 8, generator=generator) + offset)

    return SimpleNamespace(
        shapes=SHAPES,
        side_by_side=1,
        visit=visit,
        finish=lambda _: None,
        linear=lambda _: torch.nn.Linear(8, 3),
    )


@pytest.mark.parametrize(("rows", "drifts"), [(4, True), (12, False)])
def test_a_linear_that_reads_other_rows_than_the_tokens_has_no_drift(
    rows: int, drifts: bool, tmp_path: Path
) -> None:
    def store(name: str, shapes: Any, width: int) -> ActivationStore:
        return ActivationStore(tmp_path / name, shapes, width, torch.float32, CPU)

    layer: Any = SimpleNamespace(walk=walk(rows, 0.0), device=CPU)
    reference: Any = SimpleNamespace(walk=walk(rows, 0.5), store=store)
    found, drift = gather_with_drift(layer, reference, STAGE, every_expert=False)
    assert found[STAGE.shared_inputs[0]].tokens == 2 * 2 * rows
    assert (drift is not None) == drifts
