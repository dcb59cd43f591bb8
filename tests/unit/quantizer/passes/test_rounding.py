"""A rounded linear beside RTN: what is measured, and what fails."""

import pytest
import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import LinearReport
from quantizer.algorithms.grid import GridRule
from quantizer.algorithms.quantized_weight import QuantizedWeight, round_to_nearest
from quantizer.formats.gptq import GptqFormat
from quantizer.passes import rounding
from quantizer.passes.rounding import check_quality, error_baseline, measured_rows

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("error", [0.11, float("nan"), float("inf")])
def test_a_module_that_is_worse_than_rtn_or_not_finite_fails_by_name(error: float) -> None:
    check_quality([_measured("up_proj", (128, 128), 0.1)], "Write more.")
    with pytest.raises(QuantizationError, match=r"up_proj: .*(worse than that of RTN|not finite)") as caught:
        check_quality([_measured("up_proj", (128, 128), error)], "Write more.")
    assert caught.value.category is Category.NUMERICAL_FAILURE


def test_of_few_weights_chance_may_favour_rtn_but_not_by_any_measure() -> None:
    check_quality([_measured("correction_coefs", (4, 4), 0.114)], "Write more.")
    with pytest.raises(QuantizationError, match="worse than that of RTN"):
        check_quality([_measured("correction_coefs", (4, 4), 0.2)], "Write more.")
    with pytest.raises(QuantizationError, match="worse than that of RTN"):
        check_quality([_measured("up_proj", (100_000, 4096), 0.1021)], "Write more.")


def _measured(name: str, shape: tuple[int, int], error: float) -> LinearReport:
    return LinearReport(name=name, shape=shape, error=error, error_rtn=0.1)


@pytest.mark.parametrize(("outputs", "count"), [(1, 1), (256, 256), (257, 256), (14336, 256)])
def test_errors_are_measured_on_rows_from_all_over_a_linear(outputs: int, count: int) -> None:
    rows = measured_rows(outputs, torch.device("cpu"))
    assert len(set(rows.tolist())) == count
    assert rows[0] == 0
    assert int(rows[-1]) >= outputs - outputs / count - 1
    assert int(rows.diff().max() if count > 1 else 1) <= outputs // count + 1


def test_the_error_of_a_wide_linear_is_close_to_that_of_all_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4096, 64, generator=generator)
    inputs = torch.randn(256, 64, generator=generator)

    def rtn(rows: Tensor) -> QuantizedWeight:
        return round_to_nearest(rows, 32, GridRule(4, False))

    hessian = inputs.t() @ inputs
    few = error_baseline(weight, hessian, rtn, GptqFormat(4, 32))
    monkeypatch.setattr(rounding, "MEASURED_ROWS", 4096)
    every = error_baseline(weight, hessian, rtn, GptqFormat(4, 32))
    assert few.relative(few.rtn)[1] == pytest.approx(every.relative(every.rtn)[1], rel=0.05)


def test_where_every_linear_was_left_out_there_is_nothing_to_judge() -> None:
    check_quality([], "Write more.")
