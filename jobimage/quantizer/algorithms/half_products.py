"""Products of the weights that are learned, in a narrower type than all else. Pure.

A processor with instructions for products in bfloat16 makes several of them in the time of one in float32 and sums
them in float32. Norms, attention and the sum of the residuals, where rounding would add up, stay as they are, and so do
products of other weights: a router that rounds may send a token to another expert.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from typing_extensions import override


class HalfProducts(TorchFunctionMode):
    """While it is entered, linears whose float32 weight has a gradient multiply in `dtype`, forward and backward.

    Args:
        dtype: float32 changes nothing.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is linear and self._applies(*args[:2]):
            return self._product(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _applies(self, read: Tensor, weight: Tensor | None = None) -> bool:
        both = weight is not None and read.dtype == weight.dtype == torch.float32
        return both and weight is not None and weight.requires_grad and self._dtype != torch.float32

    def _product(self, read: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        found: Tensor = _Product.apply(read, weight, self._dtype)
        return found if bias is None else found + bias


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, read: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        rows, narrow = read.reshape(-1, read.shape[-1]).to(dtype), weight.to(dtype)
        context.save_for_backward(rows, narrow)
        context.shape = read.shape
        return (rows @ narrow.t()).to(read.dtype).view(*read.shape[:-1], -1)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor, None]:
        rows, narrow = context.saved_tensors
        (slope,) = slopes
        out = slope.reshape(-1, slope.shape[-1]).to(rows.dtype)
        of_read = (out @ narrow).to(slope.dtype).view(context.shape) if context.needs_input_grad[0] else None
        return of_read, (out.t() @ rows).to(slope.dtype), None
