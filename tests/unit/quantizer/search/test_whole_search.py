"""Whole searches on a tiny model, from the request to the artifact, by one worker."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import CPU, ignore_progress, save_tiny_reader
from tests.support.quantizer_requests import Ended, Request, run_here
from tests.support.searches import dimension

from quantization_api.failures import Category
from quantization_api.manifest import Manifest
from quantization_api.pod import WORKER_ENV, StorageAccess
from quantizer.cli import parser
from quantizer.evaluation import streamed
from quantizer.run.verification import verify
from quantizer.search import early
from quantizer.search.finish import Finish
from quantizer.search.trials import hex_of
from quantizer.store.obtaining import Obtained

pytestmark = pytest.mark.unit

GRID = [dimension("bits", 2, 4, 8), dimension("group_size", 16, 32)]
PERPLEXITY = {"name": "perplexity", "type": "perplexity", "data_config": "held_out"}
KL = {"name": "kl_divergence", "type": "kl_divergence", "data_config": "held_out"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched") / "model"
    save_tiny_reader(folder)
    return folder


def request(model: Path, out: Path, **options: Any) -> Request:
    """GPTQ in bits and groups; KL, which tells models without sense apart, comes first."""
    values: dict[str, Any] = {
        "pass_options": {"name": "q"},
        "search": {"search_space": GRID, "stop_early": False},
        "metrics": [KL, PERPLEXITY],
        "samples": 4,
        **options,
    }
    return Request(f"file://{out}", model=f"file://{model}", **values)


def artifact(out: Path) -> Manifest:
    return Manifest.model_validate_json((out / "manifest.json").read_bytes())


def searched(model: Path, tmp_path: Path, **options: Any) -> tuple[Ended, Manifest]:
    ended = run_here(request(model, tmp_path / "out", **options), tmp_path / "scratch")
    assert ended.code == 0, ended.log
    return ended, artifact(tmp_path / "out")


def records(trials: Path) -> list[Path]:
    return sorted(path for path in trials.glob("*.json"))


@pytest.fixture(scope="module")
def grid(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    """A search that has ended, and the folder of its output `out`. Tests only read it."""
    folder = tmp_path_factory.mktemp("grid")
    ended, _ = searched(model, folder)
    return ended, folder


def test_a_grid_gives_the_best_point_and_all_trials(grid: tuple[Ended, Path], tmp_path: Path) -> None:
    ended, folder = grid
    manifest = artifact(folder / "out")
    assert [trial.parameters for trial in manifest.trials] == [
        {"q.bits": bits, "q.group_size": size} for bits in (2, 4, 8) for size in (16, 32)
    ]
    assert [trial.state for trial in manifest.trials] == ["Finished"] * 6
    (chosen,) = (trial for trial in manifest.trials if trial.best)
    assert chosen.parameters["q.bits"] == 8
    assert chosen.on_front
    assert chosen.metrics[0].output == min(trial.metrics[0].output or 9 for trial in manifest.trials)
    assert manifest.workflow["passes"][0]["bits"] == 8
    assert manifest.searched is not None
    assert manifest.searched["search_strategy"]["search_space"][0]["parameter"] == "bits"
    assert ended.result.search is not None
    assert (ended.result.search.done, ended.result.search.total) == (6, 6)
    assert ended.result.trials[0].best
    assert ended.result.trials[0].parameters.startswith("q.bits=8,")
    assert ended.result.artifact is not None
    assert ended.result.artifact.reused_from is None
    verify(f"file://{folder}/out", StorageAccess(), CPU, tmp_path, ignore_progress)


def test_the_artifact_is_that_of_the_point_alone(
    model: Path, grid: tuple[Ended, Path], tmp_path: Path
) -> None:
    manifest = artifact(grid[1] / "out")
    chosen = next(trial for trial in manifest.trials if trial.best)
    size = chosen.parameters["q.group_size"]
    alone = Request(
        f"file://{tmp_path}/alone",
        model=f"file://{model}",
        pass_options={"bits": 8, "group_size": size},
        metrics=[KL, PERPLEXITY],
        samples=4,
    )
    assert run_here(alone, tmp_path / "scratch").code == 0
    separate = artifact(tmp_path / "alone")
    assert separate.recipe == chosen.recipe
    assert [item for item in separate.objects if item.key.startswith("model/")] == [
        item for item in manifest.objects if item.key.startswith("model/")
    ]
    assert separate.metrics[:2] == chosen.metrics
    assert separate.metrics == manifest.metrics


def test_only_records_stay_of_the_other_points(grid: tuple[Ended, Path]) -> None:
    trials = grid[1] / "out/.trials"
    assert len(records(trials)) == 6
    assert list(trials.rglob("*.safetensors")) == []


def test_the_same_search_again_is_found(model: Path, grid: tuple[Ended, Path], tmp_path: Path) -> None:
    _, folder = grid
    before = (folder / "out/manifest.json").read_bytes()
    again = run_here(request(model, folder / "out", uid="another"), tmp_path / "scratch")
    assert again.code == 0, again.log
    assert (folder / "out/manifest.json").read_bytes() == before
    assert again.result.artifact is not None
    assert again.result.artifact.reused_from == f"file://{folder}/out"
    assert again.result.trials[0].best


def test_a_worker_that_finds_what_another_one_of_its_job_has_just_published_made_it_too(
    model: Path, grid: tuple[Ended, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(grid[1] / "out", tmp_path / "out")
    published, looks = (
        Finish.published,
        iter([False, True, False]),
    )  # it looks, and claims the output too late

    def look(self: Finish) -> Obtained | None:
        return published(self) if next(looks) else None

    monkeypatch.setattr(Finish, "published", look)
    monkeypatch.setenv(WORKER_ENV, "1")
    ended = run_here(request(model, tmp_path / "out"), tmp_path / "scratch")
    assert ended.code == 0, ended.log
    assert next(looks, None) is None
    assert ended.result.artifact is not None
    assert ended.result.artifact.reused_from is None


def test_a_job_with_another_goal_computes_no_point_again(
    model: Path, grid: tuple[Ended, Path], tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shutil.copytree(grid[1] / "out/.trials", shared)
    goal = {**KL, "goal": {"type": "threshold", "value": 1e-12}}
    asked = request(model, tmp_path / "out", metrics=[goal, PERPLEXITY], trials=f"file://{shared}")
    ended = run_here(asked, tmp_path / "scratch")
    assert ended.result.failure is not None
    assert ended.result.failure.category is Category.QUALITY_GOAL_MISSED
    said = ended.result.failure.message
    assert said.startswith("none of the 6 points of the search meets all goals; nearest: q.bits=8")
    assert "the goal is at most 1e-12" in said
    assert "trial " not in ended.log.replace("trials", "")
    assert not (tmp_path / "out/manifest.json").exists()


def test_jobs_that_share_their_trials_compute_no_point_twice(model: Path, tmp_path: Path) -> None:
    shared = f"file://{tmp_path}/trials"
    first = {"search_space": [dimension("bits", 4, 8)], "stop_early": False}
    searched(model, tmp_path, trials=shared, search=first)
    before = {path.name: path.read_bytes() for path in records(tmp_path / "trials")}
    wider = {
        "search_space": [dimension("bits", 3, 4, 8), dimension("group_size", 32)],
        "stop_early": False,
    }
    other = request(model, tmp_path / "other", trials=shared, uid="other", search=wider)
    ended = run_here(other, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    after = {path.name: path.read_bytes() for path in records(tmp_path / "trials")}
    assert len(after) == len(before) + 1
    assert {name: after[name] for name in before} == before
    assert {trial.worker for trial in artifact(tmp_path / "other").trials} == {"5d3a", "other"}


@pytest.mark.nightly
def test_the_models_of_the_front_are_kept_where_that_is_asked(model: Path, tmp_path: Path) -> None:
    strategy = {"search_space": GRID[:1], "keep": "front", "stop_early": False}
    _, manifest = searched(model, tmp_path, search=strategy)
    kept = [trial for trial in manifest.trials if trial.model is not None]
    assert [trial.number for trial in kept] == [trial.number for trial in manifest.trials if trial.on_front]
    assert len(kept) > 1
    listed = {item.key for item in manifest.objects}
    for trial in kept:
        assert trial.model is not None
        assert f"{trial.model}model.safetensors" in listed
        assert (tmp_path / "out" / trial.model / "config.json").exists()
    best = next(trial for trial in kept if trial.best)
    assert best.model == "model/"
    assert manifest.model_bytes() == best.size_bytes
    verify(f"file://{tmp_path}/out", StorageAccess(), CPU, tmp_path, ignore_progress)


def test_values_that_do_not_fit_the_model_are_refused_trials(model: Path, tmp_path: Path) -> None:
    strategy = {"search_space": [dimension("group_size", 16, 48)]}
    _, manifest = searched(model, tmp_path, search=strategy)
    states = {trial.parameters["q.group_size"]: trial for trial in manifest.trials}
    assert states[16].best
    assert states[48].state == "Refused"
    assert "group_size 48 does not divide" in states[48].said


def test_alternatives_are_compared_pass_by_pass(model: Path, tmp_path: Path) -> None:
    gptq = {
        "name": "gptq",
        "type": "GptqQuantizer",
        "data_config": "calibration",
        "group_size": 16,
        "bits": 8,
    }
    rtn = {"name": "rtn", "type": "QuaRot", "rotate": False, "w_rtn": True, "w_bits": 4}
    strategy = {
        "execution_order": "pass-by-pass",
        "chains": [["gptq"], ["rtn"]],
        "search_space": [dimension("bits", 4, 8, of="gptq"), dimension("w_bits", 4, 8, of="rtn")],
    }
    _, manifest = searched(model, tmp_path, passes=[gptq, rtn], search=strategy)
    assert [trial.parameters for trial in manifest.trials] == [
        {"passes": "gptq"},
        {"passes": "rtn"},
        {"passes": "gptq", "gptq.bits": 4},
    ]  # 8 bits were tried as they were written
    assert manifest.trials[0].best


@pytest.mark.nightly
def test_tpe_tries_as_many_points_as_asked_and_each_once(model: Path, tmp_path: Path) -> None:
    strategy = {"search_space": GRID, "sampler": "tpe", "max_samples": 3, "seed": 2}
    _, manifest = searched(model, tmp_path, search=strategy)
    assert [trial.number for trial in manifest.trials] == [0, 1, 2]
    assert len({json.dumps(trial.parameters) for trial in manifest.trials}) == 3
    assert manifest.versions["optuna"] == version("optuna")


def test_removing_the_artifact_removes_its_points_too(grid: tuple[Ended, Path], tmp_path: Path) -> None:
    shutil.copytree(grid[1] / "out", tmp_path / "out")
    assert parser.main(["delete", f"file://{tmp_path}/out"]) == 0
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


@pytest.mark.nightly
def test_giving_points_up_early_leaves_the_front_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "FACTOR", 2.5)  # the settings of so small a model do not differ by more
    save_tiny_reader(tmp_path / "model", num_hidden_layers=4)
    grid = [dimension("damp_percent", "0.01", "0.99"), dimension("sym", "false", "true")]
    fronts = []
    for stop_early in (False, True):
        folder = tmp_path / str(stop_early)
        strategy = {"search_space": grid, "stop_early": stop_early}
        options = {"name": "q", "desc_act": True, "refine": "none"}
        _, manifest = searched(
            tmp_path / "model", folder, search=strategy, metrics=[KL], pass_options=options
        )
        fronts.append([(trial.parameters, trial.metrics) for trial in manifest.trials if trial.on_front])
    assert fronts[0] == fronts[1]
    (stopped,) = (trial for trial in manifest.trials if trial.state == "Stopped")
    assert "after 2 of 4 layers" in stopped.said
    assert stopped.recipe is not None
    assert not list((tmp_path / "True/out/.trials").glob(f"{hex_of(stopped.recipe)}/**/*.*"))


def test_a_model_that_was_not_kept_is_computed_again_and_published(
    model: Path, grid: tuple[Ended, Path], tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shutil.copytree(grid[1] / "out/.trials", shared)  # records only
    asked = request(model, tmp_path / "out", trials=f"file://{shared}", uid="another")
    ended = run_here(asked, tmp_path / "scratch")
    assert ended.code == 0, ended.log
    assert ended.log.count("again: its model was not kept") == 1
    again, before = artifact(tmp_path / "out"), artifact(grid[1] / "out")
    assert again.trials == before.trials
    assert [item for item in again.objects if item.key.startswith("model/")] == [
        item for item in before.objects if item.key.startswith("model/")
    ]


@pytest.mark.nightly
def test_rtn_is_measured_once_for_points_with_the_same_bits_and_groups(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Counted(streamed.RtnView):
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)
            super().__init__(*arguments)

    space = [dimension("bits", 3, 4), dimension("damp_percent", "0.01", "0.1")]
    options = {"name": "q", "group_size": 16}
    monkeypatch.setattr(streamed, "RtnView", Counted)
    search = {"search_space": space, "stop_early": False}
    _, found = searched(model, tmp_path, search=search, pass_options=options)
    assert len(found.trials) == 4
    assert "optuna" not in found.versions
    assert len(made) == 2
    chosen = {key.removeprefix("q."): value for key, value in _best(found).items()}
    alone = request(model, tmp_path / "alone", search=None, pass_options={**options, **chosen})
    assert run_here(alone, tmp_path / "scratch").code == 0
    assert len(made) == 3
    assert found.metrics == artifact(tmp_path / "alone").metrics


def _best(manifest: Manifest) -> dict[str, Any]:
    return next(dict(trial.parameters) for trial in manifest.trials if trial.best)
