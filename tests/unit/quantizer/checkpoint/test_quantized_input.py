"""Checkpoints in FP8 and MXFP4 are read as transformers dequantizes them, bit by bit, a few rows at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.support.quantized_inputs import FLOAT8, FP8_KINDS, random_mxfp4, to_fp8
from torch import Tensor
from transformers.integrations import finegrained_fp8, mxfp4

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.dequantized import open_checkpoint
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.source import DirectorySource

pytestmark = pytest.mark.unit

LINEAR, HEAD = "model.layers.0.mlp.up_proj.weight", "lm_head.weight"
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
CHANNELS = FP8_KINDS["compressed-tensors, rows"][0]


def opened(
    folder: Path, tensors: dict[str, Tensor], quantization: dict[str, Any], dtype: str | None = "bfloat16"
) -> SafetensorsReader:
    """A checkpoint of these tensors, read."""
    save_file(tensors, folder / "model.safetensors")
    config = {"quantization_config": quantization} | ({"dtype": dtype} if dtype else {})
    reader, plain = open_checkpoint(DirectorySource(folder), config)
    assert "quantization_config" not in plain
    return reader


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_transformers(quantized: Tensor, scales: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    made: Tensor = finegrained_fp8.Fp8Dequantize(None)._dequantize_one(quantized, scales, dtype)
    return made


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal bit by bit, signs of zeros and NaN included."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[one.element_size()]
    return one.dtype is other.dtype and torch.equal(one.view(integers), other.view(integers))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("block", [(256, 384), (1, 384), (128, 128)], ids=str)
def test_fp8_is_what_transformers_makes_of_it(tmp_path: Path, block: tuple[int, int], dtype: str) -> None:
    quantized, scales = to_fp8(weight(256, 384), block)
    reader = opened(tmp_path, {LINEAR: quantized, f"{LINEAR}_scale_inv": scales}, FP8, dtype)
    meant = by_transformers(quantized, scales, getattr(torch, dtype))
    assert same_bits(reader.tensor(LINEAR), meant)
    assert list(reader.tensors) == [LINEAR]


def test_every_number_of_fp8_with_every_kind_of_scale(tmp_path: Path) -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(FLOAT8).reshape(2, 128).repeat(128, 1)
    scales = {
        "whole": torch.tensor(0.37),
        "one": torch.tensor([0.37]),
        "bf16": weight(2, 1).abs().bfloat16(),
        "e8m0": torch.tensor([[100], [140]], dtype=torch.uint8).view(torch.float8_e8m0fnu),
        "bytes": torch.tensor([[1], [254]], dtype=torch.uint8),
    }
    tensors = {f"{name}.weight": numbers.clone() for name in scales}
    reader = opened(
        tmp_path, tensors | {f"{name}.weight_scale_inv": value for name, value in scales.items()}, FP8
    )
    for name, value in scales.items():
        assert same_bits(reader.tensor(f"{name}.weight"), by_transformers(numbers, value)), name


@pytest.mark.parametrize("shape", [(576, 200), (192, 128), (100, 300)], ids=str)
def test_blocks_at_the_edge_may_be_cut(tmp_path: Path, shape: tuple[int, int]) -> None:
    """As in DeepSeek-V3's kv_a_proj_with_mqa of 576 rows; transformers' own backward pass is the judge."""
    quantized, scales = to_fp8(weight(*shape), (128, 128))
    reader = opened(tmp_path, {LINEAR: quantized, f"{LINEAR}_scale_inv": scales}, FP8, "float32")
    meant = finegrained_fp8._dequantize_fp8_weight(quantized, scales, (128, 128), torch.float32)
    assert same_bits(reader.tensor(LINEAR), meant)


@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_compressed_tensors_round_to_the_type_of_the_scales_first(
    tmp_path: Path, scale_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    """The package multiplies in that type, and transformers stores the product in the model's."""
    quantized, scales = to_fp8(weight(48, 64), (1, 64))
    scales = scales.to(scale_dtype)
    word = str(dtype).removeprefix("torch.")
    reader = opened(tmp_path, {LINEAR: quantized, f"{LINEAR}_scale": scales}, CHANNELS, word)
    assert same_bits(reader.tensor(LINEAR), (quantized.to(scale_dtype) * scales).to(dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_mxfp4_is_what_transformers_makes_of_it(tmp_path: Path, dtype: str) -> None:
    blocks, scales = random_mxfp4(3, 20, 4)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {f"{name}_blocks": blocks, f"{name}_scales": scales, f"{name}_bias": weight(3, 20)}
    reader = opened(tmp_path, tensors, {"quant_method": "mxfp4"}, dtype)
    meant = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=getattr(torch, dtype))
    assert same_bits(reader.tensor(name), meant)
    assert (reader.tensors[name].shape, set(reader.tensors)) == ((3, 128, 20), {name, f"{name}_bias"})


def test_every_scale_of_mxfp4(tmp_path: Path) -> None:
    scales = torch.arange(255, dtype=torch.uint8).reshape(1, 255, 1)
    blocks = torch.arange(0, 256, 16, dtype=torch.uint8).repeat(1, 255, 1, 1) + torch.arange(
        16, dtype=torch.uint8
    )
    reader = opened(tmp_path, {"up_blocks": blocks, "up_scales": scales}, {"quant_method": "mxfp4"})
    meant = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)
    assert same_bits(reader.tensor("up"), meant)


