"""Where the tests run Triton kernels: as NumPy code in Triton's interpreter, and on the GPU if there is one.

Whether a kernel is interpreted is settled when Triton is imported, so the interpreter has a process of its
own, started once for all tests; this process stays as it is and can compile kernels.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import TypeVar

import torch
from torch import Tensor

DEVICES = ["interpreter", "cuda"] if torch.cuda.is_available() else ["interpreter"]
Result = TypeVar("Result", Tensor, tuple[Tensor, Tensor])


def run_on(device: str, function: Callable[..., Result], *arguments: object) -> Result:
    """function(*arguments) on one of DEVICES; tensors go there and come back."""
    if device == "interpreter":
        return _interpreter().submit(function, *arguments).result()
    result = function(*(a.to(device) if isinstance(a, Tensor) else a for a in arguments))
    return result.cpu() if isinstance(result, Tensor) else (result[0].cpu(), result[1].cpu())


@cache
def _interpreter() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_interpret)


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
