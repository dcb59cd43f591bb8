"""The data type in which a model is stored: which one a pass chooses, and whether it holds what the model computes."""

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.finite import all_finite, is_lost
from quantizer.checkpoint.data_types import word
from quantizer.decoder.layout import DecoderLayout

ASK_FOR_ANOTHER = "Write input_model_dtype: bf16 or fp32."
SAVE_IN_ANOTHER = "Save the model in bfloat16 or float32, and quantize that."


def dtype_of_model(asked: torch.dtype | None, model: DecoderLayout) -> torch.dtype:
    """What a pass with input_model_dtype loads a model in.

    A model in bfloat16 stays in it: its activations may lie beyond the range of float16, which is Olive's default.
    """
    if asked is not None:
        return asked
    return torch.bfloat16 if model.reader.dtype is torch.bfloat16 else torch.float16


def converted(name: str, value: Tensor, dtype: torch.dtype, cure: str, *, part: bool = False) -> Tensor:
    """A finite tensor of the model in the type that it is loaded or stored in.

    part: it is some rows of a table, all of which may be tiny: those of tokens that never occur.

    Raises:
        QuantizationError: NumericalFailure when a value becomes infinite, or a whole matrix zero or nearly so.
    """
    result = value.to(dtype)
    if not all_finite(result):
        raise QuantizationError(
            Category.NUMERICAL_FAILURE, f"{name} has values that are too large for {word(dtype)}", cure
        )
    if not part and is_lost(value, result):
        raise QuantizationError(
            Category.NUMERICAL_FAILURE, f"{name} has only values that are too small for {word(dtype)}", cure
        )
    return result


def check_range(largest: float, dtype: torch.dtype, layer: int, cure: str) -> None:
    """Compares the largest value between two decoder layers with the range of the type that readers compute in.

    Args:
        largest: absolute value behind decoder layer `layer`, or before it.
        dtype: in which the artifact is stored.
        cure: how to get a wider one.

    Raises:
        QuantizationError: NumericalFailure when a reader would compute infinity.
    """
    limit = torch.finfo(dtype).max
    if not largest <= limit:
        raise QuantizationError(
            Category.NUMERICAL_FAILURE,
            f"activations reach {largest:,.0f} by decoder layer {layer}, but {word(dtype)}, in which the result would "
            f"be stored, ends at {limit:,.0f}",
            cure,
        )
