"""The streaming loop: one decoder layer at a time is read, calibrated, rounded, written and freed.

    for each decoder layer                             (its weights were read while the one before was solved)
        for each residual block
            gather the Gram matrix of the input        one for q, k, v; one for gate, up
            round those linears
            run the block's core on the rounded ones   gathering the Gram matrix of the closing linear
            round the closing linear, close the block

With true_sequential every linear thus runs once, and its statistics come from the rounded linears before
it. Without it all statistics of a layer come from the unrounded layer, and a second pass through the
rounded layer makes the next layer's input.

Activations of the calibration set lie in files on scratch (decoder.activations); memory holds one layer,
the Hessians of a stage (of a layer without true_sequential) and one batch.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantization_api.passes import GptqQuantizer
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.reader import SafetensorsReader, rows_within
from quantizer.checkpoint.side_files import quantize_config, quantized_config, side_files
from quantizer.checkpoint.source import Source, read_whole
from quantizer.checkpoint.writer import MAX_SHARD_BYTES, PlannedTensor, ShardWriter, Sink
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import Block
from quantizer.decoder.model import TABLE_BYTES, DecoderLayer, DecoderModel, PositionEmbeddings
from quantizer.formats import gptq as gptq_format
from quantizer.passes.gptq import GptqConfig, Rounded, gptq
from quantizer.passes.grid import round_to_nearest
from quantizer.passes.hessian import GramMatrix, weighted_square

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, layers done, layers in all) after each layer."""

OnLayerDone = Callable[[int, Mapping[str, Tensor]], None]
"""Called with a layer's number and its finished tensors (as written) once all of them are with the writer."""

WORSE_THAN_RTN = 1.02
"""A module may have this many times plain rounding's error before the run fails. Where inputs are nearly
uncorrelated there is nothing to gain, and the greedy order may lose a percent."""


@dataclass(frozen=True)
class ModuleReport:
    """How well one linear was rounded.

    error, error_rtn: tr(E H E') / tr(W H W') of GPTQ and of plain rounding, without damping; what is
        measured is the weight as a reader will see it (scales in float16).
    damp_percent: the damping that was used.
    seconds: of the solve, shared out by rows among the linears that were solved together.
    """

    name: str
    shape: tuple[int, int]
    error: float
    error_rtn: float
    damp_percent: float
    seconds: float


@dataclass
class QuantizeReport:
    """What a run did.

    bits_per_weight: bits of the packed tensors of the linears, by weight.
    input_bytes, output_bytes: of the safetensors.
    seconds: by stage: read, calibrate, solve, write.
    left_out: tensors of the input that are computed today and were not copied.
    """

    modules: list[ModuleReport] = field(default_factory=list)
    bits_per_weight: float = 0.0
    input_bytes: int = 0
    output_bytes: int = 0
    calibration_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def gptq_config(parameters: GptqQuantizer) -> GptqConfig:
    """The algorithm's parameters from the contract's."""
    return GptqConfig(
        bits=parameters.bits,
        group_size=parameters.group_size,
        damp_percent=parameters.damp_percent,
        desc_act=parameters.desc_act,
        static_groups=parameters.static_groups,
        true_sequential=parameters.true_sequential,
        sym=parameters.sym,
    )


def quantize(
    model_source: Source,
    tokens_by_name: Mapping[str, TokenBatches],
    pass_config: GptqQuantizer,
    sink: Sink,
    on_progress: OnProgress,
    device: torch.device,
    scratch: Path,
    *,
    on_layer_done: OnLayerDone | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> QuantizeReport:
    """Quantizes a model and gives every file of the result to the sink.

    Args:
        model_source: the model's files.
        tokens_by_name: token batches of each data config; pass_config.data_config names one.
        pass_config: the pass, from the contract.
        sink: takes finished files by their name in the model directory, from a background thread.
        on_progress: called with ("quantize", layers done, layers in all).
        device: where layers run.
        scratch: directory for files under construction and for activations.
        on_layer_done: sees the finished tensors of each layer.
        max_shard_bytes: bound of a shard.

    Raises:
        QuantizationError: ModelNotFound, ModelUnsupported, InvalidWorkflow before anything is computed;
            NumericalFailure naming the module; ScratchFull; and what source and sink raise.
    """
    config = gptq_config(pass_config)
    tokens = tokens_by_name[pass_config.data_config]
    with torch.inference_mode():
        run = _Run(model_source, tokens, config, device, scratch, on_progress, on_layer_done)
        return run.run(sink, max_shard_bytes)


def check_sizes(model: DecoderModel, config: GptqConfig) -> None:
    """Raises InvalidWorkflow when group_size does not divide a linear, ModelUnsupported when it cannot be packed.

    The message names the layer and the sizes that fit every linear of the model.
    """
    shapes = {name: _linear_shape(model, 0, name) for name in model.architecture.linears}
    common = math.gcd(*(columns for _, columns in shapes.values()))
    for name, (rows, columns) in shapes.items():
        full = model.layer_prefix(0) + name
        if config.group_size != -1 and columns % config.group_size:
            sizes = ", ".join(str(2**power) for power in range(4, 15) if common % 2**power == 0)
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"group_size {config.group_size} does not divide the {columns} inputs of {full}; "
                f"sizes that fit every layer of this model: -1{', ' + sizes if sizes else ''}",
                "Set group_size to one of these.",
            )
        gptq_format.check_shape(full, rows, columns, config.bits)


