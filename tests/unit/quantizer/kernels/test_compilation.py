"""The kernels compile for a GPU without one: the interpreter accepts more than the compiler does."""

import re
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from quantizer.kernels import column_block_triton, hadamard_triton, packing_triton

pytestmark = pytest.mark.unit

HOPPER = GPUTarget("cuda", 90, 32)
COLUMN_BLOCK: dict[str, Any] = {
    **dict.fromkeys(["block_ptr", "factor_ptr", "scales_ptr", "zeros_ptr", "errors_ptr"], "*fp32"),
    "group_of_ptr": "*i32",
    "integers_ptr": "*u8",
    "before_ptr": "*fp32",
    **dict.fromkeys(["rows", "columns", "factor_stride", "maxq"], "i32"),
    "COLUMNS": 128,
    "ROWS": column_block_triton.ROWS,
}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing compiled before counts."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(kernel: Any, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The stages of a kernel; arguments by name: a Triton type, or the value of a constexpr."""
    signature = {name: a if isinstance(a, str) else "constexpr" for name, a in arguments.items()}
    constants = {name: a for name, a in arguments.items() if not isinstance(a, str)}
    source = ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, constants)
    stages: dict[str, Any] = triton.compile(source, target=HOPPER, options=options).asm
    return stages


@pytest.mark.parametrize("has_before", [False, True])
def test_the_column_block_contracts_nothing_and_divides_exactly(has_before: bool) -> None:
    kernel, options = column_block_triton.round_columns_kernel, column_block_triton.LAUNCH
    stages = compiled(kernel, {**COLUMN_BLOCK, "HAS_BEFORE": has_before}, **options)
    assert stages["cubin"]
    assert "fma" not in stages["ptx"]
    assert set(re.findall(r"div\.[\w.]*f32", stages["ptx"])) == {"div.rn.f32"}
    assert (
        re.findall(r"(?:mul|sub|add)\.(?!rn\.)[\w.]*f32", stages["ptx"]) == []
    )  # with .rn ptxas fuses nothing


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packing_compiles_at_every_width(bits: int) -> None:
    pack = {"values_ptr": "*u8", "packed_ptr": "*i32", "values": "i32", "columns": "i32"}
    constants = {"BITS": bits, "REACH": 12 if bits == 3 else 32 // bits, "COLUMNS": 256}
    assert compiled(packing_triton.pack_kernel, {**pack, **constants})["cubin"]


@pytest.mark.parametrize(("dtype", "computed_in"), [("fp16", "fp32"), ("fp64", "fp64")])
def test_the_butterflies_compile_and_contract_nothing(dtype: str, computed_in: str) -> None:
    arguments = {"x_ptr": f"*{dtype}", "y_ptr": f"*{dtype}", "scale_ptr": f"*{computed_in}", "rows": "i32"}
    constants = {"POWER": 4096, "STEPS": 12, "ROWS": 1}
    stages = compiled(hadamard_triton.butterflies_kernel, {**arguments, **constants})
    assert stages["cubin"]
    assert "fma" not in stages["ptx"]
