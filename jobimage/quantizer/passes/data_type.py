"""The data type in which a model is stored: which one a pass chooses, and whether it holds what the model computes."""

import torch

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.data_types import word
from quantizer.decoder.layout import DecoderLayout

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
"""By the words of the contract."""
ASK_FOR_ANOTHER = "Write input_model_dtype: bf16 or fp32."
SAVE_IN_ANOTHER = "Save the model in bfloat16 or float32, and quantize that."


def dtype_of_model(asked: torch.dtype | None, model: DecoderLayout) -> torch.dtype:
    """What a pass with input_model_dtype loads a model in.

    A model in bfloat16 stays in it: its activations may lie beyond the range of float16, which is Olive's default.
    """
    if asked is not None:
        return asked
    return torch.bfloat16 if model.reader.dtype is torch.bfloat16 else torch.float16


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
