"""Packs linears with the modules of autoawq 0.2.9; run in that package's environment.

Usage: python auto_awq_packing.py CASES.pt RESULTS.pt

CASES.pt holds a list of {version, group_size, weight [N, K], scales [N, G], zeros [N, G] or None}, the
weight already rounded to its grid; RESULTS.pt gets the buffers of each packed module, or the name of the
error that packing ended with.
"""

import sys

import torch
from awq.modules.linear import WQLinear_GEMM, WQLinear_GEMV, WQLinear_GEMVFast, WQLinear_Marlin

MODULES = {
    "gemm": WQLinear_GEMM,
    "gemv": WQLinear_GEMV,
    "gemv_fast": WQLinear_GEMVFast,
    "marlin": WQLinear_Marlin,
}


def packed(case: dict[str, object]) -> dict[str, torch.Tensor] | str:
    """One case; gemm alone takes scales and zero points transposed, as the package's quantizer hands them."""
    weight, scales, zeros = case["weight"], case["scales"], case["zeros"]
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight
    if case["version"] == "gemm":
        scales, zeros = scales.t().contiguous(), None if zeros is None else zeros.t().contiguous()
    try:
        module = MODULES[case["version"]].from_linear(
            linear, 4, case["group_size"], scales=scales, zeros=zeros
        )
    except (AssertionError, IndexError, NotImplementedError, RuntimeError) as error:
        return type(error).__name__
    return dict(module.named_buffers())


def main() -> None:
    """Reads the cases, writes the results."""
    cases = torch.load(sys.argv[1], weights_only=True)
    torch.save([packed(case) for case in cases], sys.argv[2])


main()
