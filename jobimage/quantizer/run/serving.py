"""Speed and memory of the input model and of the result, in the software that servable.py chose."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from quantization_api.metrics import Metric
from quantization_api.status import MetricResult
from quantizer.checkpoint.side_files import side_files
from quantizer.checkpoint.source import Source
from quantizer.checkpoint.weight_files import INDEX_NAME
from quantizer.checkpoint.writer import scratch_errors
from quantizer.evaluation.serving.child import INPUT, RESULT, Served, Server, serve
from quantizer.evaluation.serving.figures import Shape, figure
from quantizer.evaluation.serving.software import (
    Pythons,
    choose_for_input,
)
from quantizer.store.interface import StopCheck
from quantizer.store.location import Location

BLOCK_BYTES = 16_000_000


@dataclass(frozen=True)
class Model:
    """A model that is to be served."""

    source: Source
    weights: tuple[str, ...]
    folder: Path | None
    """Where it lies on this machine; None: it is fetched."""
    on_cpu: bool = False
    """Whether it runs on the processor though there is a GPU, as an ONNX graph that was made for it does."""

    @classmethod
    def at(cls, place: Location, source: Source, weights: Iterable[str], *, as_stored: bool) -> "Model":
        """A model in a store; on this machine it is served where it lies, if it is to be read as it is stored."""
        here = as_stored and place.bucket is None
        return cls(source, tuple(weights), Path(place.path) if here else None)

    @property
    def bytes(self) -> int:
        """Of its weights."""
        sizes = self.source.list()
        return sum(sizes[name] for name in self.weights)


@dataclass(frozen=True)
class Machine:
    """What a server gets of this machine."""

    device: torch.device
    pythons: Pythons
    scratch: Path
    stop_check: StopCheck

    def server(self, software: str, *, on_cpu: bool) -> Server:
        """A software on it."""
        device = "cpu" if on_cpu else self.device.type
        return Server(software, device, torch.get_num_threads(), self.pythons, self.scratch, self.stop_check)


def measure(
    metrics: Iterable[Metric],
    software: Mapping[str, str],
    input_model: Model,
    results: Mapping[str, Model],
    machine: Machine,
) -> dict[str, MetricResult]:
    """What was measured, by name of the metric. Each software serves the input model once, and the result once.

    Args:
        software: as choose_software.
        results: by software: the checkpoint, or for onnxruntime the graph.

    Raises:
        QuantizationError: as evaluation.serving.child.serve; ScratchFull; and what the sources raise.
    """
    served = [metric for metric in metrics if metric.served]
    shapes: dict[str, list[Shape]] = {}
    for metric in served:
        shapes.setdefault(software[metric.name], []).append(Shape.of(metric))
    before: dict[str, Served] = {}
    after: dict[str, Served] = {}
    for name, asked in shapes.items():
        distinct = list(dict.fromkeys(asked))
        beside = choose_for_input(name, machine.pythons)
        on_cpu = results[name].on_cpu
        before[name] = _serve(machine.server(beside, on_cpu=on_cpu), input_model, distinct, INPUT)
        after[name] = _serve(machine.server(name, on_cpu=on_cpu), results[name], distinct, RESULT)
    return {
        metric.name: _result(metric, before[software[metric.name]], after[software[metric.name]])
        for metric in served
    }


def _serve(server: Server, model: Model, shapes: list[Shape], what: str) -> Served:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # this process keeps what it freed, which the server needs
    copy = server.scratch / "served-model"
    try:
        folder = model.folder or _fetch(model, copy, server.stop_check)
        return serve(server, folder, shapes, what)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _fetch(model: Model, target: Path, stop_check: Callable[[], None]) -> Path:
    """Copies weights, configs and tokenizer."""
    sizes = model.source.list()
    names = {*model.weights, "config.json", INDEX_NAME, *side_files(model.source)} & set(sizes)
    target.mkdir(parents=True)
    for name in sorted(names):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_errors(), path.open("wb") as file:
            for start in range(0, sizes[name], BLOCK_BYTES):
                stop_check()
                file.write(model.source.read(name, start, min(BLOCK_BYTES, sizes[name] - start)))
    return target


def _result(metric: Metric, before: Served, after: Served) -> MetricResult:
    shape = Shape.of(metric)
    given, found = figure(metric, before.timings[shape]), figure(metric, after.timings[shape])
    return MetricResult(
        name=metric.name,
        input=given.value,
        output=found.value,
        low=found.low,
        high=found.high,
        measured_with=_measured_with(before, after),
    )


def _measured_with(before: Served, after: Served) -> str:
    told = f"{after.software} on {after.device}"
    if before.software != after.software:
        told += f"; the input model in {before.software}"
    return told[:256]
