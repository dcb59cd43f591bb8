"""The loop between cache, queue, reconcile and writer: observe a job, decide, do it, until nothing is left to do."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from quantization_api.status import Attempts, QuantizationJobStatus
from quantization_operator.cache import Cache, Record
from quantization_operator.decision import Decision, Event, Observed, Rejection
from quantization_operator.defaults import Defaults
from quantization_operator.hindrances import stuck
from quantization_operator.identity import Key
from quantization_operator.kube import ApiError
from quantization_operator.kueue import Kueue
from quantization_operator.metrics import Metrics
from quantization_operator.ownership import cleanup_job, is_cleanup, own_job, pods_of, stray_job
from quantization_operator.policies import artifact, retry, reuse
from quantization_operator.queue import WorkQueue
from quantization_operator.read import Reader
from quantization_operator.reconcile import reconcile
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import ChildJob, ChildPod, KubernetesWarning, QuantizationJob
from quantization_operator.status_writer import StatusWriter
from quantization_operator.time_budget import TimeBudget
from quantization_operator.workload import cleanup_name, job_name
from quantization_operator.write import CONFLICT, NOT_FOUND, Writer

logger = logging.getLogger(__name__)

MOST_STEPS = 7
"""Decisions about one job in a row; the longest chain is three looks, finalizer, create, refused, status."""


EVENTS_SHARE, EVENTS_AT_ONCE = 0.05, 2.0
"""Of all time, and seconds in a row, that reading events may take: see TimeBudget."""
EVENTS_LATER_SECONDS = 15.0
"""How long a job waits for the reason why it waits, when that time is used up."""
PASSING_SHARE, PASSING_AT_ONCE = 0.2, 2.0
"""The same of writing what is likely over soon. When pods start slowly because the API server has too much to do, each
job would give it two writes more, and the pods would start more slowly still."""
PASSING_LATER_SECONDS = 5.0
"""How long such a status waits, when that time is used up."""


@dataclass(slots=True)
class Extra:
    """What was read for one decision beyond the cache."""

    objects: tuple[tuple[ChildJob, ...], tuple[ChildPod, ...]] | None = None
    earlier: tuple[QuantizationJob, ...] | None = None
    warnings: tuple[KubernetesWarning, ...] | None = None
    rejection: Rejection | None = None


class Controller:
    """Reconciles jobs. `now` is the wall clock, `clock` the monotonic one."""

    def __init__(
        self,
        cache: Cache,
        queue: WorkQueue,
        reader: Reader,
        kueue: Kueue,
        writer: Writer,
        metrics: Metrics,
        settings: OperatorSettings,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        defaults: Callable[[], Defaults] = Defaults,
    ) -> None:
        self._cache = cache
        self._queue = queue
        self._reader = reader
        self._kueue = kueue
        self._writer = writer
        self._statuses = StatusWriter(writer)
        self._metrics = metrics
        self._settings = settings
        self._now = now
        self._clock = clock
        self._defaults = defaults
        self._events_time = TimeBudget(clock, EVENTS_SHARE, EVENTS_AT_ONCE)
        self._passing_time = TimeBudget(clock, PASSING_SHARE, PASSING_AT_ONCE)

    async def work(self) -> None:
        """One worker: take jobs from the queue forever."""
        while True:
            key = await self._queue.get()
            started = self._clock()
            outcome = "error"
            try:
                decision = await self._reconcile(key)
                outcome = decision.rule
                if decision.retry:
                    self._queue.retry(key, at_least=decision.retry_after)
                else:
                    self._queue.forget(key)
            except ApiError as error:
                delay = self._queue.retry(key, at_least=error.retry_after)
                level = logging.INFO if error.temporary or error.code == CONFLICT else logging.ERROR
                logger.log(level, "%s; again in %.1f s", error, delay, extra=_context(key))
            except Exception:  # a defect in one job's path must not end the worker of all jobs
                delay = self._queue.retry(key)
                logger.exception("reconciliation failed; again in %.1f s", delay, extra=_context(key))
            finally:
                self._queue.done(key)
                self._metrics.reconcile_seconds.labels(outcome).observe(self._clock() - started)

    async def _reconcile(self, key: Key) -> Decision:
        """Decide and act until a decision asks for nothing more; that decision."""
        extra = Extra()
        for _ in range(MOST_STEPS):
            record = self._cache.record(key)
            if record is None or record.qjob is None:
                return Decision("gone")
            observed = self._observe(record, record.qjob, extra)
            decision = reconcile(observed, self._settings, self._now())
            if decision.adopted is not None:
                record.adopted = decision.adopted
            if decision.look == "objects":
                extra.objects = await self._look(observed.qjob)
            elif decision.look == "earlier":
                extra.earlier = await self._earlier(observed)
            elif decision.look == "events":
                if not self._events_time.left:
                    self._queue.after(key, EVENTS_LATER_SECONDS)
                    return decision
                with self._events_time:
                    uid = _stuck_uid(observed)
                    extra.warnings = await self._reader.warnings(key.namespace, uid, self._now())
            elif decision.look == "queue" and observed.child is not None:
                record.queue = await self._kueue.entry(observed.child)
            elif decision.finalizers is not None:
                changed = await self._writer.patch_finalizers(observed.qjob, decision.finalizers)
                if changed is None:
                    return decision  # deleted meanwhile; the watch says so too
                self._cache.put(changed)
            elif decision.create is not None:
                made = await self._create(observed.qjob, decision.create)
                if not isinstance(made, Rejection):
                    self._cache.put(made)
                    if not (made.deleting or is_cleanup(observed.qjob, made)):
                        record.adopted = made.uid
                    # Its status comes after the Jobs that others wait for: a Job costs the API server far less.
                    self._queue.add(key)
                    return decision
                extra.rejection = made
                logger.info("the Job is refused: %s", made.message, extra=_context(key))
            elif decision.passing and not self._passing_time.left:
                self._queue.after(key, PASSING_LATER_SECONDS)
                return decision
            else:
                with self._passing_time if decision.passing else nullcontext():
                    extra.rejection = await self._act(key, record, observed.qjob, decision)
                if extra.rejection is None:
                    return decision
        raise AssertionError(f"no end of decisions about {key.uid}")

    async def _look(self, qjob: QuantizationJob) -> tuple[tuple[ChildJob, ...], tuple[ChildPod, ...]]:
        names = [job_name(qjob.name, qjob.uid)]
        if qjob.deleting:
            names.append(cleanup_name(qjob.name, qjob.uid))
        found = [await self._reader.job(qjob.namespace, name) for name in names]
        jobs = tuple(job for job in found if job)
        pods = await self._reader.pods(qjob.namespace, qjob.uid)
        for job in jobs:
            self._cache.put(job)
        for pod in pods:  # one that was taken away is counted there, also before the watch tells of it
            self._cache.put(pod)
        return jobs, pods

    async def _earlier(self, observed: Observed) -> tuple[QuantizationJob, ...]:
        last = reuse.last(observed.peers)
        if last is None:
            return ()
        found = await self._reader.whole_qjob(observed.qjob.namespace, last.name)
        return () if found is None else (found,)

    async def _create(self, qjob: QuantizationJob, manifest: Mapping[str, Any]) -> ChildJob | Rejection:
        try:
            return await self._writer.create_job(qjob, manifest)
        except ApiError as error:
            return _rejection(qjob, error)

    async def _stop(self, qjob: QuantizationJob, job: ChildJob) -> Rejection | None:
        try:
            stopped = await self._writer.delete_job(job)
        except ApiError as error:
            rejection = _rejection(qjob, error)
            logger.info("Job %s cannot be deleted: %s", job.name, rejection.message, extra=_context_of(qjob))
            return rejection
        if stopped is not None:  # before the watch says so, the job must not be taken for one that goes on
            self._cache.put(stopped)
        return None

    async def _act(
        self, key: Key, record: Record, qjob: QuantizationJob, decision: Decision
    ) -> Rejection | None:
        """Do what was decided; the rejection of a Job's deletion without which the decision is to be made again."""
        record.problem = decision.problem
        if decision.status is not None:
            try:
                await self._write(key, record, qjob, decision, decision.status)
            except ApiError as error:
                if error.code == NOT_FOUND:
                    return None  # deleted meanwhile; the watch says so too
                raise
        elif not decision.release:
            await self._tell(qjob, decision.events)
        if decision.delete is not None:
            rejection = await self._stop(qjob, decision.delete)
            if rejection is not None and not decision.release:
                return rejection
        if decision.release:
            await self._tell(qjob, decision.events)
            await self._writer.patch_finalizers(qjob, artifact.without(qjob))
            why = "; ".join(event.message for event in decision.events) or decision.rule
            left = any(event.type == "Warning" for event in decision.events)
            if left:
                self._metrics.artifacts_left.inc()
            level = logging.WARNING if left else logging.INFO
            logger.log(level, "%s goes: %s", qjob.name, why, extra=_context(key))
        if decision.remove:
            await self._writer.delete_qjob(qjob)
            logger.info("%s has expired", qjob.name, extra=_context(key))
        if decision.requeue_after is not None:
            self._queue.after(key, decision.requeue_after)
        return None

    async def _write(
        self,
        key: Key,
        record: Record,
        qjob: QuantizationJob,
        decision: Decision,
        status: QuantizationJobStatus,
    ) -> None:
        before = qjob.read_status()
        wanted = status
        written, status = await self._statuses.write(qjob, wanted)
        self._cache.put(written)
        if status is not wanted:
            record.progress = None
        now = self._now()
        if status.progress != before.progress:
            record.progress_written = now
        self._metrics.observe_transition(qjob, before, status, now)
        if status.phase != before.phase:
            _log(qjob, status, _context(key) | {"job": qjob.name, "rule": decision.rule})
        await self._tell(written, decision.events)

    async def _tell(self, qjob: QuantizationJob, events: Sequence[Event]) -> None:
        for event in events:
            try:
                await self._writer.post_event(qjob, event, self._now())
            except ApiError as error:  # the status or the log has it; an event is only the louder voice
                logger.warning(
                    "event %s (%s) was not posted: %s",
                    event.reason,
                    event.message,
                    error,
                    extra=_context_of(qjob),
                )

    def _observe(self, record: Record, qjob: QuantizationJob, extra: Extra) -> Observed:
        """What is known of a job now: the cache, or what was just read in its place, and what is remembered."""
        jobs, pods = extra.objects or (tuple(record.jobs.values()), tuple(record.pods.values()))
        believed = record.believed
        child = own_job(qjob, jobs, believed)
        cleanup = cleanup_job(qjob, jobs) if qjob.deleting else None
        own = pods_of(child, pods)
        if record.disruptions_before is None and not qjob.finished:
            counted = qjob.read_status().attempts or Attempts()
            seen = len(record.disruptions) + retry.blameless(own)
            record.disruptions_before = max(0, counted.disrupted - seen)
        return Observed(
            qjob=qjob,
            child=child,
            proven=child is None or child.uid == believed or extra.objects is not None,
            stray=stray_job(qjob, jobs, believed),
            pods=own,
            cleanup=cleanup,
            cleanup_pods=pods_of(cleanup, pods),
            peers=self._cache.peers(qjob) if child is None or qjob.deleting else (),
            earlier=extra.earlier,
            fresh=extra.objects is not None,
            warnings=extra.warnings,
            rejection=extra.rejection,
            queue=record.queue,
            adopted=believed,
            progress=record.progress,
            unheard=record.unheard,
            progress_written=record.progress_written,
            disruptions=(record.disruptions_before or 0) + len(record.disruptions),
            problem=record.problem,
            defaults=self._defaults(),
        )


