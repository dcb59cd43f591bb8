"""A run that is judged by tasks of lm-eval: figures in the manifest, files in the recipe, what cannot be measured."""

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import EXAMPLES, save_tiny_reader
from tests.support.quantizer_requests import Ended, Request, run_here

from quantization_api.failures import Category
from quantization_api.manifest import MANIFEST_NAME, Manifest

pytestmark = pytest.mark.unit

ROUNDING = {"type": "QuaRot", "rotate": False, "input_model_dtype": "fp32", "w_bits": 3, "w_rtn": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose logits follow every weight."""
    folder = tmp_path_factory.mktemp("model")
    save_tiny_reader(folder, initializer_range=0.2, max_position_embeddings=512)
    return folder


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A copy of the example's tasks."""
    return Path(shutil.copytree(EXAMPLES / "tasks", tmp_path / "tasks"))


def measured(model: Path, folder: Path, *metrics: dict[str, Any]) -> tuple[Ended, Manifest | None]:
    """A run with these metrics, into a folder."""
    request = Request(
        f"file://{folder / 'out'}", f"file://{model}", layer_pass=ROUNDING, metrics=list(metrics)
    )
    ended = run_here(request, folder / "scratch")
    place = folder / "out" / MANIFEST_NAME
    return ended, Manifest.model_validate_json(place.read_text()) if place.exists() else None


def accuracy(tasks: Path, *names: str, **fields: Any) -> dict[str, Any]:
    """A metric of tasks."""
    return {
        "name": "tasks",
        "type": "accuracy",
        "tasks": list(names),
        "tasks_from": f"file://{tasks}",
        **fields,
    }


def test_both_models_are_measured_with_an_interval(model: Path, tasks: Path, tmp_path: Path) -> None:
    texts = {"name": "words", "metric": "bits_per_byte"}
    ended, manifest = measured(
        model,
        tmp_path,
        accuracy(tasks, "stories_next", "stories_last_word", limit=12),
        accuracy(tasks, "stories_text", limit=12, **texts),
    )
    assert manifest is not None, ended.log
    chosen, words = manifest.metrics
    for found in (chosen, words):
        assert found.input is not None
        assert found.output is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.output <= found.high
    assert words.input != words.output
    assert manifest.versions["lm-eval"] == version("lm-eval")
    assert f"({words.low:.3f} to {words.high:.3f})" in (tmp_path / "out/README.md").read_text()


def test_what_a_model_writes_is_judged(model: Path, tasks: Path, tmp_path: Path) -> None:
    ended, manifest = measured(
        model, tmp_path, accuracy(tasks, "stories_write", metric="exact_match", limit=4)
    )
    assert manifest is not None, ended.log
    assert manifest.metrics[0].output is not None


@pytest.mark.nightly
def test_a_task_that_changes_makes_another_recipe(model: Path, tasks: Path, tmp_path: Path) -> None:
    metric = accuracy(tasks, "stories_next", limit=2)
    _, first = measured(model, tmp_path / "first", metric)
    with (tasks / "stories_next.yaml").open("a") as file:
        file.write("# changed\n")
    _, second = measured(model, tmp_path / "second", metric)
    assert first is not None
    assert second is not None
    assert first.recipe != second.recipe


def test_a_task_that_is_not_there_ends_before_anything_is_computed(
    model: Path, tasks: Path, tmp_path: Path
) -> None:
    ended, manifest = measured(model, tmp_path, accuracy(tasks, "stories_nxt"))
    assert manifest is None
    assert ended.result.failure is not None
    assert ended.result.failure.category is Category.DATA_NOT_FOUND
    assert "did you mean stories_next" in ended.result.failure.message


@pytest.mark.nightly
def test_a_search_is_judged_by_tasks(model: Path, tasks: Path, tmp_path: Path) -> None:
    metric = accuracy(tasks, "stories_text", limit=6, name="words", metric="bits_per_byte")
    metric["goal"] = {"type": "max-degradation", "value": 50}
    request = Request(
        f"file://{tmp_path / 'out'}",
        f"file://{model}",
        layer_pass={**ROUNDING, "name": "q"},
        metrics=[metric],
        search={"search_space": [{"pass": "q", "parameter": "w_bits", "values": [3, 8]}]},
    )
    ended = run_here(request, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    manifest = Manifest.model_validate_json((tmp_path / "out" / MANIFEST_NAME).read_bytes())
    assert [trial.state for trial in manifest.trials] == ["Finished", "Finished"]
    few, many = (trial.metrics[0] for trial in manifest.trials)
    assert few.output != many.output
    assert few.input == many.input
