"""An artifact run as a reader runs that is told nothing else: in its own data type.

Figures are computed in float32, where a model looks healthy whose activations no float16 can hold.
"""

from pathlib import Path

import torch

from quantization_api.failures import Category, QuantizationError
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.data_types import word
from quantizer.checkpoint.source import Source
from quantizer.decoder.architecture import ModuleNames
from quantizer.evaluation.streamed import OnProgress, has_finite_logits
from quantizer.evaluation.views import open_view, own_dtype


def run_in_own_dtype(
    source: Source,
    tokens: TokenBatches,
    device: torch.device,
    on_progress: OnProgress,
    scratch: Path,
    modules: ModuleNames | None = None,
    *,
    cure: str = "",
) -> None:
    """Computes the logits of some tokens.

    cure: how to get an artifact in a data type of wider range.

    Raises:
        QuantizationError: NumericalFailure when they are not finite; and what open_view raises.
    """
    dtype = own_dtype(source)
    if not has_finite_logits(open_view(source, device, modules, dtype), tokens, on_progress, scratch):
        raise QuantizationError(
            Category.NUMERICAL_FAILURE,
            f"the quantized model computes values that are not finite in {word(dtype)}, its own data type",
            cure,
        )
