"""How much arithmetic a GPTQ run needs, and how much of it this machine can do in a second.

The same count holds for every engine, whatever it does besides, so shares of the peak are in the ratio of the times:

    forward     two passes through the layers (statistics, then the next layer's input)       2 x 2 T x parameters
    Gram        one matrix for each distinct input of K channels, half of it (symmetric)      T K^2
    factor      Cholesky and triangular inverse of each of them                               K^3
    update      the columns left of each weight [N, K], after every column                    N K^2

in floating point operations for T tokens; attention scores, norms and packing are left out, they are small.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

SIDE = 2048
REPEATS = 5


@dataclass(frozen=True)
class Work:
    """Floating point operations of a whole model, by part."""

    forward: float
    gram: float
    factor: float
    update: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(asdict(self).values())


def gptq_work(config: dict[str, Any], tokens: int) -> Work:
    """Of a Llama's config.json and that many calibration tokens."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    width = config.get("head_dim") or hidden // config["num_attention_heads"]
    attention = config["num_attention_heads"] * width
    rows_by_input = (
        (hidden, attention + 2 * config["num_key_value_heads"] * width),  # q, k, v
        (attention, hidden),  # o
        (hidden, 2 * inner),  # gate, up
        (inner, hidden),  # down
    )
    layers = config["num_hidden_layers"]
    return Work(
        forward=layers * sum(4.0 * tokens * columns * rows for columns, rows in rows_by_input),
        gram=layers * sum(1.0 * tokens * columns**2 for columns, _ in rows_by_input),
        factor=layers * sum(1.0 * columns**3 for columns, _ in rows_by_input),
        update=layers * sum(1.0 * rows * columns**2 for columns, rows in rows_by_input),
    )


def product_peak(device: torch.device, threads: int) -> float:
    """Floating point operations a second of a large float32 matrix product, the best of a few."""
    torch.set_num_threads(threads)
    side = SIDE if device.type == "cpu" else 4 * SIDE
    left = torch.ones(side, side, device=device)
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        left @ left
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return float(2 * side**3 / best)
