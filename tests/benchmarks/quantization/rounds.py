"""The rounds of a benchmark: every case once, one after another, and again, so that a busy machine hits all alike."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.quantization.cases import HERE, Case
from tests.benchmarks.quantization.process import Outcome, run
from tests.support.environments import EnvironmentMissingError, chosen_interpreter

RUNNERS = Path(__file__).parent / "runners"
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Request:
    """What every case gets; see runners/runner_protocol.py."""

    model: str
    tokens: str
    bits: int
    group_size: int
    sym: bool
    damp_percent: float
    true_sequential: bool
    threads: int
    device: str
    batch_tokens: int = BATCH_TOKENS


def python_of(environment: str) -> Path:
    """The interpreter that an engine runs in; made from its lock when it is missing."""
    return Path(sys.executable) if environment == HERE else chosen_interpreter(environment)


def run_rounds(
    cases: Sequence[Case],
    request: Request,
    rounds: int,
    limit: float,
    folder: Path,
    say: Callable[[str], None],
) -> dict[str, list[Outcome]]:
    """Outcomes by the case's name, one for each round; a case that failed is not run again.

    Each case's last result stays in FOLDER/NAME, its log in FOLDER/NAME.log.
    """
    found: dict[str, list[Outcome]] = {case.name: [] for case in cases}
    for number in range(rounds):
        for case in cases:
            outcomes = found[case.name]
            if outcomes and outcomes[-1].reason:
                continue
            outcomes.append(run_case(case, request, limit, folder))
            last = outcomes[-1]
            words = (
                last.reason or f"{last.seconds['quantize']:.2f} s, CPU {last.cpu_seconds['quantize']:.2f} s"
            )
            say(f"round {number + 1} of {rounds}, {case.name}: {words}")
    return found


def run_case(case: Case, request: Request, limit: float, folder: Path) -> Outcome:
    """One run; an environment that cannot be made is an outcome with its reason."""
    try:
        python = python_of(case.engine.environment)
    except EnvironmentMissingError as error:
        return Outcome(reason=f"its environment cannot be made: {error}")
    output, file = folder / case.name, folder / f"{case.name}.json"
    shutil.rmtree(output, ignore_errors=True)
    dtype = "float32" if request.device == "cpu" else case.engine.gpu_dtype
    words = {**asdict(request), "method": case.method, "dtype": dtype, "output": str(output)}
    file.write_text(json.dumps(words))
    log = folder / f"{case.name}.log"
    return run(python, RUNNERS / case.engine.runner, file, log, environment(request), limit)


def environment(request: Request) -> dict[str, str]:
    """Offline, with the same threads for everyone, and without a GPU when the CPU is measured.

    Threads that wait sleep: with libgomp's default they spin, and on a busy machine one engine then pays for the
    others' time slices, and the CPU time says nothing.
    """
    words = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(request.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GPTQMODEL_CPU_WORKERS": str(request.threads),
    }
    return words | ({"CUDA_VISIBLE_DEVICES": ""} if request.device == "cpu" else {})
