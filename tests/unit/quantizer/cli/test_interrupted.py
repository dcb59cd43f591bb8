"""Ctrl-C and SIGTERM at any moment of any command: one sentence, the exit code, no traceback, and the work is kept."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.support.quantizer_requests import ROOT, Request

from quantization_api.failures import ExitCode
from quantizer.cli.signals import Interrupted, Stopping, Terminated, stopped_by_signals

pytestmark = pytest.mark.unit

SECONDS = 300
Reached = Callable[[int], bool]
"""Process number -> whether it has come to the moment that the signal is for."""


def written(folder: Path, output: Path, samples: int = 8) -> Path:
    document = Request(f"file://{output}", samples=samples, metrics=[]).document()
    path = folder / "job.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "quantization.dev/v1alpha1",
                "kind": "QuantizationJob",
                "metadata": {"name": "job"},
                "spec": {"workflow": document["workflow"], "output": document["output"]},
            }
        )
    )
    return path


def started(*arguments: str) -> subprocess.Popen[str]:
    """A command for which SIGINT is not ignored, as it would be if the tests run in the background of a shell."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "quantizer", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kept,
        cwd=ROOT,
    )


def ended(process: subprocess.Popen[str], reached: Reached, number: signal.Signals) -> tuple[int, str]:
    """The exit code and standard error of a command that gets a signal at a moment."""
    limit = time.monotonic() + SECONDS
    while process.poll() is None and not reached(process.pid):
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(number)
    _, log = process.communicate(timeout=SECONDS)
    return process.returncode, log


def python_runs(pid: int) -> bool:
    """The first libraries are being imported."""
    return maps(pid, "pydantic_core")


def maps(pid: int, name: str) -> bool:
    try:
        return name in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def imports_torch(pid: int) -> bool:
    return maps(pid, "libtorch_cpu")


def kept_layers(output: Path) -> list[Path]:
    return list(output.glob(".state/*/layer-*.json"))


def test_ctrl_c_in_calibration_keeps_the_layers_and_the_next_run_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ("run", "-f", str(written(tmp_path, output, samples=16)), "--device", "cpu")
    code, log = ended(started(*arguments), lambda _: len(kept_layers(output)) >= 2, signal.SIGINT)
    assert code == ExitCode.INTERRUPTED
    assert log.splitlines()[-1] == (
        f"Interrupted. {len(kept_layers(output))} of 6 layers are kept; run the same command to go on."
    )
    assert "Traceback" not in log
    kept = len(kept_layers(output))
    again = started(*arguments)
    _, log = again.communicate(timeout=SECONDS)
    assert again.returncode == ExitCode.DONE, log
    assert f"{kept} of 6 layers were finished by an earlier run" in log


def test_ctrl_c_while_libraries_are_imported_ends_at_once(tmp_path: Path) -> None:
    manifest = written(tmp_path, tmp_path / "out")
    code, log = ended(started("run", "-f", str(manifest)), imports_torch, signal.SIGINT)
    assert code == ExitCode.INTERRUPTED
    assert log == "Interrupted. Nothing is kept; run the same command to begin again.\n"
    assert not (tmp_path / "out").exists()


def test_ctrl_c_while_the_artifact_is_published_ends_with_a_sentence(tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = started("run", "-f", str(written(tmp_path, output)), "--device", "cpu")
    code, log = ended(process, lambda _: any(output.glob(".state/**/README.md")), signal.SIGINT)
    assert code == ExitCode.INTERRUPTED
    assert log.splitlines()[-1].startswith("Interrupted. ")
    assert "Traceback" not in log


@pytest.mark.parametrize(
    "command", ["run", "verify", "inspect", "report", "compare", "delete", "import", "--help"]
)
def test_ctrl_c_at_the_start_of_any_command_shows_no_traceback(command: str, tmp_path: Path) -> None:
    path = written(tmp_path, tmp_path / "out")
    special = {"run": ["-f", str(path)], "compare": [str(path), str(path)], "--help": []}
    arguments = [command, *special.get(command, [str(path)])]
    code, log = ended(started(*arguments), python_runs, signal.SIGINT)
    assert code == ExitCode.INTERRUPTED or (code, command) == (ExitCode.DONE, "--help")
    assert "Traceback" not in log


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_ctrl_c_while_a_command_that_looks_imports_torch(command: str) -> None:
    code, log = ended(started(command, "deploy/examples/stories15m"), imports_torch, signal.SIGINT)
    assert (code, log) == (ExitCode.INTERRUPTED, "Interrupted. Run the same command to begin again.\n")


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, Interrupted)], ids=str
)
def test_a_signal_unwinds_the_main_thread_and_tells_the_others(
    number: signal.Signals, raised: type[Terminated]
) -> None:
    seen: list[Stopping] = []

    def run() -> None:
        with stopped_by_signals(lambda _: None) as stopping:
            seen.append(stopping)
            stopping.unwinds = True
            os.kill(os.getpid(), number)
            time.sleep(10)

    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(raised):
            run()
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    with pytest.raises(raised):
        seen[0].check()


def test_a_signal_that_is_lost_in_a_finalizer_is_not_shown_and_ends_the_run_at_its_next_check(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Finalized:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)

    def run() -> None:
        with stopped_by_signals(lambda _: None) as stopping:
            stopping.unwinds = True
            Finalized()
            stopping.check()

    with pytest.raises(Terminated):
        run()
    assert capsys.readouterr().err == ""


def test_the_second_ctrl_c_does_not_wait() -> None:
    """A process that never comes to its next instruction in Python is ended by the thread that watches."""
    script = """
import os, signal, sys, time
from quantizer.cli.signals import stopped_by_signals
from quantizer.cli.ending import say_and_leave
signal.signal(signal.SIGINT, signal.SIG_DFL)
with stopped_by_signals(lambda cause: say_and_leave("left")) as stopping:
    stopping.unwinds = True
    try:
        print("ready", flush=True)
        time.sleep(100)
    finally:
        time.sleep(100)  # what takes long to tidy up
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=SECONDS)
    assert (process.returncode, log) == (ExitCode.INTERRUPTED, "left\n")
    assert time.monotonic() - began < 5
