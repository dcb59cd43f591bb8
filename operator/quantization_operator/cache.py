"""What the operator knows of the cluster: slim snapshots, by the QuantizationJob they belong to: namespace and uid.

kopf's indices are quadratic at start-up and its watch gives no deletions after a gap, so the cache is our
own: it takes objects in any order, from the watch and from answers to our own writes, and keeps the newest.
A sweep (`sweep.py`) removes what disappeared unseen. Only the event loop's thread changes it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from quantization_api.pod import RunProgress
from quantization_operator.decision import Peer
from quantization_operator.identity import KINDS, Key, Kind
from quantization_operator.policies import managed_by, pause
from quantization_operator.queue_entry import QueueEntry
from quantization_operator.snapshots import FINALIZER, ChildJob, ChildPod, QuantizationJob, says_the_same

Snapshot = QuantizationJob | ChildJob | ChildPod
REMEMBERED_DROPS = 4096
"""Deleted objects of a kind that stay known as deleted: more than can go while one answer is on its way."""


@dataclass(slots=True)
class Record:
    """All that is known of one QuantizationJob, and the little that only this process remembers."""

    qjob: QuantizationJob | None = None
    jobs: dict[str, ChildJob] = field(default_factory=dict)
    pods: dict[str, ChildPod] = field(default_factory=dict)
    progress: RunProgress | None = None
    progress_written: datetime | None = None
    disruptions: set[str] = field(default_factory=set)
    """uids of pods that were seen taken away."""
    disruptions_before: int | None = None
    """Pods that an earlier process counted as taken away."""
    adopted: str = ""
    """uid of the Job that was last taken for its own."""
    problem: tuple[str, datetime] | None = None
    """What the job waits for, and since when: it decides when patience ends."""
    queue: QueueEntry | None = None
    """Kueue's last answer."""
    unheard: str = ""
    """Why nothing is known of the progress, though a pod has been running for a while."""

    @property
    def believed(self) -> str:
        """The uid of the Job that is the job's own, "" while there is none, or none is known."""
        return self.adopted or (self.qjob.job_uid if self.qjob is not None else "")

    @property
    def empty(self) -> bool:
        """Nothing is left of it in the cluster."""
        return self.qjob is None and not self.jobs and not self.pods


