"""What a server is given, and what becomes of its times."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.engine import CPU, STORIES

from quantization_api.metrics import Metric
from quantizer.checkpoint.source import DirectorySource
from quantizer.evaluation.serving.child import Served, Server
from quantizer.evaluation.serving.figures import Shape, Timing
from quantizer.evaluation.serving.software import Pythons
from quantizer.run import serving
from quantizer.run.serving import Machine, Model

pytestmark = pytest.mark.unit

METRICS = [
    Metric(name="next", type="latency"),
    Metric(name="eight", type="throughput", batch_size=8),
    Metric(name="size", type="size_on_disk"),
]
GIVEN = {"config.json", "model.safetensors", "tokenizer.json"}


class Fake:
    """Servers that note what they are asked for, and are faster each time."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, set[str], list[Shape]]] = []

    def __call__(self, server: Server, model: Path, shapes: Sequence[Shape], what: str) -> Served:
        names = {path.name for path in model.iterdir()}
        self.asked.append((server.software, server.device, what, names, list(shapes)))
        seconds = [0.1 / len(self.asked)] * 6
        timing = Timing(seconds, seconds, 7)
        return Served(dict.fromkeys(shapes, timing), f"{server.software} 1", "abacus")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    server = Fake()
    monkeypatch.setattr(serving, "serve", server)
    return server


def model(folder: Path | None = None, *, on_cpu: bool = False) -> Model:
    return Model(DirectorySource(STORIES), ("model.safetensors",), folder, on_cpu)


def test_a_model_in_a_store_is_copied_for_its_server_and_the_copy_is_removed(
    fake: Fake, tmp_path: Path
) -> None:
    machine = Machine(CPU, Pythons(), tmp_path, lambda: None)
    software = {"next": "transformers", "eight": "transformers"}
    found = serving.measure(METRICS, software, model(), {"transformers": model()}, machine)
    assert [one[2] for one in fake.asked] == ["the input model", "the result"]
    for _, _, _, names, shapes in fake.asked:
        assert names >= GIVEN
        assert shapes == [Shape(128, 32, 1), Shape(128, 32, 8)]
    assert not list(tmp_path.iterdir())
    assert set(found) == {"next", "eight"}
    assert (found["next"].input, found["next"].output) == pytest.approx((100, 50))
    assert (found["eight"].input, found["eight"].output) == pytest.approx((80, 160))
    assert found["next"].measured_with == "transformers 1 on abacus"


def test_beside_a_graph_the_input_model_is_served_by_transformers_on_the_same_device(
    fake: Fake, tmp_path: Path
) -> None:
    machine = Machine(CPU, Pythons(), tmp_path, lambda: None)
    graph = model(STORIES, on_cpu=True)
    found = serving.measure(
        METRICS[:1], {"next": "onnxruntime"}, model(STORIES), {"onnxruntime": graph}, machine
    )
    assert [one[:2] for one in fake.asked] == [("transformers", "cpu"), ("onnxruntime", "cpu")]
    assert found["next"].measured_with == "onnxruntime 1 on abacus; the input model in transformers 1"
