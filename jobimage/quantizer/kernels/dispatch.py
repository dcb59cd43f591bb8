"""Which of a pair computes: the Triton kernel or its plain twin.

The two give the same numbers (each pair says how nearly), so the choice is one of speed only and nothing
records it. The `*_triton` modules import Triton and are imported only after this module said yes: Triton
has no wheel for some platforms, and a process without a GPU need not load it.
"""

import os
from importlib.util import find_spec

import torch


def uses_triton(device: torch.device) -> bool:
    """Whether tensors on that device go to the Triton kernels.

    They do on a GPU. They also do on the CPU in a process that was started with TRITON_INTERPRET=1, Triton's
    own switch, which makes every kernel run as NumPy code: slow, and meant for tests.
    """
    if device.type not in ("cuda", "cpu") or find_spec("triton") is None:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
