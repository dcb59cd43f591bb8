"""What surrounds the stock packages: which models are refused, what older libraries are shown, what is written."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.engine import (
    CPU,
    ROOT,
    edit_tensors,
    make_pass,
    quarot_pass,
    random_batches,
    save_tiny,
    tiny_config,
)
from torch import nn

from local_cluster.images import RECIPES
from quantization_api.failures import Category, QuantizationError
from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer
from quantizer.checkpoint import older_transformers
from quantizer.checkpoint.older_transformers import (
    OlderConfigs,
    compute_rotary,
    model_config,
    tokenizer_config,
)
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import DirectorySource, read_whole
from quantizer.decoder.model_config import find_architecture
from quantizer.evaluation.views import open_view
from quantizer.implementations import result
from quantizer.implementations.interface import QuantizedModel
from quantizer.implementations.local_model import check_attention, copy_model
from quantizer.implementations.model_types import MODEL_TYPES, check_model
from quantizer.implementations.package import check_held, quantize

pytestmark = pytest.mark.unit

PACKED = ("qweight", "qzeros", "scales", "g_idx")
UP = "model.layers.0.mlp.up_proj"


def pass_of(kind: type[GptqQuantizer] | type[AutoAWQQuantizer], **parameters: Any) -> Any:
    """A pass whose implementation is a package."""
    defaults = {name: item.get_default(call_default_factory=True) for name, item in kind.model_fields.items()}
    implementation = "auto-gptq" if kind is GptqQuantizer else "autoawq"
    own = {"type": kind.__name__, "data_config": "text", "implementation": implementation}
    return kind.model_construct(**{**defaults, **own, **parameters})


def test_a_model_type_that_a_package_does_not_quantize_is_refused_with_those_that_it_does() -> None:
    check_model(pass_of(AutoAWQQuantizer).implementation, "qwen3")
    with pytest.raises(
        QuantizationError, match=r"gpt_neox, llama, mistral, opt, qwen2; this one is of type qwen3"
    ) as caught:
        check_model(pass_of(GptqQuantizer).implementation, "qwen3")
    assert caught.value.category is Category.MODEL_UNSUPPORTED


def test_a_matrix_that_is_lost_in_what_the_package_computes_in_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    edit_tensors(tmp_path / "model", lambda tensors: tensors[f"{UP}.weight"].mul_(1e-8))
    reader = SafetensorsReader(DirectorySource(tmp_path / "model"))
    check_held(reader, torch.float32)
    with pytest.raises(
        QuantizationError, match=f"{UP}.weight has only values that are too small for float16"
    ):
        check_held(reader, torch.float16)


def test_the_legacy_image_knows_the_models_of_all_its_packages() -> None:
    assert {name for names in MODEL_TYPES.values() for name in names} == older_transformers.OLDER_MODEL_TYPES


def test_layers_that_attend_in_several_ways_are_refused() -> None:
    layers = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))
    check_attention(layers)
    for layer, kind in zip(layers, ("full", "full", "sliding"), strict=True):
        layer.attention_type = kind
    check_attention(layers[:2])
    with pytest.raises(QuantizationError, match=r"\(full, sliding\)"):
        check_attention(layers)


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the transformers of the legacy image."""
    monkeypatch.setattr(older_transformers.transformers, "__version__", "4.53.3")


def test_the_legacy_image_refuses_what_it_cannot_compute(older: None, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="QuaRot needs transformers 5") as caught:
        make_pass(quarot_pass())
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    (tmp_path / "config.json").write_text('{"quarot": {}}')
    with pytest.raises(QuantizationError, match="code of its own needs transformers 5"):
        open_view(DirectorySource(tmp_path), CPU)
    assert find_architecture({"model_type": "opt"}) is not None
    with pytest.raises(QuantizationError, match="is for model types gpt_neox, llama, mistral, opt"):
        find_architecture({"model_type": "mixtral"})


def test_what_the_legacy_image_refuses_the_other_computes(tmp_path: Path) -> None:
    assert make_pass(quarot_pass()) is not None
    assert find_architecture({"model_type": "mixtral"}) is not None


def test_rotary_frequencies_are_computed_where_only_the_constructor_does(older: None) -> None:
    config = tiny_config()
    with torch.device("meta"):
        module = OlderRotary(config)
    compute_rotary(module, CPU)
    assert torch.equal(module.inv_freq, OlderRotary(config).inv_freq)
    assert module.original_inv_freq is module.inv_freq
    assert module.attention_scaling == 2.0
    kept = module.inv_freq
    compute_rotary(module, CPU)
    assert module.inv_freq is kept


