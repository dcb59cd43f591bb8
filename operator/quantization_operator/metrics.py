"""The operator's Prometheus metrics: names, labels and help in one place.

No label carries the name of an object: the number of series is bounded by categories, codes and namespaces.
`python -m quantization_operator.metrics` prints the reference page.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from quantization_api import ENGINE_VERSION
from quantization_api.failures import Category
from quantization_api.passes import PASS_TYPES
from quantization_api.status import QuantizationJobStatus
from quantization_operator.cache import Cache
from quantization_operator.identity import KINDS, Kind
from quantization_operator.parsing import moment
from quantization_operator.queue import WorkQueue
from quantization_operator.snapshots import QuantizationJob

JOB_SECONDS = (30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 57600, 115200)
QUEUE_SECONDS = (1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400, 57600)
RECONCILE_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15)

PASS_NAMES = frozenset(name for kind in PASS_TYPES for name in get_args(kind.model_fields["type"].annotation))

SUFFIXES = {"counter": "_total", "info": "_info"}
PROCESS = (
    "Beside these, `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds` and the other "
    "`process_*` of\nPrometheus' client say what the process itself needs."
)

LIVE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "quantization_is_leader": (
        "gauge",
        "1 while this process leads, 0 while it waits for the lease; at most one replica reports 1.",
        (),
    ),
    "quantization_jobs": (
        "gauge",
        "QuantizationJobs by phase. Only the leader reports them, so a sum over replicas is right.",
        ("phase", "namespace"),
    ),
    "quantization_workqueue_depth": ("gauge", "Jobs waiting for a worker of the operator.", ()),
    "quantization_workqueue_oldest_seconds": ("gauge", "How long the oldest of them has been waiting.", ()),
    "quantization_workqueue_retries_total": ("counter", "Reconciliations queued again after an error.", ()),
    "quantization_watch_age_seconds": (
        "gauge",
        "Seconds since the watch last proved alive: it delivered an event, or a sweep found nothing missed.",
        (),
    ),
}
"""Metrics that are read at the moment of a scrape."""


class Metrics:
    """The metrics of one operator process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.job_seconds = Histogram(
            "quantization_job_duration_seconds",
            "Seconds from the creation of the Job to its end.",
            ("passes", "outcome"),
            buckets=JOB_SECONDS,
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "quantization_job_queue_seconds",
            "Seconds from the creation of the QuantizationJob to its first running pod.",
            buckets=QUEUE_SECONDS,
            registry=self.registry,
        )
        self.failures = Counter(
            "quantization_job_failures_total", "Failed jobs.", ("category",), registry=self.registry
        )
        self.reused = Counter(
            "quantization_jobs_reused_total",
            "Jobs whose result already existed: a pod found it, or reuse: Trusted took it over.",
            registry=self.registry,
        )
        self.trials = Counter(
            "quantization_trials_total",
            "Points that searches have tried, or found tried, when they end.",
            registry=self.registry,
        )
        self.artifact_bytes = Counter(
            "quantization_artifact_bytes_total",
            "Bytes of the models that were written.",
            registry=self.registry,
        )
        self.artifacts_left = Counter(
            "quantization_artifacts_left_total",
            "Artifacts that artifactPolicy Delete could not remove before their object was gone; events name them.",
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "quantization_reconcile_seconds",
            "Seconds of one reconciliation, including its requests, by the rule that decided, or error.",
            ("outcome",),
            buckets=RECONCILE_SECONDS,
            registry=self.registry,
        )
        self.api_requests = Counter(
            "quantization_api_requests_total",
            "Requests to the API server, without watches; code 0: no answer.",
            ("verb", "code"),
            registry=self.registry,
        )
        self.unreadable = Counter(
            "quantization_unreadable_objects_total",
            "Objects that were ignored, because they do not say which QuantizationJob they are or belong to.",
            ("kind",),
            registry=self.registry,
        )
        self.build = Info(
            "quantization_build", "Release of the operator; always 1.", ("version",), registry=self.registry
        )
        ProcessCollector(registry=self.registry)
        self.defaults_refused = Counter(
            "quantization_defaults_refused_total",
            "Changes of the file of defaults that could not be used; those before stay in force, and the log says why.",
            registry=self.registry,
        )
        self._be_born()

    def _be_born(self) -> None:
        """A counter that is first seen at 1 has not increased, for Prometheus: so each is there from the beginning."""
        for category in Category:
            self.failures.labels(category)
        for kind in KINDS:
            self.unreadable.labels(kind)
        self.build.labels(ENGINE_VERSION)

    def observe_unreadable(self, kind: Kind) -> None:
        """Count an object that cannot be read."""
        self.unreadable.labels(kind).inc()

    def observe_defaults(self, usable: bool) -> None:
        """Count a file of defaults that cannot be used."""
        if not usable:
            self.defaults_refused.inc()

    def observe_request(self, verb: str, code: int) -> None:
        """Count an answer of the API server."""
        self.api_requests.labels(verb, str(code)).inc()

    def observe_transition(
        self,
        qjob: QuantizationJob,
        before: QuantizationJobStatus,
        after: QuantizationJobStatus,
        now: datetime,
    ) -> None:
        """Count what a written status says anew: a first start, a success, a failure."""
        if after.phase == before.phase:
            return
        first = before.progress is None and before.attempts is None and not after.restarts
        if after.phase == "Running" and first:
            self.queue_seconds.observe(max(0.0, (now - qjob.created).total_seconds()))
        if after.phase not in ("Succeeded", "Failed"):
            return
        started, ended = moment(after.start_time), moment(after.completion_time)
        if started and ended:
            ran = ended - started
            self.job_seconds.labels(_passes(after.passes or ""), after.phase).observe(
                max(0.0, ran.total_seconds())
            )
        if after.search:
            self.trials.inc(after.search.done)
        if after.failure:
            self.failures.labels(after.failure.category).inc()
        if after.artifact and after.artifact.reused_from:
            self.reused.inc()
        elif after.artifact:
            self.artifact_bytes.inc(after.artifact.size_bytes)


