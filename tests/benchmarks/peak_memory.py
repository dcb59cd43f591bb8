"""Peak memory of a whole run beside what it must hold: python tests/benchmarks/peak_memory.py

    import        resident set after the engine, torch and transformers are imported
    layer         parameters of one decoder layer in the computation dtype
    Hessians      the Gram matrices that exist together, and the factor of the largest
    batch         one batch at the widest point of a layer (inputs and outputs of the MLP, attention scores
                  are never held)

The run is `quantizer run -f MANIFEST`, the command of the pod, from the check of the inputs to the report and
the manifest; its peak is what the kernel counted when the process has ended. Besides these parts it holds the
next layer in the checkpoint's dtype, which is read meanwhile, and the copies of the linears that are being
solved; the bound leaves 30 % for them and for the allocator.

Measured are the example model with the demo's texts, and a random model that is wide enough for the layer not to
be lost in the import.

Depth: two random models that differ in their number of layers only, with the same manifest, for GPTQ, for AWQ and for
GPTQ that fits whole layers, whose gradients are those of one layer; their peaks must agree within 5 %, for no more than
a few layers exist at any time (--only depth: nothing else; --pass: one of them).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "deploy/examples"
BOUND = 1.3
DEPTH_HIDDEN, DEPTH_INTERMEDIATE = 512, 1408
DEPTH_BOUND = 0.05
PASSES: dict[str, dict[str, object]] = {
    "GPTQ": {"type": "GptqQuantizer", "group_size": 32},
    "AWQ": {"type": "AutoAWQQuantizer", "q_group_size": 32},
    "GPTQ, layers fitted": {"type": "GptqQuantizer", "group_size": 32, "refine": "best"},
}
DEPTHS = {"GPTQ": (4, 40), "AWQ": (4, 40), "GPTQ, layers fitted": (4, 12)}
"""Layers of the two models; a layer that is fitted takes half a minute."""
MEGABYTE = 1e6

PARTS = """
import json, sys
from pathlib import Path
import quantizer.run.workflow
import torch
from quantizer.calibration.tokens import BATCH_TOKENS
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from transformers.models.llama import modeling_llama

torch.ones(2, 2) @ torch.ones(2, 2)
lines = Path("/proc/self/status").read_text().splitlines()
imported = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
model_path, true_sequential = json.loads(sys.argv[1])
source = DirectorySource(Path(model_path))
layout = DecoderLayout.open(source)
shapes = layout.layer_shapes(0)
names = [shared.names[0] for stage in layout.stages() for shared in stage.shared_inputs]
grams = [4 * shapes[name + ".weight"][1] ** 2 for name in names]
inner = max(shapes["mlp.gate_proj.weight"][0], shapes["self_attn.q_proj.weight"][0])
print(json.dumps({
    "import": imported,
    "layer": 4 * sum(torch.Size(shape).numel() for shape in shapes.values()),
    "Hessians": (max(grams) if true_sequential else sum(grams)) + max(grams),
    "batch": 4 * BATCH_TOKENS * (2 * layout.width + 3 * inner),
}))
"""

MAKE_MODEL = """
import json, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
path, hidden, intermediate, layers = json.loads(sys.argv[1])
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=32000, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
    num_attention_heads=hidden // 64, num_key_value_heads=max(1, hidden // 256), max_position_embeddings=4096,
    tie_word_embeddings=True,
)
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
"""


def manifest(model: Path, target: Path, sequences: int, layer_pass: dict[str, object]) -> dict[str, Any]:
    """A job that calibrates and measures on the example texts."""

    def text(name: str, samples: int) -> dict[str, Any]:
        return {
            "name": name,
            "load_dataset_config": {"data_name": str(EXAMPLES / f"text/tinystories-{name}.txt")},
            "pre_process_data_config": {"max_seq_len": 256, "max_samples": samples},
        }

    metrics = [{"name": "ppl", "type": "perplexity", "data_config": "validation"}]
    return {
        "apiVersion": "quantization.dev/v1alpha1",
        "kind": "QuantizationJob",
        "metadata": {"name": "peak-memory"},
        "spec": {
            "workflow": {
                "input_model": {"model_path": str(model)},
                "data_configs": [text("calibration", sequences), text("validation", sequences // 2)],
                "passes": [{"data_config": "calibration", **layer_pass}],
                "evaluators": [{"name": "quality", "metrics": metrics}],
                "evaluator": "quality",
            },
            "output": {"uri": f"file://{target}"},
        },
    }


def run(command: list[str], log: Path) -> int:
    """Runs a command; its peak resident set in bytes, as the kernel counted it."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-4000:]}")
    return usage.ru_maxrss * 1024