def test_rows_and_bytes_are_those_of_the_whole_tensor(tmp_path: Path) -> None:
    quantized, scales = to_fp8(weight(300, 200), (128, 128))
    blocks, exponents = random_mxfp4(5, 6, 2)
    name = f"{LINEAR}_scale_inv"
    reader = opened(tmp_path, {LINEAR: quantized, name: scales}, FP8)
    for first, last in ((0, 1), (127, 129), (130, 300), (299, 300), (0, 300)):
        assert same_bits(reader.rows(LINEAR, first, last), reader.tensor(LINEAR)[first:last])
    other = tmp_path / "other"
    other.mkdir()
    experts = opened(other, {"up_blocks": blocks, "up_scales": exponents}, {"quant_method": "mxfp4"})
    assert same_bits(experts.rows("up", 2, 4), experts.tensor("up")[2:4])
    for one, key in ((reader, LINEAR), (experts, "up")):
        pieces = list(one.pieces(key, 1000))
        joined = torch.cat([part for _, part in pieces])
        assert torch.equal(joined, one.tensor(key).reshape(-1).view(torch.uint8))
        assert len(pieces) > 1
        assert [at for at, _ in pieces] == [0, *torch.cumsum(torch.tensor([len(p) for _, p in pieces]), 0)][
            :-1
        ]


def test_a_tensor_is_read_a_few_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantizer.checkpoint.dequantized.PART_BYTES", 64 * 1024)
    quantized, scales = to_fp8(weight(1024, 256), (128, 128))
    reader = opened(tmp_path, {LINEAR: quantized, f"{LINEAR}_scale_inv": scales}, FP8)
    sizes: list[int] = []
    read = reader.source.read

    def counted(name: str, start: int, length: int) -> Any:
        sizes.append(length)
        return read(name, start, length)

    monkeypatch.setattr(reader.source, "read", counted)
    assert same_bits(reader.tensor(LINEAR), by_transformers(quantized, scales))
    assert max(sizes) <= 64 * 1024
    assert len(sizes) > 8


def test_sizes_are_those_that_are_written_and_the_input_is_as_large_as_it_lies_there(tmp_path: Path) -> None:
    quantized, scales = to_fp8(weight(256, 128), (128, 128))
    tensors = {LINEAR: quantized, f"{LINEAR}_scale_inv": scales, HEAD: weight(4, 128).bfloat16()}
    reader = opened(tmp_path, tensors, FP8)
    assert (reader.tensors[LINEAR].length, reader.tensors[LINEAR].dtype) == (2 * 256 * 128, torch.bfloat16)
    assert reader.bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert (reader.dtype, reader.dtypes) == (torch.bfloat16, "bfloat16")


@pytest.mark.parametrize(
    ("said", "other", "found"),
    [
        ("float16", torch.bfloat16, torch.float16),
        (None, torch.float16, torch.float16),
        (None, None, torch.bfloat16),
        ("float8_e4m3fn", torch.float16, torch.float16),
    ],
)
def test_the_type_is_the_models(
    tmp_path: Path, said: str | None, other: torch.dtype | None, found: torch.dtype
) -> None:
    quantized, scales = to_fp8(weight(128, 128), (128, 128))
    tensors = {LINEAR: quantized, f"{LINEAR}_scale_inv": scales}
    tensors |= {} if other is None else {HEAD: weight(4, 128).to(other)}
    assert opened(tmp_path, tensors, FP8, said).tensors[LINEAR].dtype is found


def test_scales_of_activations_are_named_and_not_read(tmp_path: Path) -> None:
    quantized, scales = to_fp8(weight(128, 128), (128, 128))
    beside = {
        "model.layers.0.mlp.up_proj.activation_scale": torch.tensor(0.5),
        "model.layers.0.self_attn.k_scale": torch.tensor(0.5),
    }
    reader = opened(tmp_path, {LINEAR: quantized, f"{LINEAR}_scale_inv": scales, **beside}, FP8)
    assert (set(reader.tensors), set(reader.left_out)) == ({LINEAR}, set(beside))


