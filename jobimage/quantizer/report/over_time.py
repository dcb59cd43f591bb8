"""A search over time: what each worker did when, and the best that was known by then."""

from collections.abc import Sequence
from datetime import UTC, datetime

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantization_api.manifest import TrialRecord
from quantizer.report.lettering import BAR, COLOURS, LEGEND_LINE, WIDTH, lettered
from quantizer.report.measures import Measure
from quantizer.report.svg import INK, RULES, Picture, picture

OVER_TIME = "trials-over-time"
LOOKS = {"Finished": (COLOURS[0], ""), "Stopped": (COLOURS[5], "///"), "Failed": (COLOURS[3], "xxx")}
"""Colour and hatching by state; what was refused took no time."""
MOST_NUMBERED = 40
NAME_LETTERS = 17
"""Of a worker; longer names would leave no room for its trials."""
MINUTE = 60

Span = tuple[TrialRecord, float, float]
"""A trial, when it began and when it ended, in seconds since the first began."""


def trials_over_time(trials: Sequence[TrialRecord], goal: Measure | None) -> Picture | None:
    """Bars by worker, and below them the best value of a metric so far; None where no trial says when it ran."""
    spans = _spans(trials)
    if not spans:
        return None
    workers = list(dict.fromkeys(trial.worker or "" for trial, _, _ in spans))
    end = max(stop for _, _, stop in spans)
    unit, name = (MINUTE, "minutes") if end > 2 * MINUTE else (1, "seconds")
    best = [] if goal is None else _best_so_far(spans, goal)
    with rc_context(RULES):
        above = 0.4 + BAR * len(workers)
        figure = Figure(figsize=(WIDTH, above + (1.8 if best else 0.4) + LEGEND_LINE), layout="constrained")
        ratios = [above, 1.6] if best else [1.0]
        rows = figure.subplots(len(ratios), squeeze=False, sharex=True, height_ratios=ratios)
        bars = rows[0][0]
        _bars(bars, spans, workers, unit)
        if best and goal is not None:
            below = rows[1][0]
            times, values = [time / unit for time, _ in best], [value for _, value in best]
            below.plot([*times, end / unit], [*values, values[-1]], drawstyle="steps-post", color=COLOURS[0])
            below.plot(times, values, ls="", marker="o", ms=4, color=COLOURS[0])
            below.set_ylabel(f"best {lettered(goal.name)}")
            below.grid(alpha=0.25)
        rows[-1][0].set_xlabel(name)
        figure.legend(loc="outside lower center", fontsize=8, ncols=3)
    return picture(OVER_TIME, "Trials over time", _told(spans, workers, end, best, goal), figure)


def _spans(trials: Sequence[TrialRecord]) -> list[Span]:
    """The trials that took time, in the order in which they began."""
    begun = [
        (trial, start)
        for trial in trials
        if trial.seconds is not None and (start := _time(trial.started)) is not None
    ]
    if not begun:
        return []
    first = min(start for _, start in begun)
    spans = [(trial, start - first, start - first + (trial.seconds or 0.0)) for trial, start in begun]
    return sorted(spans, key=lambda span: (span[1], span[0].number))


def _time(stamp: str | None) -> float | None:
    """Seconds since 1970 of an RFC 3339 time; None for what is none. One without a zone is in UTC."""
    try:
        found = datetime.fromisoformat(stamp or "")
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _best_so_far(spans: Sequence[Span], goal: Measure) -> list[tuple[float, float]]:
    """(When, value) of each trial that was better than all that had finished before it."""
    better: list[tuple[float, float]] = []
    for trial, _, stop in sorted(spans, key=lambda span: span[2]):
        for result in trial.metrics:
            value = result.output
            if trial.state != "Finished" or result.name != goal.name or value is None:
                continue
            if not better or (value < better[-1][1] if goal.lower_is_better else value > better[-1][1]):
                better.append((stop, value))
    return better


def _bars(axes: Axes, spans: Sequence[Span], workers: Sequence[str], unit: float) -> None:
    labelled: set[str] = set()
    for trial, start, stop in spans:
        color, hatch = LOOKS.get(trial.state, (INK, ""))
        label = "" if trial.state in labelled else trial.state.lower()
        labelled.add(trial.state)
        row = workers.index(trial.worker or "")
        width = (stop - start) / unit
        axes.barh(
            row, width, left=start / unit, height=0.7, label=label, fc=(color, 0.35), ec=color, hatch=hatch
        )
        if len(spans) <= MOST_NUMBERED:
            bold = "bold" if trial.best else "normal"
            middle = (start + stop) / 2 / unit
            axes.text(middle, row, str(trial.number), ha="center", va="center", fontsize=7, fontweight=bold)
    axes.set_yticks(range(len(workers)), [lettered(_short(name)) or "worker" for name in workers])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _short(worker: str) -> str:
    """Its number, which in a cluster stands behind the job's uid; or the end of a long name."""
    job, _, number = worker.rpartition("/")
    name = f"worker {number}" if job else worker
    return name if len(name) <= NAME_LETTERS else f"...{name[3 - NAME_LETTERS :]}"


def _told(
    spans: Sequence[Span],
    workers: Sequence[str],
    end: float,
    best: Sequence[tuple[float, float]],
    goal: Measure | None,
) -> str:
    count = f"{len(spans)} {'points' if len(spans) > 1 else 'point'}"
    by = f"{len(workers)} workers" if len(workers) > 1 else "one worker"
    said = f"{count} in {end:,.0f} seconds by {by}."
    if best and goal is not None:
        when, value = best[-1]
        said += f" The best {goal.name}, {goal.write(value)}, was found after {when:,.0f} seconds."
    return said
