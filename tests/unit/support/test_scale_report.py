"""The scale report says yes only to what was asked at the size that the bar is meant for."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from tests.scale.load import OPERATOR
from tests.scale.measures import Latency, Point, Slice
from tests.scale.report import AT_ONCE, CHURN, JOBS, Report
from tests.scale.scenarios import Backlog, Burst, Life, Start

pytestmark = pytest.mark.unit

SOON = Latency(JOBS, 0, 0.01, 0.1)
LIFE = Life(JOBS, JOBS, JOBS, Point(20, 20, SOON, SOON), SOON, 150, 0.5, 8, 4)
START = Start(JOBS, 5, 150, 0.005, 340)
BURSTS = [Burst("own", AT_ONCE, 600, {}), Burst("JobSet", AT_ONCE, 100, {})]
BACKLOGS = [
    Backlog(OPERATOR.name, AT_ONCE, 110),
    Backlog("JobSet", AT_ONCE, 19),
    Backlog("JobSet without its Service", AT_ONCE, 20),
    Backlog("JobSet", AT_ONCE, 16),
    Backlog(OPERATOR.name, AT_ONCE, 90),
]


def churned(jobs: int, growth: float = 0.0) -> list[tuple[float, int, float]]:
    """Samples of so many jobs come and gone, after which so many MB more are held."""
    return [(float(n), jobs * n // 100, 100.0 + growth * n / 50) for n in range(101)]


WHOLE = Report({}, BURSTS, LIFE, START, {}, BACKLOGS, churned(CHURN))


def verdicts(report: Report) -> dict[str, str]:
    """By the first words of a figure's name."""
    return {figure.name: figure.verdict for figure in report.figures() if figure.bar}


def page_says(report: Report, words: str) -> list[str]:
    return [line for line in report.markdown("scale").splitlines() if words in line]


def test_the_whole_is_judged() -> None:
    assert set(verdicts(WHOLE).values()) == {"yes"}
    assert len(verdicts(WHOLE)) == 13
    assert page_says(WHOLE, "pods made meanwhile | 100 /s (110, 90) |")
    assert page_says(WHOLE, "pods made meanwhile | 5 x | at least 5 x | yes |")
    assert page_says(WHOLE, "| JobSet: the same | 19, 16 /s |")
    assert page_says(WHOLE, "| beside JobSet as it comes, the same | 5.26 x |  |  |")


SMALLER: dict[str, tuple[Report, dict[str, str]]] = {
    "fewer come and go": (
        replace(WHOLE, churn=churned(200)),
        {"growth of memory": "not judged: 200 of 100,000 jobs"},
    ),
    "the time was over before all had come": (
        replace(WHOLE, churn=churned(99_999)),
        {"growth of memory": "not judged: 99,999 of 100,000 jobs"},
    ),
    "fewer lives": (
        replace(WHOLE, life=replace(LIFE, count=100, succeeded=100, jobs_made=100)),
        {
            "100 jobs through": "not judged: 100 of 10,000 jobs",
            "create request to Job": "not judged: 100 of 10,000 jobs",
            "end of the Job": "not judged: 100 of 10,000 jobs",
            "resident memory, peak": "not judged: 100 of 10,000 jobs",
        },
    ),
    "slower": (
        replace(WHOLE, life=replace(LIFE, point=replace(LIFE.point, rate=5))),
        {
            "10000 jobs through": "not judged: 5 of 20 a second",
            "create request to Job": "not judged: 5 of 20 a second",
            "end of the Job": "not judged: 5 of 20 a second",
        },
    ),
    "started among fewer": (
        replace(WHOLE, start=replace(START, known=200)),
        {
            "ready after start": "not judged: 200 of 10,000 jobs",
            "resident memory after": "not judged: 200 of 10,000 jobs",
            "CPU when idle": "not judged: 200 of 10,000 jobs",
        },
    ),
    "watched for a moment": (
        replace(WHOLE, start=replace(START, idle_seconds=30)),
        {"CPU when idle": "not judged: 30 of 330 s"},
    ),
    "fewer at once": (
        replace(WHOLE, bursts=[replace(burst, count=100) for burst in BURSTS]),
        {
            "Job creations, 100": "not judged: 100 of 1,000 objects",
            "creation rate beside JobSet's best, no pods": "not judged: 100 of 1,000 objects",
        },
    ),
    "fewer that wait": (
        replace(WHOLE, backlogs=[replace(backlog, count=100) for backlog in BACKLOGS]),
        {"creation rate beside JobSet's best, pods": "not judged: 100 of 1,000 objects"},
    ),
    "nothing": (
        Report({}),
        {
            "Job creations": "not judged: not run",
            "creation rate beside": "not judged: not run",
            "jobs through their": "not judged: not run",
            "an operator that": "not judged: not run",
            "growth of memory": "not judged: not run",
        },
    ),
}


