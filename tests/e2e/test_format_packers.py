"""Packed tensors are those of the packages themselves: autoawq 0.2.9 and compressed-tensors."""

from itertools import product
from pathlib import Path

import pytest
import torch
from tests.support.formats import random_linear
from tests.support.reference import interpreter_from, run_reference

from quantizer.algorithms.grid import dequantize
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.formats.awq import AwqFormat
from quantizer.formats.compressed_tensors import CompressedTensorsFormat

pytestmark = pytest.mark.e2e

LEGACY = "QUANTIZATION_LEGACY_PYTHON"
READERS = "QUANTIZATION_READER_PYTHON"


def test_awq_tensors_are_those_of_autoawq(tmp_path: Path) -> None:
    shapes = {
        "gemm": [(32, 32, 32), (64, 96, 32), (96, 128, 16), (64, 256, 128)],
        "gemv": [(8, 64, 64), (64, 192, 64), (32, 1280, 128), (16, 2048, 64)],
        "gemv_fast": [(8, 128, 128), (64, 384, 128), (32, 1280, 128)],
        "marlin": [(256, 128, 128), (512, 256, 128), (256, 512, 128)],
    }
    ours, cases = [], []
    for seed, (version, (rows, columns, group_size)) in enumerate(
        (version, shape) for version, several in shapes.items() for shape in several
    ):
        symmetric = version == "marlin"
        linear = random_linear(rows, columns, columns // group_size, 4, seed, symmetric=symmetric)
        written = AwqFormat(version, 4, group_size, zero_point=not symmetric)
        ours.append((version, written.pack(QuantizedWeight(*linear))))
        _, scales, zeros, _ = linear
        case = {"version": version, "group_size": group_size, "weight": dequantize(*linear)}
        cases.append({**case, "scales": scales, "zeros": None if symmetric else zeros.float()})
    theirs = run_reference(interpreter_from(LEGACY), "auto_awq_packing.py", cases, tmp_path)
    for (version, tensors), packed in zip(ours, theirs, strict=True):
        assert isinstance(packed, dict), (version, packed)
        assert tensors.keys() == packed.keys()
        for name, tensor in tensors.items():
            assert tensor.dtype is packed[name].dtype, (version, name)
            assert torch.equal(tensor, packed[name]), (version, name)


def test_autoawq_cannot_pack_what_is_refused_or_written_beyond_it(tmp_path: Path) -> None:
    def case(version: str, group_size: int, symmetric: bool) -> dict[str, object]:
        groups = 1 if group_size == -1 else 256 // group_size
        integers, scales, zeros, g_idx = random_linear(256, 256, groups, 4, 0)
        weight = dequantize(integers, scales, zeros, g_idx)
        zero_points = None if symmetric else zeros.float()
        return {
            "version": version,
            "group_size": group_size,
            "weight": weight,
            "scales": scales,
            "zeros": zero_points,
        }

    cases = [
        case("gemv", 128, True),
        case("gemv_fast", 128, True),
        case("marlin", 128, False),
        case("marlin", -1, True),
        case("gemv", -1, False),
        case("gemv_fast", -1, False),
        case("gemm", -1, False),  # ours writes it: transformers with gptqmodel reads it
        case("gemm", 32, True),  # likewise
    ]
    theirs = run_reference(interpreter_from(LEGACY), "auto_awq_packing.py", cases, tmp_path)
    assert all(isinstance(packed, str) for packed in theirs), theirs


def test_compressed_tensors_are_those_of_the_library(tmp_path: Path) -> None:
    ours, cases = [], []
    for seed, (sym, bits, (rows, columns, group_size)) in enumerate(
        product((True, False), (2, 3, 4, 8), ((32, 64, 32), (24, 100, -1), (20, 96, 48), (33, 11, -1)))
    ):
        groups = 1 if group_size == -1 else columns // group_size
        linear = random_linear(rows, columns, groups, bits, seed, symmetric=sym)
        written = CompressedTensorsFormat(bits, group_size, sym)
        tensors, weight = written.pack(QuantizedWeight(*linear)), written.as_read(QuantizedWeight(*linear))
        ours.append((tensors, weight))
        _, scales, zeros, _ = linear
        cases.append(
            {
                "config": written.quantization_config(),
                "weight": dequantize(*linear).to(torch.float32),
                "weight_scale": scales,
                "weight_zero_point": None if sym else (zeros - 2 ** (bits - 1)).to(torch.int8),
                "tensors": tensors,
            }
        )
    theirs = run_reference(interpreter_from(READERS), "compressed_tensors_packing.py", cases, tmp_path)
    for (tensors, weight), answer in zip(ours, theirs, strict=True):
        assert tensors.keys() == answer["packed"].keys()
        for name, tensor in tensors.items():
            assert tensor.dtype is answer["packed"][name].dtype
            assert torch.equal(tensor, answer["packed"][name]), name
        assert torch.equal(weight, answer["weight"])
