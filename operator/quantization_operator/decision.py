"""What a decision is made from, and what it can say: values, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from quantization_api.pod import RunProgress
from quantization_api.status import QuantizationJobStatus
from quantization_operator.defaults import Defaults
from quantization_operator.queue_entry import QueueEntry
from quantization_operator.settings import OperatorSettings
from quantization_operator.snapshots import ChildJob, ChildPod, KubernetesWarning, QuantizationJob


@dataclass(frozen=True, slots=True)
class Rejection:
    """The API server's answer to the creation or the deletion of a Job that it did not do."""

    code: int
    message: str
    taken: bool = False
    """The name belongs to somebody else's Job."""
    retry_after: float = 0.0
    """Seconds that the server asked to wait."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another QuantizationJob of the namespace whose output is the same place, and that has not failed."""

    name: str
    uid: str
    created: datetime
    has_job: bool
    finished: bool
    deleting: bool
    completed: datetime | None = None
    """When it ended."""
    spec: str = ""
    """As JSON, while a decision about it may need it, else ""."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a decision may depend on."""

    qjob: QuantizationJob
    child: ChildJob | None = None
    """The Job that is believed to be its own."""
    proven: bool = True
    """The uid of the child was recorded when it was made, or it was read just now."""
    stray: ChildJob | None = None
    """A Job that has the name of its own, and is another."""
    pods: tuple[ChildPod, ...] = ()
    """Of the child."""
    cleanup: ChildJob | None = None
    """The Job that removes the artifact."""
    cleanup_pods: tuple[ChildPod, ...] = ()
    peers: tuple[Peer, ...] = ()
    """Others with the same output."""
    earlier: tuple[QuantizationJob, ...] | None = None
    """The peer that succeeded last, with its spec and status; None: not read, (): gone."""
    fresh: bool = False
    """The Jobs and pods were read from the API server just now."""
    warnings: tuple[KubernetesWarning, ...] | None = None
    """Warning events of the child or its pod; None: not read."""
    rejection: Rejection | None = None
    """Of what was tried for this decision."""
    queue: QueueEntry | None = None
    """How the child stood in its queue when Kueue was last asked."""
    adopted: str = ""
    """uid of the Job that was last taken for the child, by this process or by the status; "": none."""
    progress: RunProgress | None = None
    unheard: str = ""
    """Why the progress is not known of a pod that runs."""
    progress_written: datetime | None = None
    """When this process last wrote progress."""
    disruptions: int = 0
    """Pods that were taken away so far."""
    problem: tuple[str, datetime] | None = None
    """What the job waits for, and since when."""
    defaults: Defaults = field(default_factory=Defaults)
    """What the administrator gives jobs that do not say it themselves."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell the user of the object, once: an event of the QuantizationJob."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do. Effects happen in the order of the fields; events are posted after the status was written."""

    rule: str
    look: Literal["", "objects", "events", "queue", "earlier"] = ""
    """Read these from the API server and decide again."""
    finalizers: tuple[str, ...] | None = None
    """Those that the object must have from now on; decide again after it."""
    create: Mapping[str, Any] | None = None
    """Manifest of a Job; decide again after it."""
    status: QuantizationJobStatus | None = None
    """The new status; None: it stays."""
    adopted: str | None = None
    """uid of the Job that is its own from now on; "": it has none any more, by intent; None: as before. Remembered."""
    passing: bool = False
    """What the status says is likely over soon: it may be written later, or never."""
    delete: ChildJob | None = None
    """A Job that must not go on."""
    events: tuple[Event, ...] = ()
    release: bool = False
    """Remove the operator's finalizer, after the events were posted: the object may be gone with it."""
    remove: bool = False
    """Delete the object."""
    problem: tuple[str, datetime] | None = None
    """What the job waits for, and since when; remembered."""
    requeue_after: float | None = None
    retry: bool = False
    """The same must be tried again, with back-off."""
    retry_after: float = 0.0
    """Not before so many seconds."""


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
