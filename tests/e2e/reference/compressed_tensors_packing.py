"""Packs and unpacks linears with compressed-tensors; run in that package's environment.

Usage: python compressed_tensors_packing.py CASES.pt RESULTS.pt

CASES.pt holds a list of {config: what config.json says under quantization_config, weight [N, K],
weight_scale, weight_zero_point (signed, unpacked) or None, tensors: a packed linear}; RESULTS.pt gets for
each {packed: the tensors that the package makes of the weight, weight: the weight that it makes of the
packed linear}.
"""

import sys

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig


def solve(case: dict[str, object]) -> dict[str, object]:
    """One case."""
    config = QuantizationConfig.model_validate(case["config"])
    (scheme,) = config.config_groups.values()
    compressor = BaseCompressor.get_value_from_registry(config.format)
    plain = {name: case[name] for name in ("weight", "weight_scale", "weight_zero_point")}
    plain = {name: value for name, value in plain.items() if value is not None}
    return {
        "packed": compressor.compress(plain, scheme),
        "weight": compressor.decompress(dict(case["tensors"]), scheme)["weight"],
    }


def main() -> None:
    """Reads the cases, writes the results."""
    cases = torch.load(sys.argv[1], weights_only=True)
    torch.save([solve(case) for case in cases], sys.argv[2])


main()
