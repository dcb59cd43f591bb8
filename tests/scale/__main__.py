"""Load on a real API server: python -m tests.scale (see docs/scale.md).

Writes scale.md, scale.json, the pictures and all logs, and prints the page. Ends with 1 when a figure is missed.
"""

import argparse
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.scale import jobset
from tests.scale.load import OPERATOR
from tests.scale.plane import Plane
from tests.scale.report import Report
from tests.scale.scenarios import backlog, burst, churn, clean, life, load, start

ROOT = Path(__file__).parents[2]
GOGC = "800"
"""Of every Go program that is started: by default a third of the API server's time is its garbage collector's, and on
two cores, which all of them and the load share, that is what would be measured."""


def options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs through their whole life; 0: none")
    parser.add_argument(
        "--rate", type=float, default=20, help="of their creation, a second; 0: as fast as it goes"
    )
    parser.add_argument(
        "--burst", type=int, default=1000, help="objects at once, of each controller; 0: none"
    )
    parser.add_argument("--rates", type=float, nargs="*", default=[5, 10, 20, 50, 100], help="of the picture")
    parser.add_argument("--seconds", type=float, default=20, help="of load at each rate of the picture")
    parser.add_argument("--idle", type=float, default=340, help="seconds to watch an operator without work")
    parser.add_argument("--churn", type=int, default=0, help="jobs that come and go")
    parser.add_argument(
        "--churn-limit", type=float, default=7200, help="seconds after which no more of them come"
    )
    parser.add_argument(
        "--no-jobset", dest="jobset", action="store_false", help="without the JobSet controller"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build/scale")
    parser.add_argument("--name", default="scale", help="of the files that are written to it")
    return parser.parse_args(arguments)


def say(words: str) -> None:
    """One line of progress."""
    print(f"{datetime.now():%H:%M:%S} {words}", flush=True)


def facts(load_before: float) -> dict[str, str]:
    """Where and when it was measured, without the machine's name."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    cpu = models[0].partition(":")[2].strip() if models else platform.machine()
    return {
        "machine": f"{os.cpu_count()} x {cpu}, Python {platform.python_version()}",
        "when": f"{datetime.now(UTC):%Y-%m-%d}",
        "load of others": f"{load_before:.1f} processes were running when it began",
    }


def operators_part(plane: Plane, said: argparse.Namespace, report: Report) -> None:
    """Everything that is asked of the operator, but for the churn."""
    with plane.operator() as operator:
        if said.burst:
            say(f"{said.burst} objects at once")
            report.bursts.append(burst(plane, OPERATOR, "burst", said.burst, operator.process.pid))
        if said.jobs:
            say(f"{said.jobs} jobs through their whole life")
            report.life = life(plane, OPERATOR, operator, "life", said.jobs, said.rate)
    if said.idle:
        say("a new operator among them")
        report.start = start(plane, said.idle)
    with plane.operator():
        points = report.points.setdefault(OPERATOR.name, []) if said.rates else []
        for rate in said.rates:
            say(f"{rate:g} objects a second")
            points.append(
                load(
                    plane, OPERATOR, f"rate-{rate:g}".replace(".", "-"), round(rate * said.seconds), rate
                ).point
            )
    say("cleaning up")
    clean(plane, OPERATOR)


def jobsets_part(plane: Plane, said: argparse.Namespace, report: Report) -> None:
    """The same of the JobSet controller: at once, and at each rate."""
    with jobset.running(plane) as controller:
        for number, side in enumerate((jobset.JOBSET, jobset.JOBSET_WITHOUT_SERVICE)):
            if said.burst:
                say(f"{side.name}: {said.burst} objects at once")
                report.bursts.append(burst(plane, side, f"js{number}", said.burst, controller.pid))
        clean(plane, jobset.JOBSET)
        points = report.points.setdefault(jobset.JOBSET.name, []) if said.rates else []
        for rate in said.rates:
            say(f"{jobset.JOBSET.name}: {rate:g} objects a second")
            name = f"jr-{rate:g}".replace(".", "-")
            points.append(load(plane, jobset.JOBSET, name, round(rate * said.seconds), rate).point)
        clean(plane, jobset.JOBSET)


def backlogs_part(plane: Plane, said: argparse.Namespace, report: Report) -> None:
    """Objects that wait for their controller; operator and JobSet early and late: the machine's speed changes."""
    sides = (OPERATOR, jobset.JOBSET, jobset.JOBSET_WITHOUT_SERVICE, jobset.JOBSET, OPERATOR)
    for number, side in enumerate(sides):
        say(f"{side.name}: {said.burst} objects that wait for it")
        controller = plane.operator if side is OPERATOR else lambda: jobset.started(plane)
        report.backlogs.append(backlog(plane, side, f"wait-{number}", said.burst, controller))


def main() -> None:
    """Run what the command line asks for."""
    said = options(sys.argv[1:])
    os.environ.setdefault("GOGC", GOGC)
    report = Report(
        facts(os.getloadavg()[0])
        | {"asked for": " ".join(sys.argv[1:]).replace(f"{ROOT}/", "") or "the whole, as by default"}
    )
    with Plane() as plane:
        try:
            operators_part(plane, said, report)
            if said.jobset and (said.burst or said.rates):
                jobsets_part(plane, said, report)
            if said.jobset and said.burst:
                backlogs_part(plane, said, report)
            if said.churn:
                say(f"{said.churn} jobs come and go")
                with plane.operator() as operator:
                    report.churn = churn(plane, operator, said.churn, said.churn_limit)
        finally:  # what was seen before a failure or an interrupt is not lost
            report.facts["at its end"] = f"{os.getloadavg()[1]:.1f} processes, its own among them"
            print(report.write(said.output, said.name))
            plane.keep_logs(said.output / f"{said.name}-logs")
    say(f"written to {said.output}")
    sys.exit(1 if any(figure.met is False for figure in report.figures()) else 0)


if __name__ == "__main__":
    main()