class OlderRotary(nn.Module):
    """A rotary embedding as transformers 4 has it."""

    inv_freq: torch.Tensor
    original_inv_freq: torch.Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.attention_scaling = config, 1.0
        self.register_buffer("inv_freq", self.rope_init_fn(config, None)[0], persistent=False)
        self.original_inv_freq = self.inv_freq

    @staticmethod
    def rope_init_fn(config: Any, device: torch.device | None) -> tuple[torch.Tensor, float]:
        return 1.0 / torch.arange(1, config.head_dim + 1, device=device), 2.0


def test_rotary_parameters_are_not_lost_on_an_older_transformers() -> None:
    scaled = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}
    older = model_config({"model_type": "llama", "dtype": "bfloat16", "rope_parameters": scaled})
    assert older == {
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    }
    plain = model_config({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})
    assert plain == {"rope_theta": 1e4, "rope_scaling": None}


def test_a_config_in_older_words_is_left_as_it_is() -> None:
    config = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float16"}
    assert model_config(config) == config


def test_rotary_parameters_for_each_kind_of_layer_are_refused() -> None:
    with pytest.raises(QuantizationError, match="each layer type"):
        model_config({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}})


def test_a_tokenizer_is_read_as_its_file_says() -> None:
    config = {"tokenizer_class": "LlamaTokenizer", "extra_special_tokens": ["<a>"], "bos_token": "<s>"}
    assert tokenizer_config(config) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<a>"],
        "bos_token": "<s>",
    }


