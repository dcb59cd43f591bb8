"""The server's process: its times come back, its failures have names, and it never outlives the run."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quantization_api.failures import Category, QuantizationError
from quantizer.evaluation.serving import child
from quantizer.evaluation.serving.child import Server, serve
from quantizer.evaluation.serving.figures import Shape, Timing
from quantizer.evaluation.serving.software import Pythons

pytestmark = pytest.mark.unit

SHAPES = [Shape(8, 4, 2), Shape(8, 1, 1)]
ANSWER = """
import json, sys
asked = json.load(open(sys.argv[1]))
one = lambda shape: {"first": [shape[0]], "each": [shape[1]], "peak": shape[2]}
json.dump({"software": "fake 1", "device": "abacus", "shapes": list(map(one, asked["shapes"]))}, open(sys.argv[2], "w"))
"""


def server(folder: Path, stop: Callable[[], None] = lambda: None, limit: float = 60) -> Server:
    return Server("transformers", "cpu", 1, Pythons(), folder, stop, limit)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts another program in the place of the real one."""

    def put(text: str) -> None:
        path = tmp_path / "program.py"
        path.write_text(text)
        monkeypatch.setattr(child, "PROGRAM", path)

    return put


def test_every_shape_gets_its_own_times(runs: Callable[[str], None], tmp_path: Path) -> None:
    runs(ANSWER)
    served = serve(server(tmp_path), tmp_path, SHAPES, "the result")
    assert served.timings == {SHAPES[0]: Timing([8], [4], 2), SHAPES[1]: Timing([8], [1], 1)}
    assert (served.software, served.device) == ("fake 1", "abacus")
    assert not (tmp_path / "serving").exists()


FAILURES = [
    ("memory", "raise MemoryError('no more')", Category.HOST_OUT_OF_MEMORY, "did not have the memory"),
    (
        "killed",
        "import os; os.kill(os.getpid(), 9)",
        Category.HOST_OUT_OF_MEMORY,
        "the result, which it loads",
    ),
    ("GPU", "raise RuntimeError('CUDA out of memory. Tried')", Category.GPU_OUT_OF_MEMORY, "memory to serve"),
    ("error", "raise ValueError('no such layer')", Category.MODEL_UNSUPPORTED, "ValueError: no such layer"),
    ("silence", "pass", Category.MODEL_UNSUPPORTED, "(exit 0): it said nothing"),
]


@pytest.mark.parametrize(
    ("text", "category", "said"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES]
)
def test_a_failure_has_its_category_and_the_servers_last_words(
    text: str, category: Category, said: str, runs: Callable[[str], None], tmp_path: Path
) -> None:
    runs(text)
    with pytest.raises(QuantizationError) as error:
        serve(server(tmp_path), tmp_path, SHAPES, "the result")
    assert error.value.category is category
    assert said in error.value.message


SLEEPS = """
import os, subprocess, sys, time
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({path!r}, "w").write(f"{{os.getpid()}} {{inner.pid}}")
time.sleep(600)
"""


def _gone(pids: list[int]) -> bool:
    for _ in range(100):
        if not any(
            Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()
            for pid in pids
        ):
            return True
        time.sleep(0.05)
    return False


class StoppedError(Exception):
    """The run is to end."""


def test_a_stop_ends_the_server_and_its_children(runs: Callable[[str], None], tmp_path: Path) -> None:
    told = tmp_path / "pids"
    runs(SLEEPS.format(path=str(told)))

    def stop() -> None:
        if told.exists() and told.read_text().count(" "):
            raise StoppedError

    with pytest.raises(StoppedError):
        serve(server(tmp_path, stop), tmp_path, SHAPES, "the result")
    assert _gone([int(pid) for pid in told.read_text().split()])


def test_a_server_that_takes_too_long_is_ended(runs: Callable[[str], None], tmp_path: Path) -> None:
    runs("import time; time.sleep(600)")
    with pytest.raises(QuantizationError, match="did not finish with the result within 1 s") as error:
        serve(server(tmp_path, limit=1), tmp_path, SHAPES, "the result")
    assert "Lower prompt_tokens" in error.value.hint


@pytest.mark.nightly
def test_the_real_program_times_a_real_model_in_transformers(tmp_path: Path) -> None:
    model = Path(__file__).parents[5] / "deploy/examples/stories15m"
    shape = Shape(4, 3, 2)
    served = serve(server(tmp_path), model, [shape], "the input model")
    timing = served.timings[shape]
    assert len(timing.first) == len(timing.each) >= 6
    assert 0 < min(timing.each) < min(timing.first) + 1
    assert timing.peak_bytes > model.joinpath("model.safetensors").stat().st_size
    assert served.software.startswith("transformers ")
    assert served.device.startswith("cpu: ")
