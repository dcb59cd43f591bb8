"""When a point is given up: only where another is no larger and far better in every layer seen."""

import pytest
import torch

from quantization_api.manifest import LinearReport
from quantizer.passes.interface import FinishedLayer
from quantizer.search.early import FACTOR, Judge, StoppedEarlyError
from quantizer.search.trials import LayerFigures

pytestmark = pytest.mark.unit

OTHER = [LayerFigures(error=0.01, size=400)] * 6


def layer(error: float, size: int = 400) -> FinishedLayer:
    linear = LinearReport(name="q_proj", shape=(4, 4), error=error, error_rtn=1.0)
    return FinishedLayer({"q_proj.qweight": torch.zeros(size // 4)}, [linear])


def seen(errors: list[float], size: int = 400) -> int | None:
    """After how many layers the point was given up."""
    judge = Judge({"q.bits=4": OTHER}, len(OTHER))
    for index, error in enumerate(errors):
        try:
            judge(index, layer(error, size))
        except StoppedEarlyError:
            return index + 1
    return None


def test_a_point_that_is_far_worse_and_no_smaller_is_given_up_after_a_third_of_the_layers() -> None:
    assert seen([0.05] * 6) == 2


@pytest.mark.parametrize(
    ("errors", "size"),
    [
        ([0.01 * FACTOR] * 6, 400),
        ([0.05, 0.011, 0.05, 0.05, 0.05, 0.05], 400),
        ([0.05] * 6, 396),
    ],
    ids=["not by enough", "not in every layer", "smaller"],
)
def test_a_point_that_may_be_on_the_front_is_not_given_up(errors: list[float], size: int) -> None:
    assert seen(errors, size) is None


def test_a_point_whose_first_layers_were_computed_before_is_not_judged() -> None:
    judge = Judge({"q.bits=4": OTHER}, len(OTHER))
    for index in range(2, 6):
        judge(index, layer(0.5))
    assert judge.layers == []


def test_the_sentence_names_the_better_point() -> None:
    judge = Judge({"q.bits=4": OTHER}, len(OTHER))
    judge(0, layer(0.08))
    said = "after 2 of 6 layers, each has an error at least 5.0 times that of q.bits=4"
    with pytest.raises(StoppedEarlyError, match=said):
        judge(1, layer(0.05))


def test_a_whole_point_is_compared_with_by_its_layers() -> None:
    judge = Judge({}, 2)
    judge(0, layer(0.05))
    judge(1, layer(0.07, 200))
    assert judge.layers == [LayerFigures(error=0.05, size=400), LayerFigures(error=0.07, size=200)]