def _log(qjob: QuantizationJob, status: QuantizationJobStatus, context: Mapping[str, str]) -> None:
    """Say in which phase a job is; of a failure also why, for whoever reads nothing but logs."""
    if (cause := status.failure) is None:
        logger.info("%s is %s", qjob.name, status.phase, extra=context)
    else:
        more = {**context, "category": str(cause.category)}
        logger.warning("%s failed: %s: %s", qjob.name, cause.category, cause.message, extra=more)


def _stuck_uid(observed: Observed) -> str:
    """Whose events say why a job does not get on: those of a pod that has not begun, or of the Job that has none."""
    job, pods = observed.child, observed.pods
    if observed.cleanup is not None:
        job, pods = observed.cleanup, observed.cleanup_pods
    pod = stuck(pods)
    if pod is not None:
        return pod.uid
    return job.uid if job else ""


def _rejection(qjob: QuantizationJob, error: ApiError) -> Rejection:
    """What goes away is not tried without end: there the rules judge every error, and not the queue alone.

    Raises:
        ApiError: this one, unless the object is being deleted.
    """
    if not qjob.deleting:
        raise error
    return Rejection(error.code, str(error), retry_after=error.retry_after)


def _context(key: Key) -> dict[str, str]:
    return {"namespace": key.namespace, "uid": key.uid}


def _context_of(qjob: QuantizationJob) -> dict[str, str]:
    return {"namespace": qjob.namespace, "uid": qjob.uid}
