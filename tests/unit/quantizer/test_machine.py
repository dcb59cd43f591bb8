"""What a run makes of its machine: products are still in float32, and threads that wait leave it to others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.support.engine import STORIES

from quantizer.__main__ import SETTINGS
from quantizer.machine import GROWN_BYTES, MemoryTrim, available_memory, resident_memory, use_whole_vectors

pytestmark = pytest.mark.unit

PRODUCTS = """
import torch
from quantizer.machine import use_whole_vectors

use_whole_vectors()
generator = torch.Generator().manual_seed(0)
worst = 0.0
for rows, inner, columns in ((64, 4096, 64), (512, 288, 768), (300, 300, 300)):
    a, b = torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)
    exact = a.double() @ b.double()
    scale = a.double().norm(dim=1, keepdim=True) * b.double().norm(dim=0, keepdim=True)
    for product in (a @ b, torch.nn.functional.linear(a, b.t()), torch.zeros(rows, columns).addmm_(a, b)):
        worst = max(worst, float(((product - exact).abs() / scale).max()))
print(worst)
"""

HELD = """
import ctypes, sys, torch
from quantizer.algorithms.hessian import damped_slope
from quantizer.machine import use_whole_vectors

class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "o", "s", "h", "hb", "us", "fs", "used", "free", "keep")]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Heap
use_whole_vectors()
hessian, errors, weight = torch.randn(512, 512), torch.randn(512, 768), torch.randn(1408, 512)
for count in (100, 400):
    for turn in range(count):
        if sys.argv[1] == "weights":
            damped_slope(errors, hessian, slice(0, 128), 0.1 + turn / 1000)
        else:
            torch.nn.functional.linear(torch.ones(8 + turn, 512), weight)
    print(library.mallinfo2().used)
"""


def test_a_product_keeps_the_precision_of_float32() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PRODUCTS], check=True, capture_output=True, text=True
    )  # in a process of its own: the setting holds for a whole process
    assert float(found.stdout) < 1e-6  # of the product of the norms; with bfloat16 inputs 1e-4 and more


def test_a_processor_that_would_round_to_bfloat16_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert not use_whole_vectors()
    assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]


@pytest.mark.nightly
@pytest.mark.parametrize(("varied", "settings"), [("weights", {}), ("shapes", SETTINGS)])
def test_what_the_kernels_library_keeps_does_not_grow(varied: str, settings: dict[str, str]) -> None:
    """With each weight that is rounded, in any process; with each number of tokens that an expert gets, in ours."""
    inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    ended = subprocess.run(
        [sys.executable, "-c", HELD, varied],
        env={**inherited, **settings},
        check=True,
        capture_output=True,
        text=True,
    )
    before, after = map(int, ended.stdout.split())
    assert after - before < 5_000_000  # in bytes: 60 and 170 million as they were


@pytest.mark.nightly
@pytest.mark.parametrize(("chosen", "used"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_are_asleep_unless_the_user_says_otherwise(
    chosen: dict[str, str], used: str
) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    ended = subprocess.run(
        [sys.executable, "-m", "quantizer", "inspect", str(STORIES)],  # loads torch
        env={**inherited, **chosen, "OMP_DISPLAY_ENV": "TRUE"},
        capture_output=True,
        text=True,
    )
    assert f"OMP_WAIT_POLICY = '{used}'" in ended.stderr


def test_memory_that_another_process_could_take_is_bounded_by_the_containers_limit(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    assert available_memory(tmp_path, meminfo) == 4000 * 1024
    (tmp_path / "memory.stat").write_text("anon 100000\nfile 800000\nshmem 50000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path, meminfo) == 4000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    assert available_memory(tmp_path, meminfo) == 850_000


def test_memory_goes_back_to_the_kernel_once_the_process_has_grown() -> None:
    resident = iter([100, 100 + GROWN_BYTES, 100 + GROWN_BYTES, 101 + GROWN_BYTES, 50, 51 + GROWN_BYTES, 60])
    given_back: list[None] = []
    trim = MemoryTrim(lambda: next(resident), lambda: given_back.append(None))
    trim()
    trim()
    assert not given_back  # what the first part left is of use to the next
    trim()
    assert len(given_back) == 1
    trim()
    assert len(given_back) == 2  # the least so far counts


def test_the_memory_that_is_held_is_counted() -> None:
    before = resident_memory()
    held = bytearray(b"x" * 2**26)
    assert 2**26 <= resident_memory() - before < 2**27
    del held
