"""How well a run tells when it will end: `python tests/benchmarks/time_to_the_end.py [JOB.yaml]`.

Runs a job on this machine, asks its /progress as the operator does, and prints the error of the time to the end at
25, 50 and 75 % of the run. Exit code 1 when one is beyond 20 % of what was really left and beyond 2 s: so little
nobody can see, in whole seconds of a status that is written every 5 s at most.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy/examples/gptq-stories15m-local.yaml"
POLL_SECONDS = 0.1
LIMIT = 0.2
FLOOR_SECONDS = 2.0
QUARTERS = (25, 50, 75)


@dataclass(frozen=True)
class Told:
    """What a run said of itself, at a time in seconds."""

    time: float
    stage: str
    percent: int
    eta: float | None


def record(job: Path, *options: str) -> list[Told]:
    """Run a job and ask it again and again; the last entry is its end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "quantizer", "run", "-f", str(job), "--listen", f"127.0.0.1:{port}"]
    told: list[Told] = []
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            now = time.monotonic()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=5) as answer:
                    said = json.load(answer)
                told.append(Told(now, said["stage"], said["percent"], said.get("etaSeconds")))
            except (urllib.error.URLError, OSError):
                pass  # not yet, or no more
            time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"the run ended with exit code {process.returncode}")
    return told


@dataclass(frozen=True)
class Verdict:
    """At a percent of the run: the seconds that were told, None for none, and those that were really left."""

    percent: int
    told: float | None
    left: float

    @property
    def good(self) -> bool:
        """Near enough."""
        return self.told is not None and abs(self.told - self.left) <= max(LIMIT * self.left, FLOOR_SECONDS)

    def __str__(self) -> str:
        if self.told is None:
            return f"at {self.percent} %: nothing was told, {self.left:.1f} s were left"
        error = f"{self.told - self.left:+.1f} s, {(self.told - self.left) / self.left:+.0%}"
        return f"at {self.percent} %: told {self.told:g} s, {self.left:.1f} s were left ({error})"


def verdicts(told: list[Told]) -> list[Verdict]:
    """One for each quarter of the run."""
    begin, end = told[0].time, told[-1].time
    result = []
    for percent in QUARTERS:
        moment = begin + (end - begin) * percent / 100
        at = next(item for item in told if item.time >= moment)
        result.append(Verdict(percent, at.eta, end - at.time))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", nargs="?", type=Path, default=EXAMPLE)
    parser.add_argument("--trace", action="store_true", help="print every answer")
    options = parser.parse_args()
    body = yaml.safe_load(options.job.read_text())
    with tempfile.TemporaryDirectory() as folder:
        body["spec"]["output"] = {"uri": f"file://{folder}/artifact"}
        for config in [
            body["spec"]["workflow"]["input_model"],
            *(item["load_dataset_config"] for item in body["spec"]["workflow"]["data_configs"]),
        ]:
            for key in ("model_path", "data_name"):
                if config.get(key, "").startswith("."):
                    config[key] = str((options.job.parent / config[key]).resolve())
        job = Path(folder) / "job.yaml"
        job.write_text(yaml.safe_dump(body))
        told = record(job)
    end = told[-1].time
    if options.trace:
        for item in told:
            print(
                f"{item.time - told[0].time:7.1f} s {item.stage:9} {item.percent:3} % "
                f"told {item.eta} left {end - item.time:.1f}"
            )
    print(f"{options.job.name}: {end - told[0].time:.1f} s")
    found = verdicts(told)
    for verdict in found:
        print(verdict if verdict.good else f"{verdict}: too far off")
    return int(not all(verdict.good for verdict in found))


if __name__ == "__main__":
    sys.exit(main())
