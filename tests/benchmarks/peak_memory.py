"""Peak memory of a quantization run beside what it must hold: python tests/benchmarks/peak_memory.py

    import        resident set after the engine, torch and transformers are imported
    layer         parameters of one decoder layer in the computation dtype
    Hessians      the Gram matrices that exist together, and the factor of the largest
    batch         one batch at the widest point of a layer (inputs and outputs of the MLP, attention scores
                  are never held)

The run is a process of its own, with its peak as the kernel counts it (VmHWM). Besides these parts it
holds the next layer in the checkpoint's dtype, which is read meanwhile, and the copies of the linears
that are being solved; the bound leaves 30 % for them and for the allocator.

Without a model it makes a random one of the given sizes, so that the layer is not lost in the import.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOUND = 1.3
MEGABYTE = 1e6

CHILD = """
import json, sys
from pathlib import Path

def resident(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no " + field)

import torch
from quantization_api.passes import GptqQuantizer
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.model import DecoderModel
from quantizer.streaming import quantize
from transformers.models.llama import modeling_llama
torch.ones(2, 2) @ torch.ones(2, 2)
imported = resident("VmRSS")

model_path, scratch, sequences, length, parameters = json.loads(sys.argv[1])
source = DirectorySource(Path(model_path))
model = DecoderModel(source, SafetensorsReader(source), torch.device("cpu"))
shapes = model.layer_shapes()
stages = [shapes[names[0] + ".weight"][1] for names in model.architecture.stages]
generator = torch.Generator().manual_seed(0)
tokens = torch.randint(0, model.vocabulary, (sequences, length), generator=generator)
batches = TokenBatches(tuple(tokens))
layer = 4 * sum(torch.Size(shape).numel() for shape in shapes.values())
grams = [4 * width * width for width in stages]
together = max(grams) if parameters.get("true_sequential") else sum(grams)
batch = max(b.numel() for b in batches.batches())
inner = max(shapes["mlp.gate_proj.weight"][0], shapes["self_attn.q_proj.weight"][0])
quantize(
    source, {"text": batches}, GptqQuantizer.model_validate(parameters), lambda name, path: None,
    lambda *step: None, torch.device("cpu"), Path(scratch),
)
print(json.dumps({
    "import": imported, "layer": layer, "Hessians": together + max(grams),
    "batch": 4 * batch * (2 * model.width + 3 * inner), "peak": resident("VmHWM"),
}))
"""

MAKE_MODEL = """
import json, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
path, hidden, intermediate, layers = json.loads(sys.argv[1])
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=4096, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
    num_attention_heads=hidden // 64, num_key_value_heads=max(1, hidden // 256), max_position_embeddings=4096,
    tie_word_embeddings=True,
)
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
"""


def measure(
    model: Path, scratch: Path, sequences: int, length: int, parameters: dict[str, object]
) -> dict[str, int]:
    """One run in a process of its own: bytes by part."""
    request = json.dumps([str(model), str(scratch), sequences, length, parameters])
    run = subprocess.run([sys.executable, "-c", CHILD, request], check=True, capture_output=True, text=True)
    parts: dict[str, int] = json.loads(run.stdout.splitlines()[-1])
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
    print(f"  {'peak':10s} {peak / MEGABYTE:9.1f} MB = {peak / needed:.2f} x sum (bound {BOUND})")
    return peak / needed


def main() -> None:
    """Measures, prints, and ends with 1 when the bound is passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="directory of a model; default: a random one")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=5632)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--group-size", type=int, default=32)
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model is None:
            model = Path(folder) / "model"
            sizes = json.dumps([str(model), options.hidden, options.intermediate, options.layers])
            subprocess.run([sys.executable, "-c", MAKE_MODEL, sizes], check=True, capture_output=True)
        for true_sequential in (True, False):
            parameters = {
                "type": "GptqQuantizer",
                "data_config": "text",
                "group_size": options.group_size,
                "true_sequential": true_sequential,
            }
            scratch = Path(folder) / f"scratch-{true_sequential}"
            scratch.mkdir()
            parts = measure(model, scratch, options.sequences, options.length, parameters)
            ratios.append(show(f"true_sequential={str(true_sequential).lower()}", parts))
    sys.exit(0 if max(ratios) <= BOUND else 1)


if __name__ == "__main__":
    main()
