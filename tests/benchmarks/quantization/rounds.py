"""The rounds of a benchmark: every case once, one after another, and again, so that a busy machine hits all alike."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.quantization.cases import HERE, Case
from tests.benchmarks.quantization.judge import Verdict
from tests.benchmarks.quantization.process import Outcome, run
from tests.support.environments import EnvironmentMissingError, chosen_interpreter

RUNNERS = Path(__file__).parent / "runners"
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Request:
    """What every case gets; see runners/runner_protocol.py. tokens: the file of a round's calibration sequences.

    calibration_dtype: of native's GPTQ; the peers run the model as it is loaded.
    """

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
    calibration_dtype: str = "auto"


def python_of(environment: str) -> Path:
    """The interpreter that an engine runs in; made from its lock when it is missing."""
    return Path(sys.executable) if environment == HERE else chosen_interpreter(environment)


def run_rounds(
    cases: Sequence[Case],
    requests: Sequence[Request],
    limit: float,
    folder: Path,
    judge: Callable[[Path], Verdict],
    say: Callable[[str], None],
) -> tuple[dict[str, list[Outcome]], dict[str, list[Verdict]]]:
    """Outcomes and verdicts by the case's name, one for each round; a case that failed is not run again.

    requests: one for each round. judge: looks at a result, in FOLDER/NAME, when all cases of the round have run.
    """
    found: dict[str, list[Outcome]] = {case.name: [] for case in cases}
    verdicts: dict[str, list[Verdict]] = {case.name: [] for case in cases}
    for number, request in enumerate(requests, start=1):
        left = [case for case in cases if not found[case.name] or not found[case.name][-1].reason]
        for case in left:
            last = run_case(case, request, limit, folder)
            found[case.name].append(last)
            words = (
                last.reason or f"{last.seconds['quantize']:.2f} s, CPU {last.cpu_seconds['quantize']:.2f} s"
            )
            say(f"round {number} of {len(requests)}, {case.name}: {words}")
        for case in left:
            if not found[case.name][-1].reason:
                verdicts[case.name].append(judge(folder / case.name))
    return found, verdicts


def run_case(case: Case, request: Request, limit: float, folder: Path) -> Outcome:
    """One run; an environment that cannot be made is an outcome with its reason."""
    try:
        python = python_of(case.engine.environment)
    except EnvironmentMissingError as error:
        return Outcome(reason=f"its environment cannot be made: {error}")
    output, file = folder / case.name, folder / f"{case.name}.json"
    shutil.rmtree(output, ignore_errors=True)
    dtype = "float32" if request.device == "cpu" else case.engine.gpu_dtype
    words = {
        **asdict(request),
        "method": case.method,
        "dtype": dtype,
        "output": str(output),
        "refine": case.engine.refine,
    }
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
