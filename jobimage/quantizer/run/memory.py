"""How much memory a run needs, from the shapes of the model alone: asked before a weight is read or a GPU used.

A run holds one decoder layer, what it sums up of the layer's inputs, and a batch. The estimate was compared with real
runs (tests/benchmarks/peak_memory.py), the least is what no run can do without.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from quantization_api.failures import Category, QuantizationError
from quantizer.calibration.tokens import BATCH_TOKENS
from quantizer.decoder.layout import DecoderLayout
from quantizer.machine import free_memory

logger = logging.getLogger(__name__)

FLOAT, HALF = 4, 2
"""Bytes of a number while it is computed with, and of a weight in the shorter of the types that a layer may have."""
GIGABYTE = 1e9
MARGIN = 1.3
"""By which a run may exceed the estimate, and a limit should."""


@dataclass(frozen=True)
class Parts:
    """Bytes of what a run holds of the layer that needs the most."""

    weights: int
    """Of its linears, as float32."""
    grams: tuple[int, ...]
    """Of what is summed up of the inputs, one for each input that linears share."""
    batch: int

    def needed(self, one_stage: bool = False) -> int:
        """The sum of what is held at once. one_stage: the inputs of one stage at a time (true_sequential)."""
        largest = max(self.grams, default=0)
        return self.weights + self.batch + largest + (largest if one_stage else sum(self.grams))

    @property
    def least(self) -> int:
        """The layer in half precision and its largest sum."""
        return self.weights * HALF // FLOAT + max(self.grams, default=0)


def parts(layout: DecoderLayout, index: int = 0) -> Parts:
    """What a run holds of one layer."""
    linears = layout.linear_shapes(index)
    grams = tuple(
        FLOAT * linears[shared.names[0]][1] ** 2
        for stage in layout.stages(index)
        for shared in stage.shared_inputs
    )
    inner = max((side for shape in linears.values() for side in shape), default=0)
    return Parts(
        FLOAT * sum(rows * columns for rows, columns in linears.values()),
        grams,
        FLOAT * BATCH_TOKENS * (2 * layout.width + 3 * inner),
    )


def check_memory(
    layout: DecoderLayout,
    device: torch.device,
    whole: bool = False,
    free: Callable[[torch.device], int] | None = None,
) -> str:
    """A sentence for its user where memory may not suffice, else "".

    Args:
        whole: all of the model is held at once, in the memory of the host, as the stock packages do.
        free: bytes that are free on a device; by default those of this machine.

    Raises:
        QuantizationError: HostOutOfMemory or GpuOutOfMemory, where it cannot suffice.
    """
    if whole:
        least = likely = layout.reader.bytes
        device = torch.device("cpu")
    else:
        each = [parts(layout, index) for index in range(layout.layers)]
        least = max((found.least for found in each), default=0)
        likely = max((found.needed() for found in each), default=0)
    there = (free or free_memory)(device)
    logger.info("memory: about %s will be needed, %s are free", _gigabytes(likely), _gigabytes(there))
    if least > there:
        raise _too_small(device, least, likely, there)
    if likely <= there:
        return ""
    return (
        f"About {_gigabytes(likely)} of memory will be needed, and {_gigabytes(there)} are free: the run may be "
        "killed for memory."
    )


def _too_small(device: torch.device, least: int, likely: int, there: int) -> QuantizationError:
    on_gpu = device.type == "cuda"
    category = Category.GPU_OUT_OF_MEMORY if on_gpu else Category.HOST_OUT_OF_MEMORY
    where = "on the GPU" if on_gpu else "for this process"
    wanted = -(-int(likely * MARGIN) // 2**30)
    cure = (
        f"Choose a larger spec.resourceClass, or a GPU with {wanted} GiB free."
        if on_gpu
        else f"Choose a larger spec.resourceClass, or set spec.template.resources.limits.memory to {wanted}Gi; at a "
        "command line, use a machine with as much."
    )
    return QuantizationError(
        category,
        f"this model needs {_gigabytes(least)} of memory at the least and about {_gigabytes(likely)} in all, and "
        f"{_gigabytes(there)} are free {where}",
        cure,
    )


def _gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.1f} GB"
