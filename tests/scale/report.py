"""The report as Markdown and JSON: what was seen, beside what it must be."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.scale.load import OPERATOR
from tests.scale.measures import Figure, Latency, Point, at_least, at_most, growth, meant_for
from tests.scale.picture import draw_latency, draw_life, draw_memory
from tests.scale.scenarios import Backlog, Burst, Life, Start

JOBS, JOBS_A_SECOND = 10_000, 20
CHURN = 100_000
AT_ONCE = 1000
IDLE_SECONDS = 330
"""What the bars are meant for: jobs, their rate, jobs come and gone, objects at once, and to idle for as long as from
one sweep of 33,000 objects to the next."""
CREATIONS = 100.0
BETTER_THAN_JOBSET = 5.0
FLAT_MB = 15.0
"""How much a long run may add to the operator's memory; a leak of 200 bytes a job would add more in 100,000 jobs."""
_INTRODUCTION = """# Scale

Written by `make scale`; `make scale SCALE="--help"` says what can be changed. Everything runs on one machine, on
loopback: etcd, the API server, the controller manager, the scheduler, KWOK, the operator with its own permissions and
default settings, the load. KWOK plays nodes and pods: a pod runs for a second and leaves a valid result. It answers no
requests for progress, so these are not in the figures.

A time ends when a watch tells of what is waited for, so it includes the watch. Rates that the controller manager and
the scheduler set themselves are raised, or they would be all that is measured. Here two cores play what elsewhere is
many machines, so, for both sides alike: those who make and run pods (controller manager, scheduler, KWOK) run on what
the API server and its clients leave (Linux's SCHED_IDLE); all Go programs collect garbage an eighth as often as by
default (GOGC=800), which took a third of the API server's time; and the API server does not compare its caches with
etcd every five minutes.

Job creations are measured twice. No pods: nobody makes them, and the objects come while their Jobs are made. Pods made
meanwhile: as in a cluster at work, of objects that wait for their controller. The bar beside JobSet is for both, and
for the best that was seen of it, with or without the Service that it adds to each JobSet; JobSet as it comes is told,
too.

The bars are meant for 10,000 jobs at 20 a second, 1,000 objects at once, 100,000 jobs that come and go, and a machine
without other work. A bar that holds at less is not judged; one that is missed is missed at any size.
"""


_PASSING = (
    "Of four jobs that come and go, one goes through its whole life and expires, one is deleted wherever it is then,",
    "and two are deleted while they are paused.",
)


@dataclass
class Report:
    """All that one call of `make scale` has seen; what was not run is empty."""

    facts: dict[str, str]
    bursts: list[Burst] = field(default_factory=list)
    life: Life | None = None
    start: Start | None = None
    points: dict[str, list[Point]] = field(default_factory=dict)
    backlogs: list[Backlog] = field(default_factory=list)
    churn: list[tuple[float, int, float]] = field(default_factory=list)

    def figures(self) -> list[Figure]:
        """The figures, each with its bar."""
        return [
            *_of_bursts(self.bursts),
            *_of_backlogs(self.backlogs),
            *_of_life(self.life),
            *_of_start(self.start),
            *_of_churn(self.churn),
        ]

    def write(self, folder: Path, name: str) -> str:
        """Write the page, the record and the pictures; the page."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.points:
            draw_latency(self.points, folder / f"{name}-latency.png")
        if self.life and self.life.series:
            draw_life(self.life.series, os.cpu_count() or 1, folder / f"{name}-life.png")
        if self.churn:
            draw_memory(self.churn, folder / f"{name}-memory.png")
        page = self.markdown(name)
        (folder / f"{name}.md").write_text(page)
        record = asdict(self) | {"figures": [asdict(figure) for figure in self.figures()]}
        (folder / f"{name}.json").write_text(json.dumps(_finite(record), indent=1) + "\n")
        return page

    def markdown(self, name: str) -> str:
        """The page; `name`: with which the names of its pictures begin."""
        lines = [_INTRODUCTION, *(f"- {name}: {text}" for name, text in self.facts.items()), ""]
        lines += ["## Figures", "", "| figure | measured | must be | met |", "|---|---|---|---|"]
        for figure in self.figures():
            lines.append(f"| {figure.name} | {figure.measured} | {figure.bar} | {figure.verdict} |")
        if self.bursts:
            lines += [
                "",
                "CPU while Jobs were created at once and nobody made their pods, as shares of a core:",
                "",
            ]
            lines += [_cpu(burst) for burst in self.bursts]
        if self.life and self.life.series:
            lines += [
                "",
                "## A load from its beginning to its end",
                "",
                f"![Along the load]({name}-life.png)",
            ]
        if self.points:
            lines += ["", "## Latency against load", "", f"![Latency against load]({name}-latency.png)", ""]
            lines += [
                "| controller | asked/s | Jobs/s | to the Job: p50, p99 | end of the Job to status: p50, p99 |"
            ]
            lines += ["|---|---|---|---|---|"]
            lines += [_row(side, point) for side, line in self.points.items() for point in line]
        if self.churn:
            lines += [
                "",
                "## Memory",
                "",
                *_PASSING,
                "",
                f"![Memory over jobs come and gone]({name}-memory.png)",
            ]
        return "\n".join(lines) + "\n"


def _of_bursts(bursts: Sequence[Burst]) -> list[Figure]:
    if not bursts:
        return [_not_run("Job creations", f"at least {CREATIONS:g} /s")]
    own, *others = bursts
    size = (own.count, AT_ONCE, "objects")
    rate = at_least(f"Job creations, {own.count} objects at once, no pods", own.job_rate, CREATIONS, "/s")
    figures = [meant_for(rate, size)]
    for other in others:
        figures.append(
            Figure(f"{other.side}: Job creations, {other.count} at once", f"{other.job_rate:.3g} /s")
        )
    if others:
        best = max(other.job_rate for other in others)
        beside = at_least(
            "creation rate beside JobSet's best, no pods", own.job_rate / best, BETTER_THAN_JOBSET, "x"
        )
        figures.append(meant_for(beside, size))
    return figures


def _of_backlogs(backlogs: Sequence[Backlog]) -> list[Figure]:
    """The operator's is the mean of its runs, of the others the best run counts."""
    own = [one for one in backlogs if one.side == OPERATOR.name]
    others = [one for one in backlogs if one.side != OPERATOR.name]
    if not own or not others:
        return [
            _not_run(
                "creation rate beside JobSet's, pods made meanwhile", f"at least {BETTER_THAN_JOBSET:g} x"
            )
        ]
    rate = sum(one.job_rate for one in own) / len(own)
    runs: dict[str, list[str]] = {}
    for one in backlogs:
        runs.setdefault(one.side, []).append(f"{one.job_rate:.3g}")
    count = min(one.count for one in backlogs)
    name = f"Job creations, {count} objects that wait for their controller, pods made meanwhile"
    beside = at_least(
        "creation rate beside JobSet's best, pods made meanwhile",
        rate / max(one.job_rate for one in others),
        BETTER_THAN_JOBSET,
        "x",
    )
    told = {side: f"{', '.join(rates)} /s" for side, rates in runs.items() if side != own[0].side}
    as_it_comes = [one.job_rate for one in others if one.side == others[0].side]
    return [
        Figure(name, f"{rate:.3g} /s ({', '.join(runs[own[0].side])})"),
        *(Figure(f"{side}: the same", text) for side, text in told.items()),
        meant_for(beside, (count, AT_ONCE, "objects")),
        Figure(f"beside {others[0].side} as it comes, the same", f"{rate / max(as_it_comes):.3g} x"),
    ]


