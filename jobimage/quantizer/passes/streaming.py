"""The streaming loop: one decoder layer at a time is read, calibrated, rounded, written and freed.

    for each decoder layer             its weights were read while the one before was solved
        the pass runs over it          statistics, rounding, the next layer's input (passes.interface)
        what it became is stored       in the background, so that a killed run resumes here
        and written                    into the shard under construction; a full shard is uploaded

A restarted run replays its finished layers: one forward pass through what they became (or through the
original, where a pass propagates that) makes the input of the first unfinished one, bit by bit as before.

Activations of the calibration set lie in files on scratch (decoder.activations); memory holds one layer, the
Hessians of a stage (of a layer where a pass wants all at once) and the batches in work, each with Hessians of its
own, whatever the depth.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from quantizer.algorithms.grid import Scheme
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.writer import MAX_SHARD_BYTES, ShardWriter, Sink, plan_shards
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel
from quantizer.decoder.walk import LayerWalk
from quantizer.formats.interface import HEAD
from quantizer.machine import calibration_dtype, trim_memory
from quantizer.passes.activation_files import ActivationFiles
from quantizer.passes.data_type import check_range
from quantizer.passes.finished import Finished, NothingFinished
from quantizer.passes.interface import (
    FinishedLayer,
    FloatModel,
    HeadContext,
    LayerContext,
    LayerPass,
    Reference,
)
from quantizer.passes.output import Output
from quantizer.passes.quantized import QuantizedLayers
from quantizer.passes.ranges import WatchedWalk
from quantizer.passes.sizes import check_sizes
from quantizer.passes.written import told

logger = logging.getLogger(__name__)

HEAD_NUMBERS = 2**24
"""Weights of the head that are rounded at a time."""
OnProgress = Callable[[str, int, int], None]
"""Called with (stage, layers done, layers in all) after each layer."""


def quantize(
    layout: DecoderLayout,
    tokens: TokenBatches,
    layer_pass: LayerPass,
    sink: Sink,
    on_progress: OnProgress,
    device: torch.device,
    scratch: Path,
    *,
    finished: Finished | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> QuantizeReport:
    """Quantizes a model and gives every file of the result to the sink.

    Args:
        layout: the model, its tensors checked.
        tokens: the calibration set.
        sink: takes finished files by their name in the model directory, from a background thread.
        on_progress: called with ("quantize", layers done, layers in all).
        device: where layers run.
        scratch: directory for files under construction and for activations.
        finished: what an earlier attempt finished; by default nothing, and nothing is kept.
        dtype: what activations are computed in where neither the pass nor an earlier attempt says; by default what
            suits the device.
        max_shard_bytes: bound of a shard.

    Raises:
        QuantizationError: ModelNotFound, ModelUnsupported, InvalidWorkflow before anything is computed;
            NumericalFailure and DataInsufficient naming the module; ScratchFull; and what source and sink
            raise.
    """
    finished = finished or NothingFinished()
    # an earlier attempt may have had another processor: half a run in each type would be no run of either
    computed_in = (
        layer_pass.calibration_dtype or finished.calibration_dtype or dtype or calibration_dtype(device)
    )
    # what is learned needs tensors that autograd takes
    with torch.no_grad() if layer_pass.follows_float else torch.inference_mode():
        run = _Run(layout, tokens, layer_pass, device, computed_in, scratch, on_progress)
        try:
            if layer_pass.chooses:
                run = run.settled(finished)
            return run.run(sink, finished, max_shard_bytes)
        finally:
            run.files.clear()


class _Run:
    """One run of the loop."""

    def __init__(
        self,
        layout: DecoderLayout,
        tokens: TokenBatches,
        layer_pass: LayerPass,
        device: torch.device,
        dtype: torch.dtype,
        scratch: Path,
        on_progress: OnProgress,
    ) -> None:
        self.device, self.scratch, self.tokens, self.unbound = device, scratch, tokens, layer_pass
        self.on_progress = on_progress
        self.layout, self.reader = layout, layout.reader
        self.model = DecoderModel(self.layout, device, dtype)
        self.report = QuantizeReport(
            input_bytes=self.reader.bytes, calibration_tokens=tokens.tokens, calibration_dtype=dtype
        )
        self.layout.check_tensors()
        check_sizes(self.layout, layer_pass)
        self.layer_pass = layer_pass.bind(self.layout)
        self.transform = self.layer_pass.transform
        self.quantized = QuantizedLayers(
            self.layout,
            layer_pass.format,
            layer_pass.grid,
            lambda name: layer_pass.packs and layer_pass.converts(name),
            head=layer_pass.rounds_head,
        )
        self.output = Output(self.layout, self.layer_pass, self.quantized)
        self.report.stored_in, self.report.left_out = self.output.stored_in, self.output.left_out
        self.batches = tokens.batches()
        self.shapes = [(batch.shape[0], batch.shape[1]) for batch in self.batches]
        width = layout.stream.widest(self.shapes)
        self.files = ActivationFiles(scratch, self.shapes, width, dtype, device)

    def settled(self, finished: Finished) -> "_Run":
        """The run whose pass knows bits and groups of every linear: as an earlier attempt chose them, or chosen now."""
        linears = {
            self.layout.layer_prefix(index) + name
            for index in range(self.layout.layers)
            for name in self.layout.linears(index)
        } | ({HEAD} if self.unbound.rounds_head else set())
        schemes = finished.load_schemes()
        if schemes is None or set(schemes) != linears:
            schemes = self._chosen()
            finished.save_schemes(schemes)
        logger.info("bits of the linears: %s", told(schemes.values()))
        run = self._with(self.unbound.with_schemes(schemes))
        run.report.seconds = self.report.seconds
        return run

    def _chosen(self) -> dict[str, Scheme]:
        whole = FloatModel(
            self.model,
            self.tokens,
            self._float_layers,
            self.files.store,
            self._timed,
            lambda: self.on_progress("quantize", 0, self.layout.layers),
            self._other_bytes,
            self.transform,
        )
        try:
            return self.unbound.choose(whole)
        finally:
            self.files.clear()

    def _with(self, layer_pass: LayerPass) -> "_Run":
        return _Run(
            self.layout,
            self.tokens,
            layer_pass,
            self.device,
            self.model.dtype,
            self.scratch,
            self.on_progress,
        )

    def _float_layers(self) -> Iterator[dict[str, Tensor]]:
        names = [self.quantized.stored(index) for index in range(self.layout.layers)]
        for index, read in enumerate(self.reader.prefetched(names)):
            yield self.output.loaded_layer(index, read)

    def _other_bytes(self) -> int:
        """Of what is written, headers included, all but the packed tensors; of a header the longest is counted."""
        longest = self._with(self.unbound.candidates(self.layout)[-1])
        layers = (longest.quantized.planned(index)[0] for index in range(self.layout.layers))
        packed = [*layers, longest.quantized.planned_head()]
        data = sum(math.prod(shape) * dtype.itemsize for one in packed for dtype, shape in one.values())
        return sum(shard.size for shard in plan_shards(longest.output.groups(), MAX_SHARD_BYTES)) - data

    def run(self, sink: Sink, finished: Finished, max_shard_bytes: int) -> QuantizeReport:
        """The whole model."""
        model, layout = self.model, self.layout
        self.on_progress("quantize", 0, layout.layers)
        with ShardWriter(self.output.groups(), self.scratch, sink, max_shard_bytes) as writer:
            self.report.output_bytes, self.report.files = writer.bytes, list(writer.files)
            self._write_outside(writer)
            with ExitStack() as stack:
                hidden = stack.enter_context(self.files.hidden())
                with self._timed("calibrate"):
                    for number, batch in enumerate(model.embed(self.batches)):
                        hidden.write(number, self.transform.hidden(batch))
                reference = self._reference(hidden, stack)
                self._replay(finished, hidden, reference, writer)
                layers = self.reader.prefetched(
                    [
                        self.quantized.stored(index)
                        for index in range(self.report.resumed_layers, layout.layers)
                    ]
                )
                for index in range(self.report.resumed_layers, layout.layers):
                    layer = self._run_layer(index, layers, hidden, reference)
                    check_range(hidden.largest, self.output.stored_dtype, index, self.layer_pass.wider_dtype)
                    self._keep(layer, writer)
                    finished.save(index, layer)
                    del layer
                    trim_memory()  # otherwise what each layer leaves behind adds up
                    self.on_progress("quantize", index + 1, layout.layers)
                self.report.largest_activation = hidden.largest
                if self.quantized.packs_head:
                    self._keep(self._run_head(hidden), writer)
        self.report.bits_per_weight = self.output.bits_per_weight()
        self.report.own_head_bytes = self.output.own_head_bytes()
        return self.report

    def _write_outside(self, writer: ShardWriter) -> None:
        """All that no layer decides."""
        for name, data in self.output.files().items():
            writer.put_file(name, data)
            self.report.files.append(name)
        with self._timed("write"):
            self.output.write_outside(writer)

    def _reference(self, hidden: ActivationStore, stack: ExitStack) -> ActivationStore | None:
        """The float model's own `hidden`, for a pass that follows it."""
        if not self.layer_pass.follows_float:
            return None
        return stack.enter_context(self.files.copied(hidden, "float-hidden"))

    def _float_walk(self, index: int, weights: dict[str, Tensor], reference: ActivationStore) -> LayerWalk:
        return self.model.walk(index, weights, reference, self.files.of_float)

    def _replay(
        self,
        finished: Finished,
        hidden: ActivationStore,
        reference: ActivationStore | None,
        writer: ShardWriter,
    ) -> None:
        """Takes over the leading layers that are finished; the stores become the input of the next one."""
        for index in range(self.layout.layers):
            with self._timed("read"):
                layer = finished.load(index)
            if layer is None or not self.output.fits(index, layer, self.model.dtype):
                return
            if self.layer_pass.replays_unrounded:
                weights = self._original(index)
            else:
                tensors = self.output.apart(dict(layer.tensors))
                weights = self.quantized.weights_as_read(index, tensors, self.layer_pass.replayed)
            with self._timed("calibrate"), self._walk(index, weights, hidden) as walk:
                walk.finish(walk.stages)
            if reference is not None:
                with (
                    self._timed("calibrate"),
                    self._float_walk(index, self._original(index), reference) as walk,
                ):
                    walk.finish(walk.stages)
            check_range(hidden.largest, self.output.stored_dtype, index, self.layer_pass.wider_dtype)
            self._keep(layer, writer)
            self.report.resumed_layers = index + 1
            self.on_progress("quantize", index + 1, self.layout.layers)

    def _original(self, index: int) -> dict[str, Tensor]:
        return self.output.loaded_layer(
            index, {name: self.reader.tensor(name) for name in self.quantized.stored(index)}
        )

    def _run_layer(
        self,
        index: int,
        layers: Iterator[dict[str, Tensor]],
        hidden: ActivationStore,
        reference: ActivationStore | None,
    ) -> FinishedLayer:
        layout, prefix = self.layout, self.layout.layer_prefix(index)
        with self._timed("read"):
            weights = self.output.loaded_layer(index, next(layers))
        kept = {
            prefix + name: self.output.stored(prefix + name, value)
            for name, value in weights.items()
            if not self.quantized.is_converted(index, name)
        }

        def stored(name: str, parameter: Tensor) -> Tensor:
            # a copy always: the pass goes on to change the parameter in place
            turned = layout.transposed(index, name, parameter)
            return self.output.stored(prefix + name, turned).to("cpu", copy=True)

        finer = self.output.finer(index, weights, self.model.dtype)
        watch = self.transform.watch()
        with ExitStack() as stack:
            beside = None
            if reference is not None:  # a copy: the pass changes the other in place
                copied = {name: value.clone() for name, value in weights.items()}
                float_walk = stack.enter_context(self._float_walk(index, copied, reference))
                inputs = stack.enter_context(self.files.copied(hidden, "input"))
                beside = Reference(float_walk, reference, inputs, hidden, self.files.of_float)
            plain = stack.enter_context(self._walk(index, weights, hidden))
            walk = plain if watch is None else WatchedWalk(plain, watch)

            def weight(name: str) -> Tensor:
                if name not in finer:
                    return walk.linear(name).weight
                return layout.transposed(index, f"{name}.weight", finer.pop(name).to(self.device))

            layer = self.layer_pass.run(
                LayerContext(
                    prefix,
                    walk,
                    lambda: self.model.folds(index, plain),
                    weight,
                    stored,
                    self.device,
                    self._timed,
                    beside,
                )
            )
        layer.tensors = self.output.joined(kept | layer.tensors | self.output.divisors(index))
        layer.calibration_dtype = self.model.dtype
        layer.ranges = None if watch is None else watch.ranges()
        return layer

    def _run_head(self, hidden: ActivationStore) -> FinishedLayer:
        """Not kept for a restart, which makes it again from what the last layer makes."""
        return self.layer_pass.run_head(
            HeadContext(
                lambda: (self.model.final(hidden.read(number)) for number in range(len(hidden))),
                self._head_slices,
                self.device,
                self._timed,
            )
        )

    def _head_slices(self) -> Iterator[Tensor]:
        for rows in self.output.head_slices(max(1, HEAD_NUMBERS // self.layout.width)):
            self.on_progress("quantize", self.layout.layers, self.layout.layers)  # may end the run
            yield rows.to(self.device)

    def _keep(self, layer: FinishedLayer, writer: ShardWriter) -> None:
        self.report.linears += layer.linears
        self.report.ranges += [layer.ranges] if layer.ranges else []
        with self._timed("write"):
            for name, tensor in layer.tensors.items():
                writer.write(name, tensor)

    def _walk(self, index: int, weights: dict[str, Tensor], hidden: ActivationStore) -> LayerWalk:
        # what the last layer makes is read by a head that is rounded, and by a pass that fits it
        read_later = self.quantized.packs_head or self.layer_pass.follows_float
        wants_output = index + 1 < self.layout.layers or read_later
        return self.model.walk(index, weights, hidden, self.files.store, wants_output=wants_output)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.report.seconds[stage] = self.report.seconds.get(stage, 0.0) + time.perf_counter() - started
