"""Tiny models of every architecture whose sizes the formats take, and artifacts of them as float models."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.support.decoder_families import FAMILIES, UNKNOWN, VOCABULARY, make_model
from tests.support.engine import edit_tensors
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.calibration.tokens import TokenBatches
from quantizer.decoder.architecture import ModuleNames
from quantizer.evaluation.views import View
from quantizer.formats.interface import WeightFormat
from quantizer.formats.reading import stored_format

GROUP = 16
MULTIPLES: dict[str, dict[str, Any]] = {
    "gpt2, scaled by layer": {"n_inner": 48},
    "bloom, 6 heads": {"hidden_size": 48},
    "qwen3_moe": {"moe_intermediate_size": 32},
    "qwen3_moe, all sparse, normalized": {"moe_intermediate_size": 32},
    "qwen2_moe": {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 48},
    "gptj": {"n_inner": 48},
}
"""What makes the sizes of tests.support.decoder_families multiples of GROUP."""


def save_family(name: str, target: Path, seed: int = 0, **changes: Any) -> ModuleNames | None:
    """Writes a random model of an architecture in float32; the module names that it needs."""
    model_type, fields, *names = FAMILIES[name] if name in FAMILIES else UNKNOWN[name]
    make_model(model_type, {**fields, **MULTIPLES.get(name, {}), **changes}, seed).save_pretrained(target)
    return names[0] if names else None


CASE_OF = {
    "mistral": "mistral, short window",
    "gemma3_text": "gemma3",
    "gpt_neox": "gpt_neox, parallel",
    "phi": "phi, head with a bias",
    "granite": "granite, scaled logits",
}
"""Model type -> its case in tests.support.decoder_families, where that has another name."""
WIDE = {
    "hidden_size": 64, "intermediate_size": 96, "ffn_dim": 96, "head_dim": 16, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64, "n_embd": 64, "n_inner": 96,
}  # fmt: skip
"""Sizes that groups of 32 and the kernels of other software divide."""
UNLIKE = ("gemma2", "gemma3", "qwen2_moe", "qwen3_moe")
"""Cases whose layers differ from one another."""


def save_wide(case: str, target: Path, **changes: Any) -> None:
    """Writes a random model in float16, with a tokenizer: in the sizes of WIDE, and of as few layers as show all."""
    fields = (FAMILIES.get(case) or UNKNOWN[case])[1]
    sizes = {name: size for name, size in WIDE.items() if name in fields}
    layers = "n_layer" if "n_layer" in fields else "num_hidden_layers"
    save_family(case, target, **{**sizes, layers: 2 if case in UNLIKE else 1, **changes})
    to_half(target)
    save_tokenizer(target)


def family_batches(sequences: int = 24, length: int = 23, seed: int = 3) -> TokenBatches:
    """Random tokens, longer than the sliding windows."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (sequences, length), generator=generator)
    return TokenBatches(tuple(tokens), batch_tokens=8 * length)


def as_float(artifact: Path, target: Path, by_inputs: bool = False) -> None:
    """Writes an artifact as the float32 checkpoint that a reader of its format computes with.

    by_inputs: linears lie [K, N] in the checkpoint (gpt2's Conv1D), and not [N, K].
    """
    config = json.loads((artifact / "config.json").read_text())
    stored: dict[str, Tensor] = {}
    for path in sorted(artifact.glob("*.safetensors")):
        stored |= load_file(path)
    layout = stored_format(config).format
    weights: dict[str, Tensor] = {}
    for name in [key for key in stored if key.endswith(f".{layout.tensors[0]}")]:
        linear = name.rpartition(".")[0]
        parts = {part: stored.pop(f"{linear}.{part}") for part in layout.tensors}
        own = layout.of(linear)
        weight = own.as_read(own.unpack(linear, parts)).float()
        weights[f"{linear}.weight"] = weight.t().contiguous() if by_inputs else weight
    del config["quantization_config"]
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    weights |= {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()
    }
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def transformers_logits(folder: Path, tokens: Tensor, auto: Any = AutoModelForCausalLM) -> Tensor:
    """Logits [batch, tokens, vocabulary] of transformers' whole model on a float checkpoint.

    auto: transformers' class that knows the model's.
    """
    model, report = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] - set(getattr(model, "all_tied_weights_keys", {}) or {}), report
    assert not report["mismatched_keys"], report
    with torch.inference_mode():
        logits: Tensor = model.train(False)(input_ids=tokens, use_cache=False).logits
    return logits


def view_logits(view: View, tokens: Tensor) -> Tensor:
    """The same of the evaluation's own forward pass, layer by layer."""
    model = view.model
    with torch.inference_mode():
        hidden = next(model.embed([tokens]))
        for layer in view.layers():
            hidden = layer.forward(hidden)
        return model.logits(
            model.final(hidden), 0, model.layout.reader.tensor(model.layout.head_name()).float()
        )


def to_half(folder: Path) -> None:
    """Stores a float checkpoint of one file in float16."""
    edit_tensors(folder, lambda tensors: tensors.update({name: t.half() for name, t in tensors.items()}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of a few words, for software that does not load a model without one."""
    words = {
        word: number for number, word in enumerate(("<unk>", "<s>", "</s>", "once", "upon", "a", "time"))
    }
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    ).save_pretrained(folder)


def unpacked(artifact: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Integers [N, K] and zero points [N, G] of every packed linear, by its name."""
    _, linears = _packed(artifact)
    return {name: (back.integers, back.zeros) for name, back in linears}


def as_read(artifact: Path) -> dict[str, Tensor]:
    """The weights [N, K] float32 that a reader of the format computes for every packed linear, by its name."""
    layout, linears = _packed(artifact)
    return {name: layout.of(name).as_read(back).float() for name, back in linears}


def _packed(artifact: Path) -> tuple[WeightFormat, Iterator[tuple[str, QuantizedWeight]]]:
    layout = stored_format(json.loads((artifact / "config.json").read_text())).format
    stored: dict[str, Tensor] = {}
    for path in sorted(artifact.glob("*.safetensors")):
        stored |= load_file(path)
    names = [key.rpartition(".")[0] for key in stored if key.endswith(f".{layout.tensors[0]}")]
    parts = ((name, {part: stored[f"{name}.{part}"] for part in layout.tensors}) for name in names)
    return layout, ((name, layout.of(name).unpack(name, tensors)) for name, tensors in parts)