@pytest.mark.parametrize("name", SMALLER)
def test_a_bar_that_holds_at_less_is_not_judged(name: str) -> None:
    report, expected = SMALLER[name]
    for figure, verdict in verdicts(report).items():
        wanted = next((said for begin, said in expected.items() if figure.startswith(begin)), "yes")
        assert verdict == wanted, figure
        assert page_says(report, f"| {verdict} |")
    assert not any(figure.met is False for figure in report.figures())


def test_at_full_speed_is_not_too_slow() -> None:
    report = replace(WHOLE, life=replace(LIFE, point=replace(LIFE.point, rate=0)))
    assert set(verdicts(report).values()) == {"yes"}


@pytest.mark.parametrize(
    ("report", "missed"),
    [
        (replace(WHOLE, churn=churned(200, growth=40)), "growth of memory"),
        (replace(WHOLE, life=replace(LIFE, count=100, succeeded=99, jobs_made=100)), "100 jobs through"),
        (replace(WHOLE, start=replace(START, known=10, ready_seconds=math.nan)), "ready after start"),
        (replace(WHOLE, bursts=[replace(BURSTS[0], count=10, job_rate=50)]), "Job creations, 10"),
        (
            replace(WHOLE, backlogs=[replace(BACKLOGS[0], job_rate=99), *BACKLOGS[1:4]]),
            "creation rate beside JobSet's best, pods",
        ),
    ],
)
def test_a_bar_that_is_missed_is_missed_at_any_size(report: Report, missed: str) -> None:
    assert [name for name, verdict in verdicts(report).items() if verdict == "**no**"] == [
        next(name for name in verdicts(report) if name.startswith(missed))
    ]
    assert any(figure.met is False for figure in report.figures()), "the command ends with 1"


def test_a_report_is_written_with_what_was_not_judged(tmp_path: Path) -> None:
    report = replace(WHOLE, churn=churned(200))
    page = report.write(tmp_path, "scale")
    assert (tmp_path / "scale.md").read_text() == page
    (row,) = [line for line in page.splitlines() if "come and gone (" in line]
    assert row.endswith("| not judged: 200 of 100,000 jobs |")
    figures = json.loads((tmp_path / "scale.json").read_text())["figures"]
    assert figures[-1]["met"] is None
    assert figures[-1]["too_small"] == "200 of 100,000 jobs"


def test_the_course_of_a_load_is_drawn_and_recorded(tmp_path: Path) -> None:
    series = [Slice(5.0 * n, SOON, SOON, n, {"x": 0.5, "y": 1.0}) for n in range(3)]
    page = replace(WHOLE, life=replace(LIFE, series=series)).write(tmp_path, "scale")
    assert "(scale-life.png)" in page
    assert (tmp_path / "scale-life.png").read_bytes().startswith(b"\x89PNG")
    recorded = json.loads((tmp_path / "scale.json").read_text())["life"]["series"]
    assert [piece["waiting"] for piece in recorded] == [0, 1, 2]
    assert "life.png" not in WHOLE.markdown("scale")


def test_a_load_that_was_not_watched_all_the_time_says_so() -> None:
    (row,) = page_says(replace(WHOLE, life=replace(LIFE, gaps=2, jobs_made=JOBS - 1)), "10000 jobs through")
    assert "2 times a watch of the load was cut off" in row
    assert "**no**" in row