def _linear_shape(model: DecoderModel, index: int, name: str) -> tuple[int, int]:
    rows, columns = model.layer_shapes(index)[f"{name}.weight"]
    return rows, columns


class _Run:
    """One run of the loop."""

    def __init__(
        self,
        source: Source,
        tokens: TokenBatches,
        config: GptqConfig,
        device: torch.device,
        scratch: Path,
        on_progress: OnProgress,
        on_layer_done: OnLayerDone | None,
    ) -> None:
        self.source, self.config, self.device, self.scratch = source, config, device, scratch
        self.on_progress, self.on_layer_done = on_progress, on_layer_done
        dtype = torch.float32
        self.reader = SafetensorsReader(source)
        self.model = DecoderModel(source, self.reader, device, dtype)
        self.report = QuantizeReport(input_bytes=self.reader.bytes, calibration_tokens=tokens.tokens)
        self.report.left_out = self.model.check_tensors()
        check_sizes(self.model, config)
        self.batches = tokens.batches()
        self.shapes = [(batch.shape[0], batch.shape[1]) for batch in self.batches]

    def run(self, sink: Sink, max_shard_bytes: int) -> QuantizeReport:
        """The whole model."""
        model = self.model
        parameters = [list(model.layer_shapes(index)) for index in range(model.layers)]
        groups = [
            [model.layer_prefix(index) + name for name in names] for index, names in enumerate(parameters)
        ]
        self.on_progress("quantize", 0, model.layers)
        with ShardWriter(self._plan(), self.scratch, sink, max_shard_bytes) as writer:
            self.report.output_bytes, self.report.files = writer.bytes, list(writer.files)
            self._write_side_files(writer)
            for name in self._tables():
                self._copy(name, writer)
            with self._store("hidden", model.width) as hidden:
                with self._timed("calibrate"):
                    for number, batch in enumerate(model.embed(self.batches)):
                        hidden.write(number, batch)
                layers = self.reader.prefetched(groups)
                for index in range(model.layers):
                    with self._timed("read"):
                        stored = next(layers)
                    self._run_layer(index, stored, hidden, writer)
                    del stored
                    self.on_progress("quantize", index + 1, model.layers)
        bits = sum(self._packed_bits(module.shape) for module in self.report.modules)
        weights = sum(module.shape[0] * module.shape[1] for module in self.report.modules)
        self.report.bits_per_weight = bits / weights
        return self.report

    def _run_layer(
        self, index: int, stored: dict[str, Tensor], hidden: ActivationStore, writer: ShardWriter
    ) -> None:
        prefix = self.model.layer_prefix(index)
        weights = {name.removeprefix(prefix): value for name, value in stored.items()}
        _check_finite(prefix, weights)
        finished: dict[str, Tensor] = {
            prefix + name: value for name, value in weights.items() if not self._is_quantized(name)
        }
        layer = self.model.layer(index, weights)
        if self.config.true_sequential:
            for block in layer.blocks:
                finished |= self._run_block_staged(prefix, layer, block, hidden)
        else:
            finished |= self._run_layer_at_once(prefix, layer, hidden)
        with self._timed("write"):
            for name, tensor in finished.items():
                writer.write(name, tensor)
        if self.on_layer_done:
            self.on_layer_done(index, finished)

    def _run_block_staged(
        self, prefix: str, layer: DecoderLayer, block: Block, hidden: ActivationStore
    ) -> dict[str, Tensor]:
        """Statistics of the second half of a block come from its rounded first half."""
        inner_width = layer.linear(block.output_name).in_features
        finished: dict[str, Tensor] = {}
        with self._store("inner", inner_width) as inner:
            with self._timed("calibrate"):
                gram = GramMatrix(self.model.width, self.device)
                for number in range(len(hidden)):
                    gram.add(layer.block_input(block, hidden.read(number)))
            finished |= self._round(prefix, layer, block.input_names, gram)
            with self._timed("calibrate"):
                gram = GramMatrix(inner_width, self.device)
                for number in range(len(hidden)):
                    normed = layer.block_input(block, hidden.read(number))
                    output = layer.block_core(block, normed, self._positions(number))
                    gram.add(output)
                    inner.write(number, output)
            finished |= self._round(prefix, layer, (block.output_name,), gram)
            with self._timed("calibrate"):
                for number in range(len(hidden)):
                    closed = layer.block_close(block, hidden.read(number), inner.read(number))
                    hidden.write(number, closed)
        return finished

    def _run_layer_at_once(
        self, prefix: str, layer: DecoderLayer, hidden: ActivationStore
    ) -> dict[str, Tensor]:
        """All statistics of a layer come from the unrounded layer; a second pass makes the next input."""
        grams = {
            names: GramMatrix(layer.linear(names[0]).in_features, self.device)
            for names in self.model.architecture.stages
        }
        with self._timed("calibrate"):
            for number in range(len(hidden)):
                state, positions = hidden.read(number), self._positions(number)
                for block in layer.blocks:
                    normed = layer.block_input(block, state)
                    grams[block.input_names].add(normed)
                    output = layer.block_core(block, normed, positions)
                    grams[(block.output_name,)].add(output)
                    state = layer.block_close(block, state, output)
        finished: dict[str, Tensor] = {}
        for names in self.model.architecture.stages:
            finished |= self._round(prefix, layer, names, grams.pop(names))
        with self._timed("calibrate"):
            for number in range(len(hidden)):
                hidden.write(number, layer.forward(hidden.read(number), self._positions(number)))
        return finished

    def _round(
        self, prefix: str, layer: DecoderLayer, names: Sequence[str], gram: GramMatrix
    ) -> dict[str, Tensor]:
        """Rounds the linears that share an input; puts what a reader will see into the layer."""
        started = time.perf_counter()
        hessian = gram.hessian()
        first = prefix + names[0]
        if not bool(torch.isfinite(hessian).all()):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE, f"the inputs of {first} are not finite on the calibration text"
            )
        if not bool((hessian.diagonal() > 0).any()):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE, f"the inputs of {first} are zero on all of the calibration text"
            )
        linears = [layer.linear(name) for name in names]
        stacked = torch.cat([linear.weight.float() for linear in linears])
        try:
            solved = gptq(stacked, hessian, self.config)
        except QuantizationError as error:
            raise QuantizationError(error.category, f"{first}: {error.message}", error.hint) from error
        finished: dict[str, Tensor] = {}
        start = 0
        for name, linear in zip(names, linears, strict=True):
            rows = slice(start, start := start + linear.out_features)
            part = Rounded(
                solved.integers[rows],
                solved.scales[rows],
                solved.zeros[rows],
                solved.group_of,
                solved.damp_percent,
            )
            share = linear.out_features / stacked.shape[0]
            finished |= self._finish_module(prefix + name, linear, part, hessian, share, started)
        self.report.seconds["solve"] = self.report.seconds.get("solve", 0.0) + time.perf_counter() - started
        return finished

    def _finish_module(
        self,
        name: str,
        linear: torch.nn.Linear,
        part: Rounded,
        hessian: Tensor,
        share: float,
        started: float,
    ) -> dict[str, Tensor]:
        weight = linear.weight.float()
        seen = gptq_format.as_read(part.integers, part.scales, part.zeros, part.group_of).float()
        if not bool(torch.isfinite(seen).all()):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE,
                f"{name}: a weight is too large for float16, which readers compute in",
            )
        error, error_rtn = self._errors(weight, seen, hessian)
        report = ModuleReport(
            name,
            (weight.shape[0], weight.shape[1]),
            error,
            error_rtn,
            part.damp_percent,
            (time.perf_counter() - started) * share,
        )
        self.report.modules.append(report)
        check_quality(report)
        linear.weight = torch.nn.Parameter(seen.to(linear.weight.dtype), requires_grad=False)
        packed = gptq_format.pack(part.integers, part.scales, part.zeros, part.group_of, self.config.bits)
        return {f"{name}.{kind}": tensor.cpu() for kind, tensor in packed.items()}

    def _errors(self, weight: Tensor, seen: Tensor, hessian: Tensor) -> tuple[float, float]:
        width = self.config.group_width(weight.shape[1])
        integers, scales, zeros = round_to_nearest(weight, width, self.config.rule)
        group_of = torch.arange(weight.shape[1], device=weight.device) // width
        nearest = gptq_format.as_read(integers, scales, zeros, group_of).float()
        whole = float(weighted_square(weight, hessian).sum())
        if whole <= 0:  # a weight that is zero everywhere is exact
            return 0.0, 0.0
        ours = float(weighted_square(weight - seen, hessian).sum())
        theirs = float(weighted_square(weight - nearest, hessian).sum())
        return ours / whole, theirs / whole

    def _plan(self) -> list[list[PlannedTensor]]:
        """Every tensor of the output: embedding, layers, norm and head, in the order of the checkpoint."""
        groups = [[self._planned(name)] for name in self._tables()]
        for index in range(self.model.layers):
            prefix, group = self.model.layer_prefix(index), []
            for name in self.model.layer_shapes(index):
                if self._is_quantized(name):
                    linear = name.removesuffix(".weight")
                    rows, columns = _linear_shape(self.model, index, linear)
                    count = columns // self.config.group_width(columns)
                    shapes = gptq_format.tensor_shapes(rows, columns, self.config.bits, count)
                    group += [
                        PlannedTensor(f"{prefix}{linear}.{kind}", dtype, shape)
                        for kind, (dtype, shape) in shapes.items()
                    ]
                else:
                    group.append(self._planned(prefix + name))
            groups.append(group)
        return groups

    def _planned(self, name: str) -> PlannedTensor:
        info = self.reader.tensors[name]
        return PlannedTensor(name, info.dtype, info.shape)

    def _tables(self) -> list[str]:
        """Tensors outside the decoder layers; they are copied as they are."""
        layers = f"{self.model.architecture.layers}."
        left_out = set(self.report.left_out)
        return [name for name in self.reader.tensors if not name.startswith(layers) and name not in left_out]

    def _copy(self, name: str, writer: ShardWriter) -> None:
        info, offset = self.reader.tensors[name], 0
        with self._timed("write"):
            for _, rows in self.reader.slices(name, rows_within(info, TABLE_BYTES)):
                _check_finite("", {name: rows})
                writer.write_part(name, offset, rows)
                offset += rows.nbytes

    def _write_side_files(self, writer: ShardWriter) -> None:
        quantization = gptq_format.quantization_config(self.config)
        files = {
            "config.json": quantized_config(self.model.raw_config, quantization),
            "quantize_config.json": quantize_config(quantization),
        }
        for name in side_files(self.source):
            files[name] = read_whole(self.source, name)
        for name, data in files.items():
            writer.put_file(name, data)
            self.report.files.append(name)

    def _is_quantized(self, name: str) -> bool:
        linear, _, kind = name.rpartition(".")
        return kind == "weight" and linear in self.model.architecture.linears

    def _packed_bits(self, shape: tuple[int, int]) -> int:
        rows, columns = shape
        count = columns // self.config.group_width(columns)
        shapes = gptq_format.tensor_shapes(rows, columns, self.config.bits, count)
        return sum(8 * dtype.itemsize * math.prod(size) for dtype, size in shapes.values())

    def _positions(self, number: int) -> PositionEmbeddings:
        return self.model.positions(self.shapes[number][1])

    def _store(self, name: str, width: int) -> ActivationStore:
        return ActivationStore(
            self.scratch / f"calibration.{name}", self.shapes, width, self.model.dtype, self.device
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.report.seconds[stage] = self.report.seconds.get(stage, 0.0) + time.perf_counter() - started


def _check_finite(prefix: str, weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise QuantizationError(
                Category.NUMERICAL_FAILURE,
                f"{prefix}{name} has values that are not finite",
                "The model's weights are damaged; get them again.",
            )


def check_quality(report: ModuleReport) -> None:
    """Raises NumericalFailure for a module whose error is not finite or worse than plain rounding's."""
    if not (math.isfinite(report.error) and math.isfinite(report.error_rtn)):
        raise QuantizationError(
            Category.NUMERICAL_FAILURE, f"{report.name}: the error is not finite ({report.error})"
        )
    if report.error > report.error_rtn * WORSE_THAN_RTN + 1e-12:
        raise QuantizationError(
            Category.NUMERICAL_FAILURE,
            f"{report.name}: the relative error {report.error:.3e} is worse than plain rounding's "
            f"{report.error_rtn:.3e}",
            "Raise damp_percent, or calibrate with more text.",
        )