def blocks_that_do_not_fit() -> dict[str, Tensor]:
    return {LINEAR: weight(256, 256).to(FLOAT8), f"{LINEAR}_scale_inv": torch.ones(3, 2)}


REFUSED: dict[str, tuple[dict[str, Any] | str, dict[str, Tensor], str]] = {
    "gptq": ({"quant_method": "gptq", "bits": 4}, {}, r"already quantized \(quant_method gptq\)"),
    "awq": ({"quant_method": "awq", "bits": 4}, {}, r"already quantized \(quant_method awq\)"),
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {},
        r"\(quant_method bitsandbytes\)",
    ),
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "FP8"}, {}, r"\(quant_method modelopt\)"),
    "integers in compressed-tensors": (
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
        {},
        r"quant_method compressed-tensors in pack-quantized",
    ),
    "NVFP4 among FP8": (
        {
            "quant_method": "compressed-tensors",
            "format": "mixed-precision",
            "config_groups": {
                "group_0": {**CHANNELS["config_groups"]["group_0"], "format": "float-quantized"},
                "group_1": {**CHANNELS["config_groups"]["group_0"], "format": "nvfp4-pack-quantized"},
            },
        },
        {},
        r"in nvfp4-pack-quantized",
    ),
    "transforms": (
        {**CHANNELS, "transform_config": {"config_groups": {"u": {"type": "hadamard"}}}},
        {},
        "transform_config",
    ),
    "sparse": ({**CHANNELS, "sparsity_config": {"format": "sparse-24-bitmask"}}, {}, "sparse-24-bitmask"),
    "experts in FP4": ({**FP8, "expert_dtype": "fp4"}, {}, "expert_dtype fp4"),
    "no object": ("fp8", {}, "quant_method fp8"),
    "no method": ({"bits": 4}, {}, "quant_method unknown"),
    "blocks of another size": (FP8, blocks_that_do_not_fit(), rf"{LINEAR} of \[256, 256\] .* \[3, 2\]"),
    "a block of nothing": (
        {**FP8, "weight_block_size": [0, 128]},
        blocks_that_do_not_fit(),
        "weight_block_size",
    ),
    "a block that is no size": (
        {**FP8, "weight_block_size": "big"},
        blocks_that_do_not_fit(),
        "weight_block_size",
    ),
    "nothing in FP8": (FP8, {}, "but no tensor is"),
    "groups that are none": (
        {"quant_method": "compressed-tensors", "config_groups": {"a": []}},
        {},
        "quantization_config .* cannot be used",
    ),
    "sparsity that is none": (
        {**CHANNELS, "sparsity_config": "x"},
        {},
        "quantization_config .* cannot be used",
    ),
    "no scales": (FP8, {LINEAR: weight(4, 4).to(FLOAT8)}, f"lacks {LINEAR}_scale_inv"),
    "scales of no type": (
        FP8,
        {LINEAR: weight(4, 4).to(FLOAT8), f"{LINEAR}_scale_inv": torch.ones(1, 1, dtype=torch.int64)},
        "int64",
    ),
    "blocks without scales": (
        {"quant_method": "mxfp4"},
        {"up_blocks": random_mxfp4(2, 4, 2)[0]},
        "lacks up_scales",
    ),
    "blocks of another shape": (
        {"quant_method": "mxfp4"},
        {"up_blocks": random_mxfp4(2, 4, 2)[0], "up_scales": random_mxfp4(2, 4, 3)[1]},
        r"up_blocks of \[2, 4, 2, 16\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_quantized_input_is_refused_by_name(tmp_path: Path, case: str) -> None:
    quantization, tensors, found = REFUSED[case]
    with pytest.raises(QuantizationError, match=found) as caught:
        opened(tmp_path, {**tensors, HEAD: weight(4, 4)}, quantization)  # type: ignore[arg-type]
    assert caught.value.category is Category.MODEL_UNSUPPORTED
    assert caught.value.hint


def test_a_checkpoint_without_it_is_read_as_it_lies_there(tmp_path: Path) -> None:
    save_file({HEAD: weight(4, 4)}, tmp_path / "model.safetensors")
    reader, config = open_checkpoint(DirectorySource(tmp_path), {"model_type": "llama"})
    assert (config, reader.method, reader.left_out) == ({"model_type": "llama"}, "", ())
