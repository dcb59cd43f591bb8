"""Artifacts whose bytes are known: what each pass makes of small models, as digests that are committed.

Run as a script, it records this machine's digests beside those of others: `python -m tests.support.golden`.

Digests hold for one kind of processor: kinds that sum in another order round a few weights otherwise (see
quantization_api.recipe). What no sum decides - which files there are, their sizes, the JSON files, the headers of the
safetensors - holds everywhere.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tests.support.engine import (
    awq_pass,
    gptq_pass,
    make_pass,
    quarot_pass,
    random_batches,
    run_layers,
    save_tiny,
    store_in,
)
from tests.support.quantized_models import family_batches, save_family
from tests.support.quantizer_requests import Request, run_here

from quantization_api import ENGINE_VERSION
from quantization_api.manifest import MODEL_PREFIX
from quantization_api.passes import GptqQuantizer, QuaRot
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import DirectorySource
from quantizer.passes.weight_pass import WeightParameters

RECORD = Path(__file__).parents[1] / "unit/quantizer/golden_bytes.json"
RECORD_COMMAND = "python -m tests.support.golden"

Digests = dict[str, str]
"""Of each file, by its name."""


def rotation() -> QuaRot:
    """QuaRot that rounds nothing."""
    return quarot_pass(w_gptq=False, w_bits=16, calibration_data_config=None, input_model_dtype="fp32")


TINY: dict[str, Callable[[], WeightParameters]] = {
    "gptq": lambda: gptq_pass(group_size=32),
    "gptq, sym": lambda: gptq_pass(group_size=32, sym=True),
    "gptq, sym, act order": lambda: gptq_pass(group_size=32, sym=True, desc_act=True),
    "gptq, act order, static groups, 8 bits": lambda: gptq_pass(
        group_size=32, bits=8, desc_act=True, static_groups=True
    ),
    "gptq, 3 bits, whole rows": lambda: gptq_pass(group_size=-1, bits=3),
    "gptq, true sequential, v2": lambda: gptq_pass(
        group_size=32, true_sequential=True, checkpoint_format="gptq_v2"
    ),
    "gptq, compressed-tensors, fp32": lambda: gptq_pass(
        group_size=32, sym=True, checkpoint_format="compressed-tensors", calibration_dtype="fp32"
    ),
    "gptq, not refined": lambda: gptq_pass(group_size=32, refine="none"),
    "gptq, layers fitted": lambda: gptq_pass(group_size=32, sym=True, refine="best"),
    "awq, gemm": lambda: awq_pass(q_group_size=32),
    "awq, gemv": lambda: awq_pass(q_group_size=64, version="gemv"),
    "awq, gemv_fast": lambda: awq_pass(q_group_size=128, version="gemv_fast"),
    "awq, marlin": lambda: awq_pass(q_group_size=128, version="marlin", zero_point=False),
    "awq, activations alone, one left out": lambda: awq_pass(
        q_group_size=32, duo_scaling=False, modules_to_not_convert=["down_proj"]
    ),
    "awq, compressed-tensors, 3 bits": lambda: awq_pass(
        q_group_size=32, bits=3, checkpoint_format="compressed-tensors"
    ),
    "quarot": lambda: quarot_pass(),
    "quarot, compressed-tensors": lambda: quarot_pass(w_groupsize=32, checkpoint_format="compressed-tensors"),
    "quarot, groups, scales": lambda: quarot_pass(w_groupsize=32, gptq_opt_scales=True),
    "quarot, round to nearest": lambda: quarot_pass(
        w_gptq=False, w_rtn=True, calibration_data_config=None, rotation_seed=3
    ),
    "quarot, activations and cache": lambda: quarot_pass(a_bits=4, k_bits=4, v_bits=4),
    "quarot, rotation alone": lambda: rotation(),
}
"""Passes on a tiny Llama."""

ROTATED: dict[str, Callable[[], GptqQuantizer]] = {
    "quarot, then gptq": lambda: gptq_pass(group_size=32),
    "quarot, then gptq, compressed-tensors, 3 bits": lambda: gptq_pass(
        group_size=32, bits=3, checkpoint_format="compressed-tensors"
    ),
}
"""What follows the rotation of a tiny Llama."""

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 8,
    "head_dim": 64,
    "num_key_value_heads": 4,
}
"""The least that the kernels of every format divide, with grouped-query attention."""

BFLOAT16: dict[str, Callable[[], WeightParameters]] = {
    "gptq": lambda: gptq_pass(group_size=32),
    "awq": lambda: awq_pass(q_group_size=32),
    "quarot": lambda: quarot_pass(),
}
"""Passes on the same Llama in bfloat16."""

FAMILIES = ("qwen3_moe", "gemma3", "gpt2, scaled by layer", "opt", "phi3")
"""Architectures whose layers differ in kind: experts, windows, transposed weights, biases, fused linears."""

FAMILY_PASSES: dict[str, Callable[[], WeightParameters]] = {
    "gptq": lambda: gptq_pass(group_size=16),
    "gptq, layers fitted": lambda: gptq_pass(group_size=16, refine="best"),
    "awq": lambda: awq_pass(q_group_size=16),
}


def machine() -> str:
    """The kind of processor that sums as this one does, and the torch that lets it."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    words = [facts.get(name, "?") for name in ("vendor_id", "cpu family", "model")]
    version = torch.__version__.partition("+")[0]
    return f"{'/'.join(words)}, {torch.backends.cpu.get_cpu_capability()}, torch {version}"