def _of_life(life: Life | None) -> list[Figure]:
    if life is None:
        return [_not_run("jobs through their whole life", "all, one Job each")]
    whole = life.succeeded == life.jobs_made == life.count
    text = f"{life.succeeded} Succeeded, {life.jobs_made} Jobs"
    if life.gaps:
        text += f"; {life.gaps} times a watch of the load was cut off, and some may not have been seen"
    rate = f"{life.point.rate:g}/s" if life.point.rate else "full speed"
    size = (life.count, JOBS, "jobs")
    load = (life.point.rate or math.inf, JOBS_A_SECOND, "a second")
    lives = Figure(f"{life.count} jobs through their whole life at {rate}", text, "all, one Job each", whole)
    return [
        meant_for(lives, size, load),
        meant_for(
            at_most(f"create request to Job, p99 at {rate}", _p99(life.point.to_job), 1, "s"), size, load
        ),
        meant_for(
            at_most("end of the Job to final status, p99", _p99(life.point.to_status), 2, "s"), size, load
        ),
        meant_for(at_most("resident memory, peak", life.peak_mb, 300, "MB"), size),
        at_most("API calls a job", life.calls, 10, ""),
        at_most("status writes a job", life.status_writes, 6, ""),
        Figure("CPU of the operator meanwhile", f"{100 * life.cpu_share:.0f} % of a core"),
        Figure("a whole life, request to final status: p50, p99", _both(life.whole)),
    ]


def _of_start(start: Start | None) -> list[Figure]:
    if start is None:
        return [_not_run("an operator that is started among many jobs, and idle", "at most 30 s")]
    size, rest = (start.known, JOBS, "jobs"), (start.idle_seconds, IDLE_SECONDS, "s")
    idle = at_most(
        f"CPU when idle, over {start.idle_seconds:.0f} s", 100 * start.idle_share, 1, "% of a core"
    )
    return [
        meant_for(at_most(f"ready after start among {start.known} jobs", start.ready_seconds, 30, "s"), size),
        meant_for(at_most("resident memory after it", start.resident_mb, 300, "MB"), size),
        meant_for(idle, size, rest),
    ]


def _of_churn(samples: Sequence[tuple[float, int, float]]) -> list[Figure]:
    if not samples:
        return [_not_run("growth of memory over jobs come and gone", f"at most {FLAT_MB:g} MB")]
    seconds, gone, _ = samples[-1]  # fewer than were asked for when the time was over
    name = f"growth of memory over {gone} jobs come and gone ({seconds / 60:.0f} min)"
    return [meant_for(at_most(name, growth(samples), FLAT_MB, "MB"), (gone, CHURN, "jobs"))]


def _not_run(name: str, bar: str) -> Figure:
    """What was left out is not passed over in silence."""
    return Figure(name, "", bar, None, "not run")


def _p99(latency: Latency) -> float:
    """A job that never got there was later than any bar."""
    return math.inf if latency.missing else latency.p99


def _both(latency: Latency) -> str:
    return f"{latency.p50:.2f} s, {latency.p99:.2f} s"


def _cpu(burst: Burst) -> str:
    shares = ", ".join(f"{name} {share:.2f}" for name, share in burst.cpu.items())
    return f"- {burst.side}: {shares}"


def _row(side: str, point: Point) -> str:
    job, status = point.to_job, point.to_status
    missing = f" ({job.missing} never)" if job.missing else ""
    return (
        f"| {side} | {point.rate:g} | {point.job_rate:.1f} | {job.p50:.2f} s, {job.p99:.2f} s{missing} "
        f"| {status.p50:.2f} s, {status.p99:.2f} s |"
    )


def _finite(value: object) -> object:
    """JSON has no NaN."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