def test_only_the_configs_are_shown_in_older_words(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"dtype": "float16"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (tmp_path / "notes.txt").write_text("as it is")
    shown = OlderConfigs(DirectorySource(tmp_path))
    assert json.loads(read_whole(shown, "config.json")) == {"torch_dtype": "float16"}
    assert json.loads(read_whole(shown, "tokenizer_config.json")) == {"tokenizer_class": "LlamaTokenizer"}
    assert read_whole(shown, "notes.txt") == b"as it is"
    (tmp_path / "tokenizer.json").write_text("{}")
    shown = OlderConfigs(DirectorySource(tmp_path))
    assert (
        json.loads(read_whole(shown, "tokenizer_config.json"))["tokenizer_class"] == "PreTrainedTokenizerFast"
    )


def test_the_copy_of_a_model_is_what_the_package_reads(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"another format")
    for name in ("adapter_model.safetensors", "consolidated.safetensors", "adapter_config.json"):
        (tmp_path / "model" / name).write_bytes(b"of an adapter, or in another format")
    source = DirectorySource(tmp_path / "model")
    copied = copy_model(source, SafetensorsReader(source).files, tmp_path / "copy")
    assert sorted(path.name for path in copied.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    for path in copied.iterdir():
        assert path.read_bytes() == (tmp_path / "model" / path.name).read_bytes()


class FullScratch(DirectorySource):
    """Stands for a disk that is full: the write that follows each read fails."""

    def read(self, *_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_model_that_does_not_fit_on_scratch_says_how_much_it_needs(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    with pytest.raises(QuantizationError, match=r"a copy of 0\.\d\d GB") as caught:
        copy_model(FullScratch(tmp_path / "model"), ["model.safetensors"], tmp_path / "copy")
    assert caught.value.category is Category.SCRATCH_FULL


def test_an_image_without_the_package_says_so(tmp_path: Path) -> None:
    for kind, module in ((GptqQuantizer, "auto_gptq"), (AutoAWQQuantizer, "awq")):
        with pytest.raises(QuantizationError, match=f"this image has no {module}") as caught:
            quantize(tmp_path, random_batches(), pass_of(kind), tmp_path / "out", lambda *_: None, CPU)
        assert caught.value.category is Category.INVALID_WORKFLOW


def left_by_a_package(folder: Path, **changes: torch.Tensor) -> QuantizedModel:
    """A tiny model as if a package had packed one linear and scaled one norm."""
    save_tiny(folder)
    state = load_file(folder / "model.safetensors")
    rows, columns = state.pop(f"{UP}.weight").shape
    state = {name: tensor.half() for name, tensor in state.items()}
    state["model.layers.0.post_attention_layernorm.weight"] /= 2
    state |= {
        f"{UP}.qweight": torch.ones((columns // 8, rows), dtype=torch.int32),
        f"{UP}.qzeros": torch.ones((columns // 32, rows // 8), dtype=torch.int32),
        f"{UP}.scales": torch.full((columns // 32, rows), 0.01),
        f"{UP}.g_idx": torch.arange(columns) // 32,
        f"{UP}.bias": torch.zeros(rows),
    }
    quantization: dict[str, object] = {"quant_method": "gptq", "bits": 4}
    return QuantizedModel(
        {**state, **{f"{UP}.{key}": value for key, value in changes.items()}}, PACKED, quantization, []
    )


def test_what_the_package_left_alone_is_copied_as_it_was(tmp_path: Path) -> None:
    quantized, report = left_by_a_package(tmp_path / "model"), QuantizeReport()
    result.write(tmp_path / "model", quantized, tmp_path / "out", report)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "out"))
    norm = "model.layers.0.post_attention_layernorm.weight"
    untouched = set(before) - {f"{UP}.weight", norm}
    assert set(after) == untouched | {norm} | {f"{UP}.{kind}" for kind in PACKED}
    for name in untouched:
        assert after[name].dtype == before[name].dtype
        assert torch.equal(after[name], before[name])
    assert torch.equal(after[norm], before[norm].half() / 2)
    assert after[f"{UP}.scales"].dtype == torch.float16
    assert after[f"{UP}.g_idx"].dtype == torch.int32
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "gptq", "bits": 4}
    assert config["vocab_size"] == 96
    files = ["config.json", "generation_config.json", "model.safetensors", "quantize_config.json"]
    assert report.files == files
    assert report.bits_per_weight == pytest.approx(4 + (16 + 4) / 32 + 32 / 128)
    assert 0 < report.output_bytes < report.input_bytes


def test_a_large_model_is_written_in_shards(tmp_path: Path) -> None:
    quantized, report = left_by_a_package(tmp_path / "model"), QuantizeReport()
    result.write(tmp_path / "model", quantized, tmp_path / "out", report, max_shard_bytes=50_000)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    assert set(index.values()) <= set(report.files)


@pytest.mark.parametrize(
    ("changes", "category", "words"),
    [
        ({"scales": torch.full((2, 128), 1e-9)}, Category.NUMERICAL_FAILURE, "zero or negative in float16"),
        ({"scales": torch.full((2, 128), 1e9)}, Category.NUMERICAL_FAILURE, "not finite"),
        ({"bias": torch.ones(128)}, Category.INTERNAL, "package added"),
    ],
)
def test_what_a_reader_could_not_use_is_not_written(
    changes: dict[str, torch.Tensor], category: Category, words: str, tmp_path: Path
) -> None:
    quantized = left_by_a_package(tmp_path / "model", **changes)
    with pytest.raises(QuantizationError, match=words) as caught:
        result.write(tmp_path / "model", quantized, tmp_path / "out", QuantizeReport())
    assert caught.value.category is category


def test_a_tensor_that_the_package_lost_is_an_error(tmp_path: Path) -> None:
    quantized = left_by_a_package(tmp_path / "model")
    del quantized.state["model.norm.weight"]
    with pytest.raises(QuantizationError, match=r"lost the tensor model\.norm\.weight"):
        result.write(tmp_path / "model", quantized, tmp_path / "out", QuantizeReport())


def test_a_head_that_is_the_embedding_is_copied_as_it_was(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", tie_word_embeddings=True)
    tensors = load_file(tmp_path / "model/model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model/model.safetensors")
    state = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    report = QuantizeReport()
    result.write(tmp_path / "model", QuantizedModel(state, PACKED, None, []), tmp_path / "out", report)
    assert torch.equal(
        load_file(tmp_path / "out/model.safetensors")["lm_head.weight"], tensors["lm_head.weight"]
    )
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    assert report.bits_per_weight == 32


def pins(name: str) -> dict[str, str]:
    """Package -> version of a lock (of those with one version)."""
    text = (ROOT / f"requirements/{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", text, re.MULTILINE))


def stage(containerfile: str) -> list[str]:
    """The instructions of a Containerfile up to the end of its first stage."""
    text = (ROOT / containerfile).read_text().partition(" AS dependencies")[0]
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_both_images_of_the_quantizer_share_the_layer_with_torch() -> None:
    assert stage("jobimage/Containerfile") == stage("jobimage/Containerfile.legacy")
    shared = pins("torch")
    assert shared["torch"] == "2.13.0"
    for lock, replaced in (
        ("legacy", set()),
        ("quantizer", {"fsspec"}),
    ):  # 0.2 MB that differ are not worth a cap
        own = pins(lock)
        assert {name for name, version in shared.items() if own[name] != version} == replaced


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_whatever_goes_into_an_image_decides_whether_it_is_built_again(name: str) -> None:
    recipe = RECIPES[name]
    copied = [
        source
        for line in re.findall(r"^COPY (.*)$", (ROOT / recipe.containerfile).read_text(), re.MULTILINE)
        for source in line.split()[:-1]
        if not line.startswith("--from=")
    ]
    assert sorted(copied) == sorted(recipe.sources)