def artifacts(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each case by its name, with the folder of the checkpoint that it made."""
    with _one_thread():
        yield "the example", _example(folder / "example")
        save_tiny(folder / "tiny", **SIZES)
        for name, make in TINY.items():
            yield name, _quantized(folder / "tiny", random_batches(), folder / name, make())
        for name, behind in ROTATED.items():
            yield name, _quantized(folder / "tiny", random_batches(), folder / name, rotation(), behind())
        save_tiny(folder / "bfloat16", **SIZES)
        store_in(folder / "bfloat16", torch.bfloat16)
        for name, make in BFLOAT16.items():
            case = f"bfloat16: {name}"
            yield case, _quantized(folder / "bfloat16", random_batches(), folder / case, make())
        for family in FAMILIES:
            model = folder / family
            save_family(family, model)
            for name, make in FAMILY_PASSES.items():
                case = f"{family}: {name}"
                yield case, _quantized(model, family_batches(), folder / case, make())


def digests(checkpoint: Path) -> Digests:
    """sha256 of every file below a folder."""
    return {
        path.relative_to(checkpoint).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }


def layouts(checkpoint: Path) -> Digests:
    """The same of what no sum decides: a safetensors file counts as its header and its size, others as they are."""
    found = digests(checkpoint)
    for name in found:
        if name.endswith(".safetensors"):
            data = (checkpoint / name).read_bytes()
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length])
            found[name] = hashlib.sha256(json.dumps([len(data), header], sort_keys=True).encode()).hexdigest()
    return found


def record() -> None:
    """Writes what this machine makes into the committed file; other machines' digests stay while bits do."""
    before = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    kept = before.get("digests", {}) if before.get("engine") == ENGINE_VERSION else {}
    made: dict[str, Digests] = {}
    everywhere: dict[str, Digests] = {}
    with tempfile.TemporaryDirectory() as name:
        for case, checkpoint in artifacts(Path(name)):
            made[case], everywhere[case] = digests(checkpoint), layouts(checkpoint)
    document = {"engine": ENGINE_VERSION, "layouts": everywhere, "digests": {**kept, machine(): made}}
    RECORD.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def _example(folder: Path) -> Path:
    ended = run_here(Request(output=f"file://{folder}/out", metrics=[]), folder / "scratch")
    assert ended.code == 0, ended.log
    return folder / "out" / MODEL_PREFIX


def _quantized(model: Path, tokens: TokenBatches, target: Path, *passes: WeightParameters) -> Path:
    run_layers(DirectorySource(model), tokens, make_pass(*passes), target, target.with_name("scratch"))
    return target


@contextmanager
def _one_thread() -> Iterator[Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    record()
    print(f"recorded {machine()} in {RECORD}")
