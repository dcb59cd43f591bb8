"""The example model and text as the engine takes them, and runs of it into a directory."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.support.tokens import make_batches, save_byte_tokenizer, tokenizer_of
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer, QuaRot
from quantizer.calibration.text import read_rows
from quantizer.calibration.tokens import Preprocess, TokenBatches
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.side_files import json_file, with_dtype
from quantizer.checkpoint.source import DirectorySource, Source
from quantizer.decoder.architecture import ModuleNames
from quantizer.decoder.layout import DecoderLayout, read_config
from quantizer.passes.finished import Finished
from quantizer.passes.interface import LayerPass
from quantizer.passes.making import weight_pass
from quantizer.passes.streaming import OnProgress, quantize
from quantizer.passes.weight_pass import WeightParameters

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "deploy/examples"
STORIES = EXAMPLES / "stories15m"
CALIBRATION = EXAMPLES / "text/tinystories-calibration.txt"
VALIDATION = EXAMPLES / "text/tinystories-validation.txt"
CPU = torch.device("cpu")


def ignore_progress(_stage: str, _done: int, _total: int) -> None:
    """A progress callback for tests that do not look."""


def copier(target: Path) -> Callable[[str, Path], None]:
    """A sink that copies into a directory."""
    target.mkdir(parents=True, exist_ok=True)

    def sink(name: str, path: Path) -> None:
        shutil.copyfile(path, target / name)

    return sink


def gptq_pass(**parameters: Any) -> GptqQuantizer:
    """A GPTQ pass of the contract, calibrated with the data config "text"."""
    return GptqQuantizer.model_validate({"type": "GptqQuantizer", "data_config": "text", **parameters})


def awq_pass(**parameters: Any) -> AutoAWQQuantizer:
    """An AWQ pass of the contract, calibrated with the data config "text"."""
    return AutoAWQQuantizer.model_validate({"type": "AutoAWQQuantizer", "data_config": "text", **parameters})


def quarot_pass(**parameters: Any) -> QuaRot:
    """A QuaRot pass of the contract that rounds weights to 4 bits with GPTQ, calibrated with "text"."""
    gptq = {"w_gptq": True, "w_bits": 4, "calibration_data_config": "text"}
    return QuaRot.model_validate({"type": "QuaRot", **gptq, **parameters})


def make_pass(*parameters: WeightParameters) -> LayerPass:
    """What rounds the weights, as the streaming loop runs it; see WeightPass.layer_pass."""
    return weight_pass(*parameters).layer_pass


def story_batches(text: Path, samples: int, scratch: Path, length: int = 256) -> TokenBatches:
    """Sequences of one of the example texts, tokenized for the example model."""
    tokenizer = tokenizer_of(DirectorySource(STORIES), scratch)
    preprocess = Preprocess(max_seq_len=length, max_samples=samples)
    rows = read_rows(text.read_bytes(), text.name)
    return make_batches(rows, tokenizer, preprocess, vocabulary=32000, max_positions=256)


def run_layers(
    source: Source,
    tokens: TokenBatches,
    layer_pass: LayerPass,
    target: Path,
    scratch: Path,
    *,
    modules: ModuleNames | None = None,
    finished: Finished | None = None,
    on_progress: OnProgress = ignore_progress,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 10**9,
) -> QuantizeReport:
    """Quantizes into a directory, with a pass as the streaming loop takes it."""
    scratch.mkdir(parents=True, exist_ok=True)
    sink = copier(target)
    return quantize(
        DecoderLayout.open(source, modules), tokens, layer_pass, sink, on_progress, CPU, scratch,
        finished=finished, dtype=dtype, max_shard_bytes=max_shard_bytes,
    )  # fmt: skip


def run_pass(
    source: Source,
    tokens: TokenBatches,
    target: Path,
    scratch: Path,
    *,
    max_shard_bytes: int = 10**9,
    **parameters: Any,
) -> QuantizeReport:
    """Quantizes into a directory with GPTQ."""
    layer_pass = make_pass(gptq_pass(**parameters))
    return run_layers(source, tokens, layer_pass, target, scratch, max_shard_bytes=max_shard_bytes)


def tiny_config(**changes: Any) -> LlamaConfig:
    """A Llama of two small layers with grouped-query attention."""
    values: dict[str, Any] = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaConfig(**{**values, **changes})


def save_tiny(target: Path, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Writes a random tiny model with transformers itself, and returns it."""
    torch.manual_seed(seed)
    model: LlamaForCausalLM = LlamaForCausalLM(tiny_config(**changes))
    model.train(False)
    model.save_pretrained(target)
    return model


def store_in(model: Path, dtype: torch.dtype) -> None:
    """Stores a model that transformers wrote in another type."""

    def convert(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: value.to(dtype) for name, value in tensors.items()})

    edit_tensors(model, convert)
    (model / "config.json").write_bytes(json_file(with_dtype(read_config(DirectorySource(model)), dtype)))


def save_tiny_reader(target: Path, **changes: Any) -> None:
    """Writes a tiny model with a tiny tokenizer: a run of it takes a fraction of the example's time."""
    tokens = save_byte_tokenizer(target)
    save_tiny(target, **{"vocab_size": tokens, "tie_word_embeddings": True, **changes})


def save_checkpoint(target: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Writes config.json and one safetensors file."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(config))
    save_file(tensors, target / "model.safetensors")


def random_batches(
    sequences: int = 16, length: int = 32, vocabulary: int = 96, seed: int = 1
) -> TokenBatches:
    """Random tokens, a few sequences in a batch."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocabulary, (sequences, length), generator=generator)
    return TokenBatches(tuple(tokens), batch_tokens=4 * length)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a directory."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    """Changes the tensors of a checkpoint of one file."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
