"""How far jobs are, as lines of text: pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from kubectl_quantization.cluster import Document, phase_of, table
from quantization_api.text import clean

ENDED = ("Succeeded", "Failed")
CELLS = 20
"""Of a bar."""
BARS = {True: ("█", "░"), False: ("#", ".")}
"""Done and not done, by whether the screen can show them."""
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class Row:
    """One job: where it is, how far, and why."""

    namespace: str
    name: str
    phase: str
    percent: int
    words: str

    @classmethod
    def of(cls, job: Document) -> "Row":
        """The row of a QuantizationJob as the API server has it."""
        metadata = job["metadata"]
        phase = phase_of(job)
        percent = 100 if phase == "Succeeded" else int(_progress(job).get("percent", 0))
        return cls(metadata["namespace"], metadata["name"], phase, percent, clean(words(job), 240))


def words(job: Document) -> str:
    """What a job does, waits for, came to or failed of."""
    status, phase = job.get("status", {}), phase_of(job)
    if phase == "Succeeded":
        return str(status.get("artifact", {}).get("uri", ""))
    if phase == "Failed":
        failure = status.get("failure", {})
        return f"{failure.get('category', 'unknown')}: {failure.get('message', 'no cause is known')}"
    if phase == "Running" and _progress(job).get("stage"):
        return running(_progress(job))
    return message_of(job, "Suspended" if phase == "Suspended" else "Reconciling")


def running(progress: Document) -> str:
    """The stage, the layer and the time that is left."""
    said = [progress["stage"]]
    if progress.get("layers"):
        said.append(f"layer {progress.get('layer', 0)} of {progress['layers']}")
    if (left := progress.get("etaSeconds")) is not None:
        said.append(f"about {duration(left)} left")
    return ", ".join(said)


def message_of(job: Document, kind: str) -> str:
    """The message of a condition; "" where there is none."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((str(each.get("message", "")) for each in conditions if each["type"] == kind), "")


def duration(seconds: int) -> str:
    """Seconds as a person says them: 40 s, 12 min, 3 h 05 min."""
    if seconds < 2 * MINUTE:
        return f"{seconds} s"
    if seconds < HOUR:
        return f"{seconds // MINUTE} min"
    return f"{seconds // HOUR} h {seconds % HOUR // MINUTE:02d} min"


def ended(job: Document) -> bool:
    """Whether a job is over: a failed one that was corrected since is not."""
    status = job.get("status", {})
    current = status.get("observedGeneration", 0) >= job["metadata"].get("generation", 0)
    return phase_of(job) == "Succeeded" or (phase_of(job) == "Failed" and current)


def lines(rows: Sequence[Row], namespaces: bool, blocks: bool) -> list[str]:
    """A table with a bar for each job. blocks: the screen can show more than ASCII."""
    done, rest = BARS[blocks]
    head = ["NAMESPACE"] * namespaces + ["NAME", "PHASE", "PROGRESS", "STATE"]
    body = []
    for row in rows:
        full = row.percent * CELLS // 100
        bar = f"{done * full}{rest * (CELLS - full)} {row.percent:>3} %"
        body.append([row.namespace] * namespaces + [row.name, row.phase, bar, row.words])
    return table([head, *body])


def _progress(job: Document) -> Document:
    progress: Document = job.get("status", {}).get("progress", {})
    return progress