class LiveCollector(Collector):
    """What is read from the cache, the queue and the lease when Prometheus asks."""

    def __init__(
        self,
        cache: Cache,
        queue: WorkQueue,
        watch_age: Callable[[], float],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._cache = cache
        self._queue = queue
        self._watch_age = watch_age
        self._leads = leads

    def collect(self) -> Iterator[Metric]:
        """The metrics of LIVE, with their values now."""
        leads = self._leads()
        tally: Tally[tuple[str, ...]] = Tally(
            (record.qjob.phase or "Pending", record.qjob.namespace)
            for record in (self._cache.records() if leads else ())
            if record.qjob is not None
        )
        yield _family("quantization_is_leader", {(): int(leads)})
        yield _family("quantization_jobs", tally)
        yield _family("quantization_workqueue_depth", {(): self._queue.depth})
        yield _family("quantization_workqueue_oldest_seconds", {(): self._queue.oldest_seconds})
        yield _family("quantization_workqueue_retries_total", {(): self._queue.retries})
        yield _family("quantization_watch_age_seconds", {(): self._watch_age()})


def _passes(told: str) -> str:
    """The passes as a label: a status is not only the operator's to write, and a label must not be anybody's text."""
    return told if not told or PASS_NAMES.issuperset(told.split("+")) else "other"


def _family(name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
    kind, text, labels = LIVE[name]
    family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(name, text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def reference_page() -> str:
    """The metrics as a page in Markdown."""
    rows: list[tuple[str, str, tuple[str, ...], str]] = [
        (name, kind, labels, text) for name, (kind, text, labels) in LIVE.items()
    ]
    for metric in Metrics().__dict__.values():
        if isinstance(metric, Counter | Histogram | Info):
            description = next(iter(metric.describe()))
            name = description.name + SUFFIXES.get(description.type, "")
            rows.append((name, description.type, metric._labelnames, description.documentation))
    lines = [
        "# Metrics of the operator",
        "",
        "Generated by `python -m quantization_operator.metrics`; do not edit. Served at `/metrics`.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for name, kind, labels, text in sorted(rows):
        shown = ", ".join(f"`{label}`" for label in labels)
        lines.append(f"| `{name}` | {kind} | {shown} | {text} |")
    return "\n".join([*lines, "", PROCESS]) + "\n"


if __name__ == "__main__":
    print(reference_page(), end="")
