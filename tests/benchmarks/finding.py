"""What finding the structure of large models costs: python tests/benchmarks/finding.py

    seconds   of CPU time, from a config.json to the shapes and stages of every layer
    MB        peak resident set above that of the imports

Configurations are those of published models, with their real widths; no checkpoint is there, and its names are the
model's own. Each runs in a process of its own; the command ends with 1 when one of them passes a bound.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

SECONDS, MEGABYTES = 5.0, 500.0

MOE = {"num_experts": 128, "num_experts_per_tok": 8}
MODELS: dict[str, dict[str, Any]] = {
    "70B, dense": {
        "model_type": "olmo2",
        "architectures": ["Olmo2ForCausalLM"],
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "DeepSeek-V3": {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]},
    "Kimi-K2": {
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        "n_routed_experts": 384,
        "num_attention_heads": 64,
        "num_key_value_heads": 64,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "vocab_size": 163840,
    },
    "Qwen3-235B-A22B": {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 94,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 151936,
        **MOE,
    },
    "gpt-oss-120b": {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]},
    "GLM-4.5": {
        "model_type": "glm4_moe",
        "architectures": ["Glm4MoeForCausalLM"],
        "hidden_size": 5120,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 92,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "n_routed_experts": 160,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "vocab_size": 151552,
    },
    "Llama-4-Maverick": {
        "model_type": "llama4_text",
        "architectures": ["Llama4ForCausalLM"],
        "num_local_experts": 128,
        "interleave_moe_layer_step": 2,
        "vocab_size": 202048,
    },
    "Qwen3-Next-80B": {"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"]},
}
"""What a config.json has beside the defaults of its type, which are those of the published model."""

FIND = """
import json, resource, sys, time
from types import SimpleNamespace
import torch
from quantizer.decoder.layout import DecoderLayout

class Names(dict):  # none is looked up; as many as any config can ask for
    def __len__(self):
        return 10**9

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

given = json.loads(sys.argv[1])
imported, started = peak(), time.process_time()
layout = DecoderLayout(SimpleNamespace(tensors=Names(), dtype=torch.bfloat16), given)
linears = sum(len(layout.linear_shapes(index)) for index in range(layout.layers))
print(json.dumps([layout.layers, linears, time.process_time() - started, peak() - imported]))
"""


def measure(config: dict[str, Any]) -> tuple[int, int, float, float]:
    """Layers, linears, seconds and megabytes of a config."""
    command = [sys.executable, "-c", FIND, json.dumps(config)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    layers, linears, seconds, megabytes = json.loads(found.stdout.splitlines()[-1])
    return layers, linears, seconds, megabytes


def main() -> None:
    """Measures, prints a table, and ends with 1 when a bound is passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=MODELS, action="append", help="one of the models; may be repeated")
    names = parser.parse_args().only or [*MODELS]
    within = True
    print(f"| model | layers | linears | seconds (at most {SECONDS:.0f}) | MB (at most {MEGABYTES:.0f}) |")
    print("|---|---|---|---|---|")
    for name in names:
        layers, linears, seconds, megabytes = measure(MODELS[name])
        within = within and seconds < SECONDS and megabytes < MEGABYTES
        print(f"| {name} | {layers} | {linears:,} | {seconds:.1f} | {megabytes:.0f} |", flush=True)
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
