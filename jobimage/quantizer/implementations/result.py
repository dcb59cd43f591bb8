"""Writes what a package left as an artifact: the layout of the native engine, the values of the package."""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.finite import all_finite
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.reader import SafetensorsReader
from quantizer.checkpoint.side_files import (
    as_copied,
    quantize_config,
    quantized_config,
    side_files,
    without_code,
)
from quantizer.checkpoint.source import DirectorySource
from quantizer.checkpoint.writer import MAX_SHARD_BYTES, PlannedTensor, ShardWriter
from quantizer.decoder.extra import Extra
from quantizer.implementations.interface import QuantizedModel
from quantizer.implementations.local_model import read_config


def write(
    model_dir: Path,
    quantized: QuantizedModel,
    target: Path,
    report: QuantizeReport,
    extra: Extra = Extra(),  # noqa: B008 - it cannot be changed
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes safetensors, configs and tokenizer files into `target` and completes the report.

    Every tensor of the input comes again under its name, in its order: packed, if its linear was; byte for
    byte as it was, if the package left it alone; else with the package's value.

    extra: tensors that the model does not use, so that the package has none of them.

    Raises:
        QuantizationError: NumericalFailure for a value that is not finite or a scale that float16 cannot
            hold; Internal when the package lost a tensor; ScratchFull.
    """
    source = DirectorySource(model_dir)
    reader = SafetensorsReader(source)
    config = without_code(read_config(model_dir))
    tensors = _tensors(reader, quantized, bool(config.get("tie_word_embeddings")), report, extra)
    _check_additions(quantized, reader)
    target.mkdir(parents=True, exist_ok=True)
    scratch = target / ".writing"
    scratch.mkdir()

    def keep(name: str, path: Path) -> None:
        path.rename(target / name)

    planned = [_planned(name, value, reader) for name, value in tensors.items()]
    with ShardWriter([[tensor] for tensor in planned], scratch, keep, max_shard_bytes) as writer:
        for name, value in tensors.items():
            writer.write(name, reader.tensor(name) if value is None else value)
        files = {"config.json": quantized_config(config, quantized.quantization or {})}
        if quantized.quantization is None:
            files["config.json"] = as_copied(source, "config.json")
        elif quantized.quantization["quant_method"] == "gptq":
            files["quantize_config.json"] = quantize_config(quantized.quantization)
        files |= {name: as_copied(source, name) for name in side_files(source)}
        for name, data in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            writer.put_file(name, data)
        report.input_bytes, report.output_bytes = reader.bytes, writer.bytes
    shutil.rmtree(scratch)
    report.files = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())


def _tensors(
    reader: SafetensorsReader, quantized: QuantizedModel, tied: bool, report: QuantizeReport, extra: Extra
) -> dict[str, Tensor | None]:
    """Every tensor of the result, in the order of the input; None: as in the input. Tells the report what it counts."""
    tensors: dict[str, Tensor | None] = {}
    bits = weights = 0
    for name, info in reader.tensors.items():
        linear = name.removesuffix(".weight")
        if name in extra.left_out:
            report.left_out.append(name)
        elif name in quantized.state:
            tensors[name] = _unless_unchanged(reader.tensor(name), quantized.state[name])
        elif f"{linear}.qweight" in quantized.state:
            for kind in quantized.packed:
                part = _packed(f"{linear}.{kind}", quantized.state[f"{linear}.{kind}"])
                tensors[f"{linear}.{kind}"] = part
                bits += 8 * part.nbytes
            weights += info.shape[0] * info.shape[1]
        elif name not in extra.unused and not (name == "lm_head.weight" and tied):
            raise QuantizationError(Category.INTERNAL, f"the package lost the tensor {name}")
        else:
            tensors[name] = None
    report.bits_per_weight = bits / weights if weights else _float_bits(tensors, reader)
    return tensors


def _unless_unchanged(before: Tensor, after: Tensor) -> Tensor | None:
    after = after.detach().cpu()
    return None if torch.equal(before.to(after.dtype), after) else _finite("a weight", after)


def _packed(name: str, tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor.to(torch.int32).contiguous()
    half = _finite(name, tensor.half()).contiguous()
    if bool((half <= 0).any()):
        raise QuantizationError(
            Category.NUMERICAL_FAILURE, f"{name} holds a scale that is zero or negative in float16"
        )
    return half


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not all_finite(tensor):
        raise QuantizationError(Category.NUMERICAL_FAILURE, f"{name} is not finite after the package ran")
    return tensor


def _check_additions(quantized: QuantizedModel, reader: SafetensorsReader) -> None:
    """The packer of auto-gptq gives every linear a bias; one of zeros is left out, another would be lost."""
    for name, tensor in quantized.state.items():
        linear = name.removesuffix(".bias")
        added = (
            name.endswith(".bias") and f"{linear}.qweight" in quantized.state and name not in reader.tensors
        )
        if added and bool((tensor != 0).any()):
            raise QuantizationError(Category.INTERNAL, f"the package added {name}, which is not zero")


def _planned(name: str, value: Tensor | None, reader: SafetensorsReader) -> PlannedTensor:
    if value is None:
        info = reader.tensors[name]
        return PlannedTensor(name, info.dtype, info.shape)
    return PlannedTensor(name, value.dtype, tuple(value.shape))


def _float_bits(tensors: dict[str, Tensor | None], reader: SafetensorsReader) -> float:
    """Bits by weight when nothing was packed."""
    planned = [_planned(name, value, reader) for name, value in tensors.items()]
    elements = sum(tensor.length // tensor.dtype.itemsize for tensor in planned)
    return 8 * sum(tensor.length for tensor in planned) / max(1, elements)