class Cache:
    """The newest known snapshot of each object; `put` and `drop` answer which job to look at again.

    What was dropped does not come back: the answer to a write of our own may be later than the watch's word that
    the object is gone, and nobody would ever drop it again.

    Jobs are also found by the place that they write to, unless they have failed and leave nothing to be removed.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], dict[Key, None]] = {}
        self._records: dict[Key, Record] = {}
        self._unfinished: dict[Key, Record] = {}
        self._owners: dict[Kind, dict[str, Key]] = {kind: {} for kind in KINDS}
        self._dropped: dict[Kind, OrderedDict[str, None]] = {kind: OrderedDict() for kind in KINDS}

    def record(self, key: Key) -> Record | None:
        """The record of a QuantizationJob, if anything is known of it."""
        return self._records.get(key)

    def records(self) -> Iterator[Record]:
        """All records; a copy of the list, so that other threads may read while the loop goes on."""
        return iter(list(self._records.values()))

    def unfinished(self) -> list[Record]:
        """The records of jobs that have not ended: of ten thousand that have, nobody must look through all."""
        return list(self._unfinished.values())

    def presses(self, key: Key) -> bool:
        """Whether somebody waits for what comes next: the first Job, or word of the end. All between can be late."""
        record = self._records.get(key)
        if record is None or record.qjob is None or record.qjob.finished:
            return False
        return not (record.jobs or record.qjob.job_name) or any(job.ended for job in record.jobs.values())

    def peers(self, qjob: QuantizationJob) -> tuple[Peer, ...]:
        """The other jobs of the namespace whose output is the same place; the first known first."""
        found = self._places.get((qjob.namespace, qjob.place), {}) if qjob.place else {}
        others = (self._records[key] for key in found if key.uid != qjob.uid)
        return tuple(_peer(other.qjob, other) for other in others if other.qjob is not None)

    def __len__(self) -> int:
        return len(self._records)

    def put(self, snapshot: Snapshot) -> Key | None:
        """Keep a snapshot if it is newer; the job to look at again.

        None when it is old or of the dead, and when it says nothing that was not known. An object that says that it
        belongs to another QuantizationJob than before leaves that one.
        """
        kind, key = kind_of(snapshot), key_of(snapshot)
        if snapshot.uid in self._dropped[kind]:
            return None
        known = self.find(kind, snapshot.uid)
        if known is not None and known.resource_version >= snapshot.resource_version:
            return None
        if known is not None and key_of(known) != key:
            self._leave(kind, known)
        record = self._records.setdefault(key, Record())
        match snapshot:
            case QuantizationJob():
                self._leave_place(record.qjob)
                record.qjob = snapshot
                if snapshot.finished:
                    self._unfinished.pop(key, None)
                else:
                    self._unfinished[key] = record
                if _holds_place(snapshot):
                    self._places.setdefault((snapshot.namespace, snapshot.place), {})[key] = None
                if snapshot.finished:
                    self._settle(record)
                _count_disruptions(record, record.pods.values())
            case ChildJob():
                record.jobs[snapshot.uid] = snapshot
                if not snapshot.suspended:  # what Kueue said before is no answer to the next suspension
                    record.queue = None
                _count_disruptions(record, record.pods.values())
            case ChildPod():
                _count_disruptions(record, (snapshot,))
                settled = record.qjob is not None and record.qjob.finished
                record.pods[snapshot.uid] = snapshot.slim() if settled else snapshot
        self._owners[kind][snapshot.uid] = key
        return None if known is not None and says_the_same(known, snapshot) else key

    def drop(self, kind: Kind, object_uid: str) -> Key | None:
        """Forget a deleted object; the job it concerned."""
        self._remember_drop(kind, object_uid)
        return self.lose(kind, object_uid)

    def lose(self, kind: Kind, object_uid: str) -> Key | None:
        """Forget an object that is nobody's any more, and may be somebody's again; the job it concerned."""
        known = self.find(kind, object_uid)
        return None if known is None else self._leave(kind, known)

    def _leave(self, kind: Kind, known: Snapshot) -> Key:
        key = self._owners[kind].pop(known.uid)
        record = self._records[key]
        match known:
            case QuantizationJob():
                self._leave_place(known)
                self._unfinished.pop(key, None)
                record.qjob = None
            case ChildJob():
                del record.jobs[known.uid]
            case ChildPod():
                del record.pods[known.uid]
        if record.empty:
            del self._records[key]
        return key

    def gone(self, kind: Kind, object_uid: str) -> bool:
        """Whether an object is known to have been deleted."""
        return object_uid in self._dropped[kind]

    def find(self, kind: Kind, object_uid: str) -> Snapshot | None:
        """The snapshot of one object."""
        key = self._owners[kind].get(object_uid)
        record = self._records.get(key) if key is not None else None
        if record is None:
            return None
        if kind == "QuantizationJob":
            return record.qjob
        return record.jobs.get(object_uid) if kind == "Job" else record.pods.get(object_uid)

    def uids(self, kind: Kind) -> list[str]:
        """The uids of all known objects of a kind."""
        return list(self._owners[kind])

    def _remember_drop(self, kind: Kind, object_uid: str) -> None:
        dropped = self._dropped[kind]
        dropped[object_uid] = None
        if len(dropped) > REMEMBERED_DROPS:
            dropped.popitem(last=False)

    def _leave_place(self, qjob: QuantizationJob | None) -> None:
        if qjob is None:
            return
        place = (qjob.namespace, qjob.place)
        there = self._places.get(place, {})
        there.pop(key_of(qjob), None)
        if not there:
            self._places.pop(place, None)

    @staticmethod
    def _settle(record: Record) -> None:
        """A finished job keeps what a sweep needs, and no texts."""
        record.pods = {uid: pod.slim() for uid, pod in record.pods.items()}
        record.progress = record.problem = record.queue = record.disruptions_before = None
        record.unheard = ""
        record.disruptions = set()


def _count_disruptions(record: Record, pods: Iterable[ChildPod]) -> None:
    """Pods that were taken away from a Job that goes on: not by a pause, and not by the end of their Job.

    What its Job and its user want may be known after the pod, or not any more: it is counted when both are known.
    """
    qjob = record.qjob
    if qjob is None or qjob.suspend or qjob.finished:
        return
    for pod in pods:
        job = record.jobs.get(pod.job_uid) if pod.taken_away else None
        if job is None or job.owner_uid != qjob.uid:
            continue
        if not (job.deleting or job.failing or pause.left_over(qjob, job)):
            record.disruptions.add(pod.uid)


def _holds_place(qjob: QuantizationJob) -> bool:
    if not qjob.place or managed_by.another(qjob):
        return False
    return qjob.finished != "Failed" or (qjob.deleting and FINALIZER in qjob.finalizers)


def _peer(qjob: QuantizationJob, record: Record) -> Peer:
    return Peer(
        name=qjob.name,
        uid=qjob.uid,
        created=qjob.created,
        has_job=bool(qjob.job_name) or any(job.owner_uid == qjob.uid for job in record.jobs.values()),
        finished=bool(qjob.finished),
        deleting=qjob.deleting,
        completed=qjob.completed,
        spec=qjob.spec,
    )


def kind_of(snapshot: Snapshot) -> Kind:
    """The kind of the object that a snapshot shows."""
    match snapshot:
        case QuantizationJob():
            return "QuantizationJob"
        case ChildJob():
            return "Job"
        case ChildPod():
            return "Pod"


def key_of(snapshot: Snapshot) -> Key:
    """The QuantizationJob that an object is, or says that it belongs to."""
    return Key(
        snapshot.namespace, snapshot.uid if isinstance(snapshot, QuantizationJob) else snapshot.qjob_uid
    )
