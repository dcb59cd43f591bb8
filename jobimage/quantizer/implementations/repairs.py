"""What must be repaired in auto-gptq 0.7.1 and autoawq 0.2.9, each with its reason; nothing else is changed.

A repair holds only inside its `with` block, and those that exist because a package assumes a GPU are applied on
a CPU only.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import auto_gptq.modeling._base as gptq_modeling
import auto_gptq.quantization.quantizer as gptq_quantizer
import awq.quantize.quantizer as awq_quantizer
import torch
from awq.utils.module import get_named_linears
from torch import Tensor, nn

CLIP_ROWS = 64
"""The clip search of autoawq takes rows in blocks of 256, or of 64, and stops at a remainder."""


@contextlib.contextmanager
def auto_gptq(device: torch.device, layers: nn.ModuleList) -> Iterator[None]:
    """All repairs of auto-gptq, for a model with these layers."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(kind_of_attention(layers))
        stack.enter_context(zero_points_that_can_be_stored())
        if device.type == "cpu":
            stack.enter_context(layers_on_the_cpu())
            stack.enter_context(no_synchronization())
        yield


@contextlib.contextmanager
def autoawq(device: torch.device, layers: nn.ModuleList) -> Iterator[type[Any]]:
    """All repairs of autoawq; gives the class to quantize with (the package has a parameter for it)."""
    base = CpuQuantizer if device.type == "cpu" else Quantizer
    bar = patch.object(awq_quantizer, "tqdm", _plain_range)  # it would be the only log that is not JSON
    with bar, kind_of_attention(layers):
        yield base


def kind_of_attention(layers: nn.ModuleList) -> contextlib.AbstractContextManager[Any]:
    """The model asks each layer for its kind of attention, which chooses its mask (Qwen2, Qwen3).

    To catch its inputs, both packages put a module of their own in the place of the first layer, and it has no answer.
    """
    kind = getattr(layers[0], "attention_type", None)
    if kind is None:
        return contextlib.nullcontext()
    return patch.object(nn.Module, "attention_type", kind, create=True)  # a real layer's own answer wins


def layers_on_the_cpu() -> contextlib.AbstractContextManager[Any]:
    """auto-gptq moves each layer that it finds on the CPU to its constant CUDA_0 (modeling/_base.py)."""
    return patch.object(gptq_modeling, "CUDA_0", torch.device("cpu"))


def no_synchronization() -> contextlib.AbstractContextManager[Any]:
    """GPTQ.fasterquant waits for the GPU to measure its own time; without a GPU the call raises."""
    return patch.object(torch.cuda, "synchronize", lambda *_: None)


def zero_points_that_can_be_stored() -> contextlib.AbstractContextManager[Any]:
    """A group of (nearly) no negative weight gets zero point 0, and the packer stores zero - 1.

    -1 becomes 32 set bits, which are or-ed over the zero points of the neighbours in its word: their rows are
    read wrong, in silence. Such a group gets zero point 1 and one level less, as in algorithms.grid.
    """
    original: Callable[..., None] = gptq_quantizer.Quantizer.find_params

    def find_params(self: Any, x: Tensor, weight: bool = False) -> None:
        original(self, x, weight=weight)
        wraps = self.zero == 0
        self.scale = torch.where(wraps, self.scale * (self.maxq / (self.maxq - 1)), self.scale)
        self.zero = torch.where(wraps, torch.ones_like(self.zero), self.zero)

    return patch.object(gptq_quantizer.Quantizer, "find_params", find_params)


class Quantizer(awq_quantizer.AwqQuantizer):  # type: ignore[misc]
    """autoawq's quantizer on models and texts that its own does not take."""

    def init_quant(self, *sizes: Any, **options: Any) -> tuple[Any, dict[str, Any], Tensor]:
        """Of what belongs to each sequence, such as the mask, the first one's, which broadcasts: all have one length.

        The package runs some of the sequences at a time, with the mask of all: it fits only if that is all of them.
        """
        layers, kwargs, hidden = super().init_quant(*sizes, **options)
        return layers, {name: _of_the_first(value, len(hidden)) for name, value in kwargs.items()}, hidden

    def _compute_best_clip(self, w: Tensor, input_feat: Tensor, **options: Any) -> Tensor:
        """Any number of rows; the package asserts a multiple of 64. Rows are independent, so padding is exact."""
        missing = -w.shape[0] % CLIP_ROWS
        padded = torch.cat([w, w[:1].expand(missing, -1)]) if missing else w
        clip: Tensor = super()._compute_best_clip(padded, input_feat, **options)
        return clip[: w.shape[0]]

    def _get_input_feat(self, layer: nn.Module, _: dict[str, nn.Module]) -> dict[str, Tensor]:
        """Inputs also of linears that are not converted: the search asks for them and would end in a KeyError."""
        features: dict[str, Tensor] = super()._get_input_feat(layer, get_named_linears(layer))
        return features


class CpuQuantizer(Quantizer):
    """On a CPU `.cpu()` gives the tensor itself, so what the package keeps as a back-up is no copy.

    _compute_best_scale scales the weights for each of 20 candidates and goes back to the back-up, which was
    scaled with them: the weights of every layer are destroyed, in silence.
    """

    def _compute_best_scale(
        self, x: Tensor, w_mean: Tensor, x_mean: Tensor, module2inspect: nn.Module, *rest: Any
    ) -> Tensor:
        with patch.object(module2inspect, "state_dict", _copied(module2inspect.state_dict)):
            scales: Tensor = super()._compute_best_scale(x, w_mean, x_mean, module2inspect, *rest)
        return scales


def _of_the_first(value: Any, sequences: int) -> Any:
    """An argument of a layer for one sequence, where it holds a row for each of them."""
    if isinstance(value, tuple):
        return tuple(_of_the_first(item, sequences) for item in value)
    # a vector is over the tokens (cache_position), however many sequences there are
    return value[:1] if isinstance(value, Tensor) and value.ndim > 1 and len(value) == sequences else value


def _copied(state_dict: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: tensor.clone() for name, tensor in state_dict().items()}


def _plain_range(items: range, **_: Any) -> range:
    return items
