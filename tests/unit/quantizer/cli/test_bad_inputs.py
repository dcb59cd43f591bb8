"""Bad input through a whole run: its category and exit code, and nothing half-written at the output."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.decoder_families import SPARSE, make_model
from tests.support.engine import edit_tensors, save_tiny, save_tiny_reader
from tests.support.quantizer_requests import Request, published, run_here
from tests.support.tokens import save_byte_tokenizer
from torch import Tensor

from quantization_api.failures import CATALOGUE, Category
from quantizer.cli import parser

pytestmark = pytest.mark.unit

GROUP = 16
PASSES: dict[str, dict[str, Any]] = {
    "gptq": {"type": "GptqQuantizer", "data_config": "calibration", "group_size": GROUP},
    "awq": {
        "type": "AutoAWQQuantizer",
        "data_config": "calibration",
        "q_group_size": GROUP,
        "input_model_dtype": "fp32",
    },
    "quarot": {
        "type": "QuaRot",
        "calibration_data_config": "calibration",
        "calibration_nsamples": 8,
        "w_gptq": True,
        "w_bits": 4,
        "w_groupsize": GROUP,
        "input_model_dtype": "fp32",
    },
}
PASSES["gptq in 8 bits"] = {**PASSES["gptq"], "bits": 8}
PASSES["gptq for vLLM"] = {**PASSES["gptq"], "checkpoint_format": "compressed-tensors"}
PASSES["awq in half precision"] = {**PASSES["awq"], "input_model_dtype": "fp16"}
LINEAR = "model.layers.1.mlp.up_proj.weight"


def spoiled(name: str, change: Callable[[Tensor], object]) -> Callable[[Path], None]:
    """A tiny model with one tensor changed in place."""

    def make(folder: Path) -> None:
        save_tiny_reader(folder)
        edit_tensors(folder, lambda tensors: change(tensors[name]))  # type: ignore[arg-type, return-value]

    return make


def retyped(dtype: torch.dtype) -> Callable[[Path], None]:
    """A tiny model with one tensor of another type."""

    def make(folder: Path) -> None:
        save_tiny_reader(folder)
        edit_tensors(folder, lambda tensors: tensors.update({LINEAR: tensors[LINEAR].to(dtype)}))

    return make


def sharded(folder: Path) -> list[Path]:
    tokens = save_byte_tokenizer(folder)
    save_tiny(folder, vocab_size=tokens).save_pretrained(folder, max_shard_size="200KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    return shards


def cut_short(folder: Path) -> None:
    shard = sharded(folder)[-1]
    shard.write_bytes(shard.read_bytes()[:-10])


def without_a_shard(folder: Path) -> None:
    sharded(folder)[-1].unlink()


def with_a_broken_index(folder: Path) -> None:
    sharded(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')


def with_half_a_header(folder: Path) -> None:
    save_tiny_reader(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:40])


def of_few_tokens(folder: Path) -> None:
    save_tiny_reader(folder, vocab_size=96)


def quantized_by(kind: str) -> Callable[[Path], None]:
    """The artifact of a run of another pass."""

    def make(folder: Path) -> None:
        save_tiny_reader(folder.parent / "float")
        first = folder.parent / "first"
        online = {"a_bits": 8} if kind == "quarot" else {}
        ended = run_here(
            Request(
                f"file://{first}",
                f"file://{folder.parent / 'float'}",
                layer_pass=PASSES[kind] | online,
                metrics=[],
            ),
            folder.parent / "scratch of the first",
        )
        assert ended.code == 0, ended.log
        (first / "model").rename(folder)

    return make


def with_an_idle_expert(folder: Path) -> None:
    tokens = save_byte_tokenizer(folder)
    fields = {**SPARSE, "vocab_size": tokens, "num_local_experts": 4, "num_experts_per_tok": 1}
    make_model("mixtral", fields).save_pretrained(folder)

    def starve(tensors: dict[str, Tensor]) -> None:
        router = tensors["model.layers.1.block_sparse_moe.gate.weight"]
        router[2] = router[[0, 1, 3]].mean(0)  # never the largest

    edit_tensors(folder, starve)


@dataclass(frozen=True)
class Bad:
    """How a model is made, and what a run of it ends with."""

    make: Callable[[Path], None]
    category: Category
    words: str
    passes: tuple[str, ...] = ("gptq",)


ALL = ("gptq", "awq", "quarot")
CASES: dict[str, Bad] = {
    "nan in a linear": Bad(
        spoiled(LINEAR, lambda t: t[0, 3].fill_(torch.nan)), Category.NUMERICAL_FAILURE, LINEAR, ALL
    ),
    "inf in the embedding": Bad(
        spoiled("model.embed_tokens.weight", lambda t: t[5, 5].fill_(torch.inf)),
        Category.NUMERICAL_FAILURE,
        "model.embed_tokens.weight has values that are not finite",
        ALL,
    ),
    "calibration overflows": Bad(
        spoiled("model.layers.1.post_attention_layernorm.weight", lambda t: t.mul_(1e25)),
        Category.NUMERICAL_FAILURE,
        "model.layers.1.mlp.",
        ALL,
    ),
    "inputs that are always zero": Bad(
        spoiled("model.layers.1.input_layernorm.weight", lambda t: t.zero_()),
        Category.NUMERICAL_FAILURE,
        "model.layers.1.self_attn.q_proj are zero",
        ("gptq", "awq"),
    ),
    "weights too small for the type that they are loaded in": Bad(
        spoiled("model.layers.1.mlp.up_proj.weight", lambda t: t.mul_(1e-8)),
        Category.NUMERICAL_FAILURE,
        "up_proj.weight has only values that are too small for float16 Write input_model_dtype: bf16 or fp32.",
        ("awq in half precision",),
    ),
    **{
        f"weights of {size} in {linear}": Bad(
            spoiled(f"model.layers.1.{linear}.weight", lambda t, size=size: t.mul_(size / t.abs().max())),  # type: ignore[misc]
            Category.NUMERICAL_FAILURE,
            f"the weights of model.layers.1.{linear} are too small",
            kinds,
        )
        for size, kinds in (
            (1e-9, ("gptq", "gptq in 8 bits", "gptq for vLLM", "awq")),
            (2e-7, ("gptq", "awq")),
        )
        for linear in ("self_attn.k_proj", "mlp.down_proj")
    },
    "weights of 1e-9 where a rotation is rounded": Bad(
        spoiled("model.layers.1.self_attn.k_proj.weight", lambda t: t.mul_(1e-8)),
        Category.NUMERICAL_FAILURE,
        "Write s_bits: 8",
        ("quarot",),
    ),
    "weights whose results nothing multiplies, too small for that type": Bad(
        spoiled("model.layers.1.mlp.down_proj.weight", lambda t: t.mul_(1e-8)),
        Category.NUMERICAL_FAILURE,
        "down_proj.weight has only values that are too small for float16",
        ("awq in half precision",),
    ),
    "an expert without a token": Bad(
        with_an_idle_expert, Category.DATA_INSUFFICIENT, "model.layers.1.block_sparse_moe.experts.2.", ALL
    ),
    "a shard cut short": Bad(cut_short, Category.MODEL_UNSUPPORTED, "is truncated"),
    "half a header": Bad(with_half_a_header, Category.MODEL_UNSUPPORTED, "model.safetensors"),
    "an index that names a missing file": Bad(
        without_a_shard, Category.MODEL_NOT_FOUND, "which the model does not have"
    ),
    "an index that is no JSON": Bad(
        with_a_broken_index, Category.MODEL_UNSUPPORTED, "model.safetensors.index.json"
    ),
    "a tokenizer of another vocabulary": Bad(
        of_few_tokens, Category.MODEL_UNSUPPORTED, "but the model's vocabulary has only 96 tokens"
    ),
    "float64": Bad(retyped(torch.float64), Category.MODEL_UNSUPPORTED, f"{LINEAR} has dtype float64"),
    "int8": Bad(retyped(torch.int8), Category.MODEL_UNSUPPORTED, f"{LINEAR} has dtype int8"),
    "float8": Bad(
        retyped(torch.float8_e4m3fn), Category.MODEL_UNSUPPORTED, f"{LINEAR} has dtype float8_e4m3fn"
    ),
    "already quantized with gptq": Bad(
        quantized_by("gptq"), Category.MODEL_UNSUPPORTED, "already quantized (quant_method gptq)", ALL
    ),
    "already quantized with awq": Bad(
        quantized_by("awq"), Category.MODEL_UNSUPPORTED, "already quantized (quant_method awq)"
    ),
    "already quantized with code of its own": Bad(
        quantized_by("quarot"), Category.MODEL_UNSUPPORTED, "quarot_llama"
    ),
}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, case in CASES.items() for kind in case.passes]
)
def test_a_run_on_it_ends_with_its_category_and_publishes_nothing(
    name: str, kind: str, tmp_path: Path
) -> None:
    case, output = CASES[name], tmp_path / "out"
    case.make(tmp_path / "model")
    request = Request(f"file://{output}", f"file://{tmp_path / 'model'}", layer_pass=PASSES[kind], metrics=[])
    ended = run_here(request, tmp_path / "scratch")
    assert ended.result.failure is not None, ended.log
    assert ended.result.failure.category == case.category, ended.result.failure
    assert case.words in f"{ended.result.failure.message} {ended.result.failure.hint}"
    assert ended.code == CATALOGUE[case.category].exit_code
    if case.category is Category.MODEL_UNSUPPORTED:
        assert ended.result.failure.hint != CATALOGUE[case.category].cure
    assert published(output) == []
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["termination.json"]


def dead(folder: Path) -> None:
    save_tiny_reader(folder, initializer_range=0.1)

    def kill(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.input_layernorm.weight"][5:9] = 0
        tensors[LINEAR][7] = 0  # an input of down_proj

    edit_tensors(folder, kill)


@pytest.mark.parametrize("kind", PASSES)
def test_dead_columns_and_fewer_tokens_than_inputs_are_quantized_and_verified(
    kind: str, tmp_path: Path
) -> None:
    dead(tmp_path / "model")
    samples = 1  # 64 tokens: the Hessian of the 128 inputs of down_proj has half its rank
    layer_pass = PASSES[kind] | ({"calibration_nsamples": samples} if kind == "quarot" else {})
    request = Request(
        f"file://{tmp_path / 'out'}",
        f"file://{tmp_path / 'model'}",
        layer_pass=layer_pass,
        samples=samples,
        metrics=[],
    )
    ended = run_here(request, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert len(manifest["modules"]) == 14
    assert {module["tokens"] for module in manifest["modules"]} == {64}
    told = (
        "14 of 14 linears read fewer than 2 calibration tokens for each of their inputs: model.layers.0.mlp"
    )
    assert told in ended.log
    assert told in (tmp_path / "out/README.md").read_text()
    assert parser.main(["verify", f"file://{tmp_path / 'out'}"]) == 0


@pytest.mark.parametrize("kind", PASSES)
def test_tiny_rows_beside_others_are_quantized(kind: str, tmp_path: Path) -> None:
    save_tiny_reader(tmp_path / "model")

    def weaken(tensors: dict[str, Tensor]) -> None:
        tensors[LINEAR][:20] *= 1e-8

    edit_tensors(tmp_path / "model", weaken)
    request = Request(
        f"file://{tmp_path / 'out'}", f"file://{tmp_path / 'model'}", layer_pass=PASSES[kind], metrics=[]
    )
    ended = run_here(request, tmp_path / "scratch")
    assert ended.code == 0, ended.log


def test_scales_of_few_bits_hold_tiny_weights(tmp_path: Path) -> None:
    save_tiny_reader(tmp_path / "model")
    edit_tensors(tmp_path / "model", lambda tensors: tensors[LINEAR.replace("up", "down")].mul_(1e-8))
    layer_pass = {**PASSES["quarot"], "s_bits": 8}
    request = Request(
        f"file://{tmp_path / 'out'}", f"file://{tmp_path / 'model'}", layer_pass=layer_pass, metrics=[]
    )
    ended = run_here(request, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    errors = [item["error"] for item in json.loads((tmp_path / "out/manifest.json").read_text())["modules"]]
    assert max(errors) < 0.05
