"""The models that are quantized: a directory as it is, or random weights of a published shape.

Every engine reads the same directory. Its config.json is in words that transformers 4 and 5 both understand, because
version 4 would ignore rope_parameters and compute another model.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CACHE = Path(os.environ.get("QUANTIZATION_CACHE_DIR", Path.home() / ".cache/quantization-operator")) / "bench"
DEVIATION = 0.02  # of random weights; the initializer_range of the families below


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama. The vocabulary is the tokenizer's: nobody quantizes the embedding or the head."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    rope_theta: float = 500000.0


SHAPES: dict[str, Shape] = {
    "llama-3-1b": Shape(2048, 8192, 16, 32, 8),
    "llama-3-8b": Shape(4096, 14336, 32, 32, 8),
    "llama-3-70b": Shape(8192, 28672, 80, 64, 8),
    "llama-3-405b": Shape(16384, 53248, 126, 128, 8),
    "tiny": Shape(256, 512, 2, 4, 2),
}


def portable_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json with the rotary embedding and the dtype in the words of transformers 4 beside those of 5."""
    both = dict(config)
    rope = dict(config.get("rope_parameters") or {})
    if "rope_theta" in rope:
        both["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", "default") != "default":
        both["rope_scaling"] = rope
    if "dtype" in config:
        both["torch_dtype"] = config["dtype"]
    return both


def shaped_config(shape: Shape, vocabulary: int, positions: int) -> dict[str, Any]:
    """config.json of a Llama of that shape; embedding and head are one, so that they cost memory once."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.hidden // shape.heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "rope_theta": shape.rope_theta,
        "max_position_embeddings": positions,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": DEVIATION,
        "torch_dtype": "bfloat16",
    }


def layer_tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a decoder layer."""
    kv = shape.key_value_heads * (shape.hidden // shape.heads)
    return {
        "input_layernorm.weight": (shape.hidden,),
        "self_attn.q_proj.weight": (shape.hidden, shape.hidden),
        "self_attn.k_proj.weight": (kv, shape.hidden),
        "self_attn.v_proj.weight": (kv, shape.hidden),
        "self_attn.o_proj.weight": (shape.hidden, shape.hidden),
        "post_attention_layernorm.weight": (shape.hidden,),
        "mlp.gate_proj.weight": (shape.intermediate, shape.hidden),
        "mlp.up_proj.weight": (shape.intermediate, shape.hidden),
        "mlp.down_proj.weight": (shape.hidden, shape.intermediate),
    }


def random_model(shape: Shape, tokenizer: Path, vocabulary: int, positions: int) -> Path:
    """A directory in the cache with random bf16 weights of that shape, one shard a layer; written once.

    Each shard has a generator of its own, seeded with its number, so that the weights depend on nothing else.
    """
    config = shaped_config(shape, vocabulary, positions)
    key = hashlib.sha256(json.dumps([asdict(shape), config], sort_keys=True).encode()).hexdigest()[:12]
    target = CACHE / f"models/{shape.hidden}x{shape.layers}-{key}"
    if (target / "config.json").exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    groups = [{"model.embed_tokens.weight": (vocabulary, shape.hidden), "model.norm.weight": (shape.hidden,)}]
    for layer in range(shape.layers):
        groups.append({f"model.layers.{layer}.{name}": size for name, size in layer_tensors(shape).items()})
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups):
        generator = torch.Generator().manual_seed(number)
        name = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        save_file(
            {key: _random(size, generator) for key, size in group.items()}, target / name, {"format": "pt"}
        )
        weight_map |= dict.fromkeys(group, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    for file in tokenizer.glob("tokenizer*"):
        shutil.copyfile(file, target / file.name)
    (target / "config.json").write_text(
        json.dumps(config, indent=2)
    )  # last: a model without it is written anew
    return target


def _random(size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Norms are ones; bf16 is made slice by slice, so that no float32 copy of an embedding exists."""
    tensor = torch.ones(size, dtype=torch.bfloat16)
    if len(size) == 1:
        return tensor
    for rows in tensor.split(1024):
        rows.copy_(torch.randn(rows.shape, generator=generator) * DEVIATION)
    return tensor


def portable_copy(model: Path, target: Path) -> Path:
    """The model's directory with links to its files and a portable config.json."""
    target.mkdir(parents=True)
    for file in model.iterdir():
        if file.name != "config.json":
            (target / file.name).symlink_to(file.resolve())
    config = json.loads((model / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(portable_config(config), indent=2))
    return target
