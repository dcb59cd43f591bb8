"""What a decision is made from, and what it can say: values, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from quantization_api.status import Progress, QuantizationJobStatus
from quantization_operator.queue_entry import QueueEntry
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import ChildJob, ChildPod, KubernetesWarning, QuantizationJob


@dataclass(frozen=True, slots=True)
class Rejection:
    """The API server's answer to the creation or the deletion of a Job that it did not do.

    taken: the name belongs to a Job of somebody else. retry_after: seconds that it asked to wait.
    """

    code: int
    message: str
    taken: bool = False
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Another QuantizationJob of the namespace whose output is the same place, and that has not failed.

    completed: when it ended. spec: as JSON, while a decision about it may need it, else "".
    """

    name: str
    uid: str
    created: datetime
    has_job: bool
    finished: bool
    deleting: bool
    completed: datetime | None = None
    spec: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a decision may depend on.

    child: the Job that is believed to be its own. proven: its uid was recorded when it was made, or it was read just
    now. stray: a Job that has its name and is another. pods: of the child. cleanup, cleanup_pods: the Job that removes
    the artifact, and its pods. peers: others with the same output. earlier: the peer that succeeded last, with its
    spec and status; None when it was not read, () when it is gone. fresh: the Jobs and pods were read from the API
    server just now. warnings: Warning events of the child or its pod, None when they were not read. rejection: of what
    was tried for this decision. queue: how the child stood in its queue when Kueue was asked last. adopted: uid of the
    Job that was taken for the child last, by this process or by the status; "" for none. progress_written, disruptions
    and problem: what this process remembers beside it.
    """

    qjob: QuantizationJob
    child: ChildJob | None = None
    proven: bool = True
    stray: ChildJob | None = None
    pods: tuple[ChildPod, ...] = ()
    cleanup: ChildJob | None = None
    cleanup_pods: tuple[ChildPod, ...] = ()
    peers: tuple[Peer, ...] = ()
    earlier: tuple[QuantizationJob, ...] | None = None
    fresh: bool = False
    warnings: tuple[KubernetesWarning, ...] | None = None
    rejection: Rejection | None = None
    queue: QueueEntry | None = None
    adopted: str = ""
    progress: Progress | None = None
    progress_written: datetime | None = None
    disruptions: int = 0
    problem: tuple[str, datetime] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell the user of the object, once: an event of the QuantizationJob."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do. Effects happen in the order of the fields; the events only after the status was written.

    look: read these from the API server and decide again. finalizers: those that the object must have from now on;
    decide again after it. create: manifest of a Job; decide again after it. status: the new status, None when it
    stays. adopted: uid of the Job that is the job's own from now on, "" where it has none any more by intent, None
    where that stays; to be remembered. passing: what the status says is likely over soon, so that it may be written
    later, or never. delete: a Job that must not go on. release: remove the operator's finalizer, after the events were
    told, since the object may be gone with it. remove: delete the object. problem: to be remembered. retry: the same
    must be tried again, with back-off, and not before retry_after seconds.
    """

    rule: str
    look: Literal["", "objects", "events", "queue", "earlier"] = ""
    finalizers: tuple[str, ...] | None = None
    create: Mapping[str, Any] | None = None
    status: QuantizationJobStatus | None = None
    adopted: str | None = None
    passing: bool = False
    delete: ChildJob | None = None
    events: tuple[Event, ...] = ()
    release: bool = False
    remove: bool = False
    problem: tuple[str, datetime] | None = None
    requeue_after: float | None = None
    retry: bool = False
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """What the rules see: the observation, the status as last written, the settings, the time."""

    observed: Observed
    before: QuantizationJobStatus
    settings: OperatorSettings
    now: datetime
    qjob: QuantizationJob = field(init=False)
    child: ChildJob | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "qjob", self.observed.qjob)
        object.__setattr__(self, "child", self.observed.child)
