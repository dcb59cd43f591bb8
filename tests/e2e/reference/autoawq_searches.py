"""Runs the scale and clip search of autoawq 0.2.9 on layers and inputs from a file; run in its environment.

Usage: python autoawq_searches.py CASES.pt RESULTS.pt

CASES.pt holds a list of {weights: [W [N, K], ..], inputs [sequences, tokens, K], bits, group_size,
zero_point, duo_scaling, closing [M, N] or None}. The weights read the same inputs. Without
`closing` the package sees their outputs side by side; with it (two weights) it sees the whole MLP
closing(silu(W_0 x) * W_1 x), as it does when it quantizes a Llama. RESULTS.pt gets for each

    scales [K], losses [20]            the choice, and the loss of each ratio
    limits: [[N, G], ..]               clipping limits of each weight as it lies; none with `closing`
    rounded: [[N, K], ..]              each weight as it lies, rounded

The package keeps backups with `.cpu()`, which on a CPU are the same memory as the weights that it scales
and rounds, so that each ratio starts from the damage of the one before. The module hands out copies of
its state here; nothing else of the package is changed.
"""

import sys
from typing import Any

import torch
from awq.quantize.quantizer import AwqQuantizer
from torch import nn


class Outputs(nn.Module):
    """Linears on one input; with a closing linear a gated MLP."""

    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(_linear(weight) for weight in case["weights"])
        self.closing = None if case["closing"] is None else _linear(case["closing"])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = [linear(inputs) for linear in self.linears]
        if self.closing is None:
            return torch.cat(outputs, dim=-1)
        return self.closing(nn.functional.silu(outputs[0]) * outputs[1])

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        return {name: value.clone() for name, value in super().state_dict(*arguments, **options).items()}


class Quantizer(AwqQuantizer):
    """The package's class without a model around it; it remembers the losses."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.w_bit, self.group_size = case["bits"], case["group_size"]
        self.zero_point, self.duo_scaling = case["zero_point"], case["duo_scaling"]
        self.n_parallel_calib_samples, self.max_chunk_memory = None, 1024**3
        self.losses: list[float] = []

    def _compute_loss(self, *arguments: Any) -> float:
        loss = super()._compute_loss(*arguments)
        self.losses.append(loss)
        return loss


def _linear(weight: torch.Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight.clone()
    return linear.requires_grad_(False)


def _limits(quantizer: Quantizer, weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Limits by all tokens; the package takes multiples of 64 rows only, so the last rows come twice."""
    missing = -weight.shape[0] % 64
    padded = torch.cat([weight, weight[weight.shape[0] - missing :]])
    tokens = inputs.numel() // inputs.shape[-1]
    limits = quantizer._compute_best_clip(padded, inputs.clone(), n_sample_token=tokens)
    return limits.squeeze(-1)[: weight.shape[0]]


def search(case: dict[str, Any]) -> dict[str, Any]:
    """One case."""
    holder, quantizer = nn.Module(), Quantizer(case)
    holder.producer, holder.outputs = nn.Identity(), Outputs(case)
    inputs, linears = case["inputs"], list(holder.outputs.linears)
    _, _, scales = quantizer._search_best_scale(
        holder, holder.producer, linears, inputs.clone(), module2inspect=holder.outputs
    )
    alone = case["closing"] is None
    limits = [_limits(quantizer, weight, inputs) for weight in case["weights"]] if alone else []
    rounded = [quantizer.pseudo_quantize_tensor(weight.clone())[0] for weight in case["weights"]]
    return {"scales": scales, "losses": torch.tensor(quantizer.losses), "limits": limits, "rounded": rounded}


def main() -> None:
    """Reads the cases, writes the results."""
    cases = torch.load(sys.argv[1], weights_only=True)
    with torch.inference_mode():
        torch.save([search(case) for case in cases], sys.argv[2])


main()
