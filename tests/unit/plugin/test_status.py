"""`status`: a line says what a job does, waits for, came to or failed of; watching ends when all have ended."""

import io
from typing import Any

import pytest
from tests.support.recorded_jobs import PHASES, recorded

from kubectl_quantization import shown
from kubectl_quantization.cluster import PluginError
from kubectl_quantization.following import watch
from quantization_api.status import Phase

pytestmark = pytest.mark.unit

SAID = {
    "Pending": "",
    "Running": "quantize, layer 2 of 6, about 90 s left",
    "Succeeded": "s3://artifacts/succeeded",
    "Failed": "ModelNotFound: s3://models/stories15m is empty",
}


def job(phase: Phase, **changes: Any) -> dict[str, Any]:
    """A job as the operator left it."""
    body = recorded(phase)
    body["status"] |= changes
    return body


class Screen(io.StringIO):
    """A terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_has_its_words(phase: Phase) -> None:
    row = shown.Row.of(job(phase))
    assert (row.phase, row.percent) == (phase, {"Running": 40, "Succeeded": 100}.get(phase, 0))
    assert row.words, "nothing is said"
    assert SAID.get(phase, "") in row.words


def test_a_job_that_nobody_has_seen_is_pending() -> None:
    new = {"metadata": {"name": "new", "namespace": "team", "generation": 1}}
    assert shown.Row.of(new) == shown.Row("team", "new", "Pending", 0, "")
    assert not shown.ended(new)


def test_what_a_name_or_a_message_does_to_a_terminal_is_taken_out() -> None:
    row = shown.Row.of(job("Failed", failure={"category": "Internal", "message": "a\x1b]0;owned\x07\nb"}))
    assert row.words == "Internal: a | b"


@pytest.mark.parametrize(("blocks", "bar"), [(True, "████████░░░░░░░░░░░░"), (False, "########............")])
def test_the_bar_is_as_long_as_the_share(blocks: bool, bar: str) -> None:
    (_, line) = shown.lines([shown.Row.of(job("Running"))], namespaces=False, blocks=blocks)
    assert line == f"running   Running   {bar}  40 %   {SAID['Running']}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (3599, "59 min"),
        (3600, "1 h 00 min"),
        (11_100, "3 h 05 min"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: int, text: str) -> None:
    assert shown.duration(seconds) == text


def test_a_failed_job_that_was_corrected_has_not_ended() -> None:
    corrected = job("Failed")
    assert shown.ended(corrected)
    corrected["metadata"]["generation"] += 1
    assert not shown.ended(corrected)


@pytest.mark.parametrize(("last", "code"), [("Succeeded", 0), ("Failed", 1)])
def test_watching_ends_with_the_last_job_and_tells_a_failure(last: Phase, code: int) -> None:
    other = job("Succeeded")
    other["metadata"]["name"] = "other"
    seen = iter([[job("Running"), other], [job(last), other]])
    stream = io.StringIO()
    assert watch(lambda: next(seen), stream=stream, pause=lambda _: None) == code
    first, *others = stream.getvalue().splitlines()
    assert first == f"running  Running  40 %  {SAID['Running']}"
    assert len(others) == 2, "only what changed is told again"


def test_a_terminal_is_drawn_over() -> None:
    seen = iter([[job("Running")], [job("Succeeded")]])
    stream = Screen()
    watch(lambda: next(seen), stream=stream, pause=lambda _: None)
    assert stream.getvalue().count("\x1b[2F\x1b[J") == 1
    assert "█" in stream.getvalue()


def test_more_jobs_than_lines_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("COLUMNS", "40")
    stream = Screen()
    watch(lambda: [job("Succeeded")] * 30, stream=stream, pause=lambda _: None)
    lines = stream.getvalue().splitlines()
    assert lines[-1] == "... and 23 more"
    assert len(lines) == 9
    assert max(map(len, lines)) < 40


def test_a_cluster_that_is_away_for_a_moment_is_waited_for() -> None:
    answers = iter([PluginError("away"), PluginError("away"), [job("Succeeded")]])

    def look() -> list[dict[str, Any]]:
        answer = next(answers)
        if isinstance(answer, PluginError):
            raise answer
        return answer

    assert watch(look, stream=io.StringIO(), pause=lambda _: None) == 0


def test_a_cluster_that_stays_away_and_jobs_that_are_gone_are_told() -> None:
    def away() -> list[dict[str, Any]]:
        raise PluginError("connection refused")

    with pytest.raises(PluginError, match="connection refused"):
        watch(away, stream=io.StringIO(), pause=lambda _: None)
    with pytest.raises(PluginError, match="are gone"):
        watch(list, stream=io.StringIO(), pause=lambda _: None)
