"""Prometheus metrics of a run, read from the tracker when they are scraped."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from quantizer.progress.tracker import Tracker


class RunCollector(Collector):
    """Turns the tracker's state into metric families.

    Args:
        tracker: of the run.
        name, namespace: of the QuantizationJob, as labels of quantizer_run_info. Prometheus calls the target `job`.
        peak_memory: peak resident memory of the process, in bytes.
        gpu_peak_memory: peak memory on the GPU, in bytes; 0 without one.
    """

    def __init__(
        self,
        tracker: Tracker,
        name: str,
        namespace: str,
        peak_memory: Callable[[], int],
        gpu_peak_memory: Callable[[], int],
    ) -> None:
        self._tracker, self._name, self._namespace = tracker, name, namespace
        self._peak_memory, self._gpu_peak_memory = peak_memory, gpu_peak_memory

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        progress = self._tracker.snapshot()
        info = GaugeMetricFamily(
            "quantizer_run_info", "What runs here; always 1.", labels=["name", "job_namespace", "stage"]
        )
        info.add_metric([self._name, self._namespace, progress.stage], 1)
        yield info
        yield GaugeMetricFamily(
            "quantizer_progress_ratio", "Share of the work that is done, 0 to 1.", self._tracker.share()
        )
        yield GaugeMetricFamily("quantizer_layers", "Decoder layers of the model.", progress.layers)
        yield GaugeMetricFamily("quantizer_layers_done", "Decoder layers that are finished.", progress.layer)
        seconds = CounterMetricFamily(
            "quantizer_stage_seconds", "Wall clock time spent in a stage.", labels=["stage"]
        )
        for stage, value in sorted(self._tracker.seconds().items()):
            seconds.add_metric([stage], value)
        yield seconds
        tokens = CounterMetricFamily(
            "quantizer_tokens", "Tokens that a stage works on: calibrate, evaluate.", labels=["stage"]
        )
        for stage, count in sorted(self._tracker.tokens().items()):
            tokens.add_metric([stage], count)
        yield tokens
        transferred = CounterMetricFamily(
            "quantizer_bytes",
            "Bytes moved: direction read or written; kind model, data or artifact.",
            labels=["direction", "kind"],
        )
        for what, count in sorted(self._tracker.bytes().items()):
            direction, _, kind = what.partition(" ")
            transferred.add_metric([direction, kind], count)
        yield transferred
        yield GaugeMetricFamily(
            "quantizer_peak_memory_bytes", "Peak resident memory of the process.", self._peak_memory()
        )
        yield GaugeMetricFamily(
            "quantizer_gpu_peak_memory_bytes",
            "Peak memory on the GPU; 0 without one.",
            self._gpu_peak_memory(),
        )


def registry_of(collector: RunCollector) -> CollectorRegistry:
    """A registry with this collector alone."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry
