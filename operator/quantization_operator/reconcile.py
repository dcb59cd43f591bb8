"""The one place where a job's state changes: what was observed, and the time, give a decision. Pure.

No I/O, no clock, no memory: what must be remembered comes in with `Observed` and goes out with `Decision`.
The rules stand in a table; the first that applies decides. Level-triggered: each rule looks at what is, not
at what happened, so it does not matter which events were lost, repeated or reordered, or when the operator was
killed. A decision that would end a job because something is *absent* is only made from a fresh look
(`Observed.fresh`): a cache is always a little behind.
"""

from collections.abc import Callable
from datetime import datetime

from quantization_operator.decision import Case, Decision, Observed
from quantization_operator.rules import beginning, ending, progressing, removal
from quantization_operator.settings import OperatorSettings

RULES: tuple[tuple[Callable[[Case], Decision | None], str], ...] = (
    (removal.left_alone, "another controller manages it"),
    (removal.deleting, "it is going away, perhaps after its artifact"),
    (removal.finalizer, "artifactPolicy asks for the finalizer, or does not any more"),
    (ending.finished, "it has ended: nothing more, but to start again when it is corrected, or to expire"),
    (ending.unproven, "its Job may be another: it is looked at first"),
    (beginning.superseded, "it failed and started again, the Job from before it is still there"),
    (ending.complete, "its Job completed"),
    (ending.job_failed, "its Job gave up"),
    (ending.spoiled, "its quantizer succeeded, in a pod that another container let fail"),
    (ending.outlived, "its quantizer ended, another container of the pod does not"),
    (ending.hopeless, "a pod failed as the next one would"),
    (ending.stragglers, "a worker published its result long ago, others do not end"),
    (ending.last_moment, "its quantizer ended for good, its Job will say so"),
    (beginning.refused_spec, "it has no Job, and cannot have one"),
    (beginning.paused, "its user paused it"),
    (ending.job_deleted, "its Job is gone"),
    (beginning.stopping, "its pause ended, the Job from before it is still there"),
    (beginning.output_taken, "it has no Job, and another job has its output"),
    (beginning.trusted, "it has no Job, and another job's result is to be believed"),
    (beginning.create, "it has no Job"),
    (progressing.in_progress, "its Job waits or runs"),
)
"""Each rule, and when it decides."""


def reconcile(observed: Observed, settings: OperatorSettings, now: datetime) -> Decision:
    """Decide about one job."""
    case = Case(observed, observed.qjob.read_status(), settings, now)
    for rule, _ in RULES:
        decision = rule(case)
        if decision is not None:
            return decision
    raise AssertionError("the last rule always applies")
