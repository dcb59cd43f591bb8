"""Runs the GPTQ class of auto-gptq 0.7.1 on weights and Hessians from a file; run in that package's environment.

Usage: python auto_gptq_rounding.py CASES.pt RESULTS.pt

CASES.pt holds a list of {weight [N, K], hessian [K, K], bits, group_size, damp_percent, sym, desc_act,
static_groups, half_scales}; RESULTS.pt gets {integers, scales, zeros, g_idx} for each.

The class expects a CUDA device only for a synchronize at the end, which is made a no-op here. half_scales
gives the class a Quantizer whose scales are rounded to float16 before anything is rounded with them.
"""

import sys
from typing import Any

import torch
from auto_gptq.quantization.gptq import GPTQ
from auto_gptq.quantization.quantizer import Quantizer

torch.cuda.synchronize = lambda *_: None


class HalfScaleQuantizer(Quantizer):
    """The package's quantizer on the grid that is stored."""

    def find_params(self, x: torch.Tensor, weight: bool = False) -> None:
        super().find_params(x, weight=weight)
        low = torch.minimum(x.min(1)[0], torch.zeros(x.shape[0])).reshape(self.scale.shape)
        self.scale = self.scale.half().float()
        if not self.sym:
            self.zero = torch.round(-low / self.scale).clamp(max=self.maxq)


def solve(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """One case; the package returns weights, the integers are recovered from them and the grid."""
    weight = case["weight"].clone()
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    solver = GPTQ(layer)
    solver.quantizer = HalfScaleQuantizer() if case["half_scales"] else Quantizer()
    solver.quantizer.configure(case["bits"], perchannel=True, sym=case["sym"], mse=False)
    solver.H = case["hessian"].clone()
    solver.nsamples = 1
    scales, zeros, g_idx = solver.fasterquant(
        percdamp=case["damp_percent"],
        group_size=case["group_size"],
        actorder=case["desc_act"],
        static_groups=case["static_groups"],
    )
    index = g_idx.long()
    integers = torch.round(layer.weight.data / scales[:, index]) + zeros[:, index]
    return {"integers": integers.to(torch.uint8), "scales": scales, "zeros": zeros, "g_idx": g_idx}


def main() -> None:
    """Reads the cases, writes the results."""
    cases = torch.load(sys.argv[1], weights_only=True)
    torch.save([solve(case) for case in cases], sys.argv[2])


main()