def make_model(path: Path, hidden: int, intermediate: int, layers: int) -> None:
    """Writes a random Llama in bfloat16, in a process of its own, with the example's tokenizer."""
    sizes = json.dumps([str(path), hidden, intermediate, layers])
    subprocess.run([sys.executable, "-c", MAKE_MODEL, sizes], check=True, capture_output=True)
    for file in (EXAMPLES / "stories15m").glob("tokenizer*"):
        shutil.copy(file, path)


def peak(folder: Path, model: Path, sequences: int, layer_pass: dict[str, object]) -> int:
    """Peak resident set of one run, in bytes."""
    job, target = folder / "job.yaml", folder / "artifact"
    job.write_text(yaml.safe_dump(manifest(model, target, sequences, layer_pass)))
    command = [sys.executable, "-m", "quantizer", "run", "-f", str(job), "--device", "cpu"]
    found = run(command, folder / "log.txt")
    shutil.rmtree(target)
    return found


def measure(folder: Path, model: Path, sequences: int, true_sequential: bool) -> dict[str, int]:
    """One run in a process of its own: bytes by part."""
    request = json.dumps([str(model), true_sequential])
    found = subprocess.run([sys.executable, "-c", PARTS, request], check=True, capture_output=True, text=True)
    parts: dict[str, int] = json.loads(found.stdout.splitlines()[-1])
    layer_pass = {**PASSES["GPTQ"], "true_sequential": true_sequential}
    parts["peak"] = peak(folder, model, sequences, layer_pass)
    return parts


def show(title: str, parts: dict[str, int]) -> float:
    """Prints the parts and the ratio, and returns it."""
    peak = parts["peak"]
    needed = sum(size for name, size in parts.items() if name != "peak")
    print(title)
    for name, size in parts.items():
        if name != "peak":
            print(f"  {name:10s} {size / MEGABYTE:9.1f} MB")
    print(f"  {'sum':10s} {needed / MEGABYTE:9.1f} MB")
    print(f"  {'peak':10s} {peak / MEGABYTE:9.1f} MB = {peak / needed:.2f} x sum (bound {BOUND})", flush=True)
    return peak / needed


def compare_depths(folder: Path, sequences: int, names: list[str]) -> bool:
    """Prints the peaks by depth, and whether they agree."""
    models = {layers: folder / f"{layers}-layers" for name in names for layers in DEPTHS[name]}
    for layers, model in models.items():
        make_model(model, DEPTH_HIDDEN, DEPTH_INTERMEDIATE, layers)
    agree = True
    for name in names:
        shallow, deep = (peak(folder, models[layers], sequences, PASSES[name]) for layers in DEPTHS[name])
        ratio = deep / shallow
        agree = agree and abs(ratio - 1) <= DEPTH_BOUND
        print(f"{name}, peak by depth")
        for layers, found in zip(DEPTHS[name], (shallow, deep), strict=True):
            print(f"  {layers:3d} layers {found / MEGABYTE:9.1f} MB")
        print(
            f"  {'ratio':10s} {ratio:9.3f} (bound {1 - DEPTH_BOUND:.2f} to {1 + DEPTH_BOUND:.2f})", flush=True
        )
    return agree


def compare_parts(folder: Path, options: argparse.Namespace) -> bool:
    """Prints the peaks beside the parts, and whether they stay in the bound."""
    models = [options.model] if options.model else [EXAMPLES / "stories15m", folder / "model"]
    if not options.model:
        make_model(models[1], options.hidden, options.intermediate, options.layers)
    ratios = []
    for model in models:
        for true_sequential in (True, False):
            parts = measure(folder, model, options.sequences, true_sequential)
            title = f"{model.name}, true_sequential {str(true_sequential).lower()}"
            ratios.append(show(title, parts))
    return max(ratios) <= BOUND


def main() -> None:
    """Measures, prints, and ends with 1 when a bound is passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="directory of a model to measure instead of the two")
    parser.add_argument("--hidden", type=int, default=2048, help="of the random model")
    parser.add_argument("--intermediate", type=int, default=5632)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=16, help="of 256 tokens, to calibrate with")
    parser.add_argument("--only", choices=("parts", "depth"), help="one of the two measures")
    parser.add_argument(
        "--pass", dest="chosen", choices=PASSES, help="the one whose peaks are compared by depth"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        within = []
        if options.only != "depth":
            within.append(compare_parts(folder, options))
        if options.only != "parts" and not options.model:
            within.append(
                compare_depths(folder, options.sequences, [options.chosen] if options.chosen else [*PASSES])
            )
    sys.exit(0 if all(within) else 1)


if __name__ == "__main__":
    main()
