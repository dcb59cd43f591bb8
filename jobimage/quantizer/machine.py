"""The machine that a run has: CPU share, threads, device, memory used."""

import contextlib
import ctypes
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from quantization_api.failures import Category, QuantizationError

CGROUPS = Path("/sys/fs/cgroup")

RETURNED_BYTES, KEPT_BYTES, GROWN_BYTES = 64 * 2**20, 128 * 2**20, 128 * 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # mallopt(3)
SMALL_WEIGHT = 2**20
"""Weights up to this size are solved in one thread: their operations are so short that waking a second thread takes
longer than its share: weights of the example (288 x 288 to 1,536 x 288) took 1.15 to 1.9 times as long with two
threads as with one, 1,024 x 1,024 1.2 times, 2,048 x 1,024 the same, 2,048 x 2,048 0.8 times."""


def cpu_share(cgroups: Path = CGROUPS) -> int:
    """Whole processors that this process may use: its affinity, bounded by the container's CPU limit.

    torch sees the node's processors; as many threads on a fraction of them would wait for each other.
    """
    available = len(os.sched_getaffinity(0))
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (cgroups / quota_file).read_text().split()
            period = words[1] if period_file is None else (cgroups / period_file).read_text().strip()
        except (OSError, IndexError):
            continue
        if words[0] not in ("max", "-1"):
            return max(1, min(available, round(int(words[0]) / int(period))))
    return available


@contextlib.contextmanager
def threads_for(numbers: int) -> Iterator[None]:
    """Inside, torch uses as many threads as are worth waking for a weight of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if numbers <= SMALL_WEIGHT else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def return_freed_memory() -> bool:
    """Makes the C library return the memory of large freed tensors to the kernel; False where it cannot.

    glibc raises its own threshold for that up to 32 MiB as a process frees larger blocks, and keeps what is
    smaller in the heap of the thread that asked for it. A run that frees a layer's tensors in one order and
    reads the next ones in another thread thus keeps several layers. A bound on both and few heaps end that,
    with trim_memory between the layers. Within a layer activations should find the memory of those before them,
    since the kernel zeroes every page that comes back. With 16 and 64 MiB, and memory given back after every layer, a
    4-bit QuaRot of the example took 1,250,000 faults of a page and 13.4 % of its CPU time in the kernel, now it takes
    320,000, of them 80,000 for its imports, and 7.9 %; the faults are 3 % (perf record).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    options = ((M_MMAP_THRESHOLD, RETURNED_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_ARENA_MAX, 2))
    set_to = [mallopt(option, value) for option, value in options]
    return all(set_to)


class MemoryTrim:
    """Returns freed memory that the C library still holds to the kernel, once the parts of a run left much of it.

    Called between the parts of a run. What one part leaves behind is of use to the next, so it stays until this
    process has grown by GROWN_BYTES over the least it held between two parts.
    """

    def __init__(self, resident: Callable[[], int], give_back: Callable[[], None]) -> None:
        self._resident, self._give_back = resident, give_back
        self._least: int | None = None

    def __call__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # neither Linux nor glibc
            if self._least is not None and self._resident() > self._least + GROWN_BYTES:
                self._give_back()
            held = self._resident()
            self._least = held if self._least is None else min(self._least, held)


def resident_memory() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _malloc_trim() -> None:
    ctypes.CDLL(None).malloc_trim(0)


trim_memory = MemoryTrim(resident_memory, _malloc_trim)
"""Called between the parts of a run."""


def use_whole_vectors() -> bool:
    """Lets float32 products on the CPU use AVX-512 where the default library would not; whether it was needed.

    torch gives them to MKL, which takes AVX2 on processors of other makers: half the speed. oneDNN takes what
    the processor has, and torch lets it when a product's inputs may be rounded to bfloat16. oneDNN does round
    where the processor has a unit for such products of matrices (AMX), so there the default stays; elsewhere
    it computes in float32 as before (tests/unit/quantizer/test_machine.py).
    """
    if not torch.backends.mkldnn.is_available() or torch.cpu._is_amx_tile_supported():
        return False
    if not torch.cpu._is_avx512_supported():
        return False
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    return True


def calibration_dtype(device: torch.device) -> torch.dtype:
    """The default dtype of activations: bfloat16 where that is faster, otherwise float32.

    A processor with instructions for its products makes twice as many of them and more, and sums them in float32;
    one without them converts first, which is slower than float32. It was never measured on a GPU.
    """
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    at_hand = device.type == "cpu" and torch.backends.mkldnn.is_available()
    return torch.bfloat16 if fast and at_hand else torch.float32


def choose_device(name: str) -> torch.device:
    """auto: the GPU if there is one; cpu; cuda.

    Raises:
        QuantizationError: InvalidWorkflow when a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise QuantizationError(
            Category.INVALID_WORKFLOW, "this machine has no usable GPU", "Use --device cpu, or --device auto."
        )
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """The device's name, for people."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads"
    )


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available_memory(cgroups: Path = CGROUPS, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that another process could take: of the node, bounded by what the container's limit leaves.

    Files in the page cache count as free; the kernel drops them first.
    """
    kilobytes = {line.split(":")[0]: line.split()[1] for line in meminfo.read_text().splitlines()}
    available = 1024 * int(kilobytes["MemAvailable"])
    try:
        limit = (cgroups / "memory.max").read_text().strip()
        held = dict(line.split() for line in (cgroups / "memory.stat").read_text().splitlines())
    except OSError:
        return available
    if limit == "max":
        return available
    return max(0, min(available, int(limit) - int(held.get("anon", 0)) - int(held.get("shmem", 0))))


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on the device; on a CPU those of `available_memory`."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_memory()


def gpu_peak_memory() -> int:
    """Peak memory on the GPU, in bytes; 0 without one."""
    return (
        torch.cuda.max_memory_allocated() if torch.cuda.is_available() and torch.cuda.is_initialized() else 0
    )
